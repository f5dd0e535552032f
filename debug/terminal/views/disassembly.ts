/** Instructions around an address. */
import { hex16 } from '../../../emu/address.js';
import type { InstructionView } from '../../views.js';
import { bad, dim, hanging, here, type Line, name, type Span } from '../lines.js';

/** Columns from which on bytes are shown. */
const WITH_BYTES = 90;

export interface DisassemblyOptions {
  /** Columns of the screen; null: as many as needed. */
  readonly columns: number | null;
  /** Bytes in front of the text, also where there is not much room. */
  readonly bytes?: boolean;
}

/**
 * `=>` at the next instruction, `B` at one with a breakpoint, the function's name where it begins, the BPF
 * instruction that native code was made of above it.
 */
export function disassemblyLines(
  instructions: readonly InstructionView[],
  options: DisassemblyOptions,
): Line[] {
  const { columns } = options;
  const roomy = columns === null || columns >= WITH_BYTES;
  const withBytes = options.bytes === true || roomy;
  const offsets = instructions.map(({ symbol }) => (symbolParts(symbol)[1] ?? '').length + 2);
  const widest = Math.max(7, ...offsets);
  const longest = Math.max(0, ...instructions.map(({ bytes }) => bytes.length));
  const out: Line[] = [];
  let fn: string | null = null;
  let bpf: string | null = null;
  for (const instruction of instructions) {
    const { address, bytes, text, symbol, current, breakpoint } = instruction;
    const [function_, offset] = symbolParts(symbol);
    if (function_ !== fn) {
      fn = function_;
      if (fn !== null) out.push(hanging(2, name(`${fn}:`)));
    }
    if (instruction.bpf !== null && instruction.bpf !== bpf)
      out.push(hanging(6, dim(`     ; ${instruction.bpf}`)));
    bpf = instruction.bpf;
    const mark: Span | string = current ? here('=>') : '  ';
    const parts: (Span | string)[] = [mark, breakpoint ? bad('B') : ' ', roomy ? dim(hex16(address)) : ''];
    parts.push(
      dim(
        `${roomy ? ' ' : ''}${offset === null && !roomy ? hex16(address) : `<${offset ?? ''}>`.padEnd(widest)} `,
      ),
    );
    if (withBytes) parts.push(dim(`${hexBytes(bytes).padEnd(longest * 3 - 1)}  `));
    parts.push(current ? here(text) : text);
    out.push(hanging(widest + (roomy ? 22 : 5), ...parts));
  }
  return out;
}

/** `write_cmask+0x4` as `write_cmask` and `+4`; a name without distance is at `+0`. */
function symbolParts(symbol: string | null): readonly [string | null, string | null] {
  if (symbol === null) return [null, null];
  const match = /^(.*?)\+0x([0-9a-f]+)(?:\/0x[0-9a-f]+)?$/.exec(symbol);
  return match === null ? [symbol, '+0'] : [match[1] ?? symbol, `+0x${match[2] ?? ''}`];
}

export function hexBytes(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
}
