/**
 * The disassembler people see: Capstone, of which only mnemonic and operand text are taken (its operand
 * details are broken in this build, and its addresses come back signed).
 */
import { createRequire } from 'node:module';
import type MCapstoneExport from '@alexaltea/capstone-js';
import type { CapstoneHandle, CapstoneModule } from '@alexaltea/capstone-js';
import { hex, u64 } from './address.js';

type CapstoneFactory = typeof MCapstoneExport;

export type Isa = 'x86-64' | 'arm64';

/** Mnemonic of bytes that are no instruction. */
export const BAD_INSTRUCTION = '(bad)';

export interface DisassembledInstruction {
  /** Unsigned. */
  readonly address: bigint;
  readonly bytes: Uint8Array;
  readonly mnemonic: string;
  /** Intel syntax on x86; addresses are unsigned hexadecimal. Empty where there are none. */
  readonly operands: string;
  /** Where a direct branch goes, or what a pc-relative operand refers to; unsigned, null if neither. */
  readonly target: bigint | null;
}

export interface DisassembleOptions {
  /** Instructions at the most; all by default. */
  readonly count?: number;
  /** Name of an address, e.g. `write_cmask+0x4`, or null. Put behind targets as objdump does: `<name>`. */
  readonly symbolize?: (address: bigint) => string | null;
}

export class Disassembler {
  readonly #capstone: CapstoneModule;
  /** One for each architecture, opened when it is first needed. They live as long as the process. */
  readonly #handles = new Map<Isa, CapstoneHandle>();

  constructor(capstone: CapstoneModule) {
    this.#capstone = capstone;
  }

  /**
   * Disassembles `bytes` as they stand at `address` (unsigned). Bytes that are no instruction come out
   * as BAD_INSTRUCTION, one byte at a time on x86, a word on arm64; less than a word likewise.
   */
  disassemble(
    isa: Isa,
    bytes: Uint8Array,
    address: bigint,
    options: DisassembleOptions = {},
  ): DisassembledInstruction[] {
    const count = options.count ?? Number.POSITIVE_INFINITY;
    const found: DisassembledInstruction[] = [];
    const handle = this.#handle(isa);
    let offset = 0;
    while (offset < bytes.length && found.length < count) {
      const from = u64(address + BigInt(offset));
      const max = Number.isFinite(count) ? count - found.length : 0;
      const rest = bytes.subarray(offset);
      const run = attempt(handle, rest, from, max);
      for (const raw of run) {
        const at = u64(address + BigInt(offset));
        const own = bytes.slice(offset, offset + raw.size);
        found.push(present(isa, at, own, raw.mnemonic, raw.op_str, options.symbolize));
        offset += raw.size;
      }
      if (offset < bytes.length && found.length < count) {
        const step = isa === 'x86-64' ? 1 : 4;
        found.push({
          address: u64(address + BigInt(offset)),
          bytes: bytes.slice(offset, offset + step),
          mnemonic: BAD_INSTRUCTION,
          operands: '',
          target: null,
        });
        offset += step;
      }
    }
    return found;
  }

  #handle(isa: Isa): CapstoneHandle {
    let handle = this.#handles.get(isa);
    if (handle === undefined) {
      handle = this.#open(isa);
      this.#handles.set(isa, handle);
    }
    return handle;
  }

  #open(isa: Isa): CapstoneHandle {
    const { Capstone, ARCH_X86, MODE_64, ARCH_ARM64, MODE_LITTLE_ENDIAN } = this.#capstone;
    switch (isa) {
      case 'x86-64':
        return new Capstone(ARCH_X86, MODE_64);
      case 'arm64':
        return new Capstone(ARCH_ARM64, MODE_LITTLE_ENDIAN);
    }
  }
}

/** One line of text: mnemonic and operands. */
export function instructionText(instruction: DisassembledInstruction): string {
  return instruction.operands === ''
    ? instruction.mnemonic
    : `${instruction.mnemonic} ${instruction.operands}`;
}

// The WebAssembly module is compiled once per process; it holds no state between calls.
let loading: Promise<Disassembler> | null = null;

/**
 * Loads Capstone (about 60 ms the first time, at once later). It is a CommonJS file of 300 KB: `import` would
 * parse it twice, once in search of its exports.
 */
export function loadDisassembler(): Promise<Disassembler> {
  if (loading === null) {
    const MCapstone: CapstoneFactory = createRequire(import.meta.url)('@alexaltea/capstone-js');
    loading = MCapstone().then((capstone) => new Disassembler(capstone));
  }
  return loading;
}

function attempt(handle: CapstoneHandle, bytes: Uint8Array, address: bigint, max: number) {
  try {
    return handle.disasm(bytes, address, max);
  } catch (error) {
    // Thrown as a string when the very first bytes are no instruction.
    if (typeof error === 'string' && error.includes('CS_ERR_OK')) return [];
    throw typeof error === 'string' ? new Error(error) : error;
  }
}

function present(
  isa: Isa,
  address: bigint,
  bytes: Uint8Array,
  mnemonic: string,
  operands: string,
  symbolize: DisassembleOptions['symbolize'],
): DisassembledInstruction {
  const direct = isa === 'x86-64' ? x86Target(mnemonic, operands) : arm64Target(mnemonic, operands);
  const relative = isa === 'x86-64' ? ripRelativeTarget(address, bytes.length, operands) : null;
  const target = direct?.target ?? relative;
  const name = target === null ? null : (symbolize?.(target) ?? null);
  const head = direct === null ? operands : operands.slice(0, direct.at);
  // Capstone prints what is below ten in decimal.
  const shown = direct === null ? head : `${head}${isa === 'arm64' ? '#' : ''}${hex(direct.target)}`;
  return { address, bytes, mnemonic, operands: name === null ? shown : `${shown} <${name}>`, target };
}

interface DirectTarget {
  readonly target: bigint;
  /** Where it begins in the operand text. */
  readonly at: number;
}

const X86_BRANCH = /^(?:(?:bnd|notrack|data16|repn?[ez]?) )*(?:j[a-z]+|call|loopn?e?|xbegin)$/;
const NUMBER = /^-?(?:0x[0-9a-f]+|\d+)$/;

function x86Target(mnemonic: string, operands: string): DirectTarget | null {
  if (!NUMBER.test(operands) || !X86_BRANCH.test(mnemonic)) return null;
  return { target: number(operands), at: 0 };
}

/** b, bl, cbz, tbz, adr, adrp and loads of literals: the last operand is an address. */
const ARM64_PC_RELATIVE = /^(?:bl?|bc?\..+|cbn?z|tbn?z|adrp?|ldr|ldrsw|prfm)$/;

function arm64Target(mnemonic: string, operands: string): DirectTarget | null {
  if (!ARM64_PC_RELATIVE.test(mnemonic) || operands.includes('[')) return null;
  const at = operands.lastIndexOf('#');
  if (at < 0 || !NUMBER.test(operands.slice(at + 1))) return null;
  return { target: number(operands.slice(at + 1)), at };
}

const RIP_RELATIVE = /\[rip(?: ([+-]) (0x[0-9a-f]+|\d+))?\]/;

function ripRelativeTarget(address: bigint, length: number, operands: string): bigint | null {
  const match = RIP_RELATIVE.exec(operands);
  if (match === null) return null;
  const distance = BigInt(match[2] ?? 0);
  return u64(address + BigInt(length) + (match[1] === '-' ? -distance : distance));
}

function number(text: string): bigint {
  return u64(text.startsWith('-') ? -BigInt(text.slice(1)) : BigInt(text));
}
