/** Instructions around an address: exactly as many as were asked for, whatever is there. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { u64 } from '../../emu/address.js';
import type { DebugSession } from '../api.js';
import type { InstructionView, SymbolView } from '../views.js';
import { isMapped, parseReference, reference } from './memory-reference.js';
import { RequestError } from './request-error.js';
import type { Arguments } from './requests.js';

/** The most instructions that are shown at once. */
const COUNT_MAX = 20_000;
/** Instructions that are decoded at once. */
const BATCH = 256;
const PAGE = 4096n;

/** A place in the list: an instruction, or what fills it up where there is none. */
interface Slot {
  readonly address: bigint;
  readonly length: bigint;
  readonly content: InstructionView | Filling;
}

/** What is told instead of an instruction. */
type Filling = '(not mapped)' | '(unknown)';

export function disassemble(
  session: DebugSession,
  args: Arguments<'disassemble'>,
): DebugProtocol.DisassembledInstruction[] {
  const { memoryReference, offset, instructionOffset, instructionCount } = args;
  if (instructionCount < 0 || instructionCount > COUNT_MAX || Math.abs(instructionOffset) > COUNT_MAX) {
    throw new RequestError(`disassemble: up to ${COUNT_MAX} instructions can be shown at once`);
  }
  const { address, physical } = parseReference(memoryReference, offset);
  if (physical) throw new RequestError('disassemble: code is shown at virtual addresses');
  const lister = new Lister(session);
  const before = Math.max(0, -instructionOffset);
  const slots =
    instructionOffset < 0
      ? [
          ...lister.before(address, before).slice(0, instructionCount),
          ...lister.from(address, Math.max(0, instructionCount - before)),
        ]
      : lister.from(address, instructionOffset + instructionCount).slice(instructionOffset);
  return slots.map((slot) => shown(slot, args.resolveSymbols ? lister.starts : NO_NAMES));
}

const NO_NAMES: ReadonlyMap<bigint, string> = new Map();

class Lister {
  /** Length of what fills up. */
  readonly #step: bigint;
  readonly #functions: readonly SymbolView[];

  /** Names of functions by where they begin. */
  readonly starts: ReadonlyMap<bigint, string>;

  constructor(readonly session: DebugSession) {
    this.#step = session.arch === 'arm64' ? 4n : 1n;
    this.#functions = session.symbols().filter(({ kind, size }) => kind === 'code' && size > 0);
    this.starts = new Map(this.#functions.map(({ start, name }) => [start, name]));
  }

  /** `count` places from an address on. */
  from(start: bigint, count: number): Slot[] {
    const slots: Slot[] = [];
    let at = start;
    while (slots.length < count) {
      const found = this.session.disassemble(at, Math.min(BATCH, count - slots.length));
      for (const instruction of found) slots.push(slotOf(instruction));
      const last = slots.at(-1);
      if (found.length > 0 && last !== undefined) at = u64(last.address + last.length);
      if (slots.length >= count || isMapped(this.session, at)) {
        if (found.length === 0) at = this.#fill(slots, at, u64(at + this.#step), count, '(unknown)');
        continue;
      }
      at = this.#fill(slots, at, u64((at | (PAGE - 1n)) + 1n), count, '(not mapped)');
    }
    return slots;
  }

  /** Fills up from an address to another one, or until there are enough; returns where it has come to. */
  #fill(slots: Slot[], from: bigint, to: bigint, count: number, content: Filling): bigint {
    let at = from;
    do {
      slots.push({ address: at, length: this.#step, content });
      at = u64(at + this.#step);
    } while (at !== to && slots.length < count);
    return at;
  }

  /** `count` places that end at an address, ascending. */
  before(end: bigint, count: number): Slot[] {
    const slots: Slot[] = [];
    let at = end;
    while (slots.length < count) {
      const fn = this.#functionAt(u64(at - 1n));
      const found = fn === null ? [] : this.#within(fn, at, count - slots.length);
      if (found.length > 0) for (const slot of found.toReversed()) slots.push(slot);
      else slots.push(this.#justBefore(at, fn === null));
      at = slots.at(-1)?.address ?? at;
    }
    return slots.reverse();
  }

  #functionAt(address: bigint): SymbolView | null {
    const found = this.#functions.find(
      ({ start, size }) => address >= start && address < start + BigInt(size),
    );
    return found ?? null;
  }

  /**
   * The shortest place that ends at an address. On x86-64 an instruction of that length is believed only between
   * functions, where int3 fills up.
   */
  #justBefore(end: bigint, between: boolean): Slot {
    const address = u64(end - this.#step);
    const [instruction] = this.#step === 4n || between ? this.session.disassemble(address, 1) : [];
    const slot = instruction === undefined ? null : slotOf(instruction);
    if (slot?.length === this.#step) return slot;
    const content = isMapped(this.session, address) ? '(unknown)' : '(not mapped)';
    return { address, length: this.#step, content };
  }

  /** Instructions of a function: up to `count` of them, the last of which ends at `end`; empty if none does. */
  #within(fn: SymbolView, end: bigint, count: number): Slot[] {
    const slots: Slot[] = [];
    for (let at = fn.start; at < end; ) {
      const found = this.session.disassemble(at, BATCH);
      if (found.length === 0) return [];
      for (const instruction of found) {
        const slot = slotOf(instruction);
        if (slot.address >= end) break;
        // The address is in the middle of an instruction: what is in front of it cannot be listed.
        if (slot.address + slot.length > end) return [];
        slots.push(slot);
      }
      const next = slots.at(-1);
      at = next === undefined ? end : next.address + next.length;
    }
    return slots.slice(-count);
  }
}

function slotOf(instruction: InstructionView): Slot {
  const { address, bytes } = instruction;
  return { address, length: BigInt(Math.max(1, bytes.length)), content: instruction };
}

function shown(
  { address, content }: Slot,
  names: ReadonlyMap<bigint, string>,
): DebugProtocol.DisassembledInstruction {
  if (typeof content === 'string') {
    return { address: reference(address), instruction: content, presentationHint: 'invalid' };
  }
  const { bytes, text, bpf } = content;
  const symbol = names.get(address);
  return {
    address: reference(address),
    instructionBytes: [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(' '),
    instruction: bpf === null ? text : `${text}  ; ${bpf}`,
    ...(symbol === undefined ? {} : { symbol }),
    ...(text.startsWith('(bad)') ? { presentationHint: 'invalid' as const } : {}),
  };
}
