/** What `x` shows: units of memory, strings, instructions. */
import { hex, u64 } from '../../emu/address.js';
import type { Context } from './command.js';
import { CommandError } from './command-error.js';
import { type Letter, littleEndian, parseFormat, type Size, stringText, valueAs } from './format.js';
import { bad, dim, hanging, here, type Line, name } from './lines.js';

export interface Examined {
  readonly lines: readonly Line[];
  /** Why there are not more; null when all of it was shown. */
  readonly problem: string | null;
}

/** Longest string that is shown. */
const STRING_MAX = 200;
/** Units in a row, by their size in bytes: 16 bytes, and eight of single ones. */
const PER_ROW: Readonly<Record<Size, number>> = { 1: 8, 2: 8, 4: 4, 8: 2 };

/** Reads and shows memory; moves on what is shown next. Throws a CommandError for an argument that is wrong. */
export function examine(context: Context, argument: string, format: string, physical: boolean): Examined {
  const { state } = context;
  const given = parseFormat(format);
  // What is shown of instructions is not there at physical addresses.
  const letter = given.letter ?? (physical && state.letter === 'i' ? 'x' : state.letter);
  if (physical && letter === 'i')
    throw new CommandError('xp shows no instructions: they are at virtual addresses');
  const start = startOf(context, argument, physical);
  const count = given.count ?? 1;
  state.letter = letter;
  if (given.size !== null) state.size = given.size;
  const size: Size = letter === 'a' ? 8 : letter === 'c' && given.size === null ? 1 : state.size;
  const shown =
    letter === 'i'
      ? instructions(context, start, count)
      : letter === 's'
        ? strings(context, start, count, physical)
        : units(context, start, count, physical, letter, size);
  state.next = { address: u64(shown.next), physical };
  return shown;
}

function startOf(context: Context, argument: string, physical: boolean): bigint {
  if (argument !== '') return context.value(argument).value;
  const { next } = context.state;
  if (next === null || next.physical !== physical)
    throw new CommandError('Argument required (starting display address).');
  return next.address;
}

interface Shown extends Examined {
  readonly next: bigint;
}

function reader({ session }: Context, physical: boolean): (at: bigint, length: number) => Uint8Array {
  if (!physical) return (at, length) => session.readMapped(u64(at), length);
  const { base, size } = session.ram;
  return (at, length) => {
    const end = BigInt(base) + BigInt(size);
    const room = at < BigInt(base) || at >= end ? 0 : Math.min(length, Number(end - at));
    return room === 0 ? new Uint8Array() : (session.readPhysical(Number(at), room) ?? new Uint8Array());
  };
}

function noMemory(at: bigint, physical: boolean): string {
  return physical
    ? `There is no ram at physical address ${hex(u64(at))}`
    : `Cannot access memory at address ${hex(u64(at))}`;
}

function label(context: Context, address: bigint, physical: boolean): string {
  const symbol = physical ? null : context.session.nameOf(address);
  return symbol === null ? `${hex(address)}:` : `${hex(address)} <${symbol}>:`;
}

function units(
  context: Context,
  start: bigint,
  count: number,
  physical: boolean,
  letter: Letter,
  size: Size,
): Shown {
  const nameOf = (address: bigint): string | null => context.session.nameOf(address);
  const bytes = reader(context, physical)(start, count * size);
  const whole = Math.floor(bytes.length / size);
  const texts = Array.from({ length: whole }, (_, i) =>
    valueAs(littleEndian(bytes.subarray(i * size, (i + 1) * size)), letter, size, nameOf),
  );
  const longest = Math.max(0, ...texts.map((text) => text.length));
  const perRow = rowLength(context.columns, letter, size, longest);
  const lines: Line[] = [];
  for (let i = 0; i < whole; i += perRow) {
    const cells = texts.slice(i, i + perRow).map((text) => text.padEnd(longest));
    const at = u64(start + BigInt(i * size));
    lines.push(hanging(4, dim(label(context, at, physical)), '  ', cells.join('  ')));
  }
  const problem = whole < count ? noMemory(start + BigInt(whole * size), physical) : null;
  return { lines, problem, next: start + BigInt(whole * size) };
}

function rowLength(columns: number | null, letter: Letter, size: Size, longest: number): number {
  let perRow = letter === 't' ? Math.max(1, PER_ROW[size] / 4) : PER_ROW[size];
  if (columns === null) return perRow;
  // Behind an address and a name there is about half a row left.
  while (perRow > 1 && perRow * (longest + 2) > Math.max(columns - 40, 24)) perRow /= 2;
  return Math.ceil(perRow);
}

function strings(context: Context, start: bigint, count: number, physical: boolean): Shown {
  const read = reader(context, physical);
  const lines: Line[] = [];
  let at = start;
  for (let i = 0; i < count; i += 1) {
    const bytes = read(at, STRING_MAX);
    if (bytes.length === 0) return { lines, problem: noMemory(at, physical), next: at };
    const end = bytes.indexOf(0);
    const text = end < 0 ? bytes : bytes.subarray(0, end);
    lines.push(
      hanging(4, dim(label(context, u64(at), physical)), '  ', stringText(text), end < 0 ? dim('…') : ''),
    );
    at += BigInt(text.length + (end < 0 ? 0 : 1));
  }
  return { lines, problem: null, next: at };
}

function instructions(context: Context, start: bigint, count: number): Shown {
  const found = context.session.disassemble(start, count);
  const lines = found.map(({ address, text, symbol, current, breakpoint }) =>
    hanging(
      5,
      current ? here('=>') : '  ',
      breakpoint ? bad('B') : ' ',
      dim(hex(address)),
      symbol === null ? ': ' : name(` <${symbol}>: `),
      current ? here(text) : text,
    ),
  );
  const last = found.at(-1);
  const next = last === undefined ? start : last.address + BigInt(last.bytes.length);
  return { lines, problem: found.length < count ? noMemory(next, false) : null, next };
}
