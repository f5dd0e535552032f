/** Directives: data and filling. None of them goes through Keystone, which knows only some. */
import type { Isa } from '../disassembler.js';
import { evaluate, type Scope } from './expression.js';
import { AssemblerError, quote, splitWords } from './source.js';

/** More than any fixture's function needs; keeps a slip of the pen from filling memory. */
export const MAX_CODE = 1 << 20;

const DATA_SIZES: ReadonlyMap<string, number> = new Map([
  ['.byte', 1],
  ['.2byte', 2],
  ['.short', 2],
  ['.4byte', 4],
  ['.long', 4],
  ['.int', 4],
  ['.8byte', 8],
  ['.quad', 8],
]);

const KNOWN = '.byte, .2byte, .4byte, .8byte, .quad, .skip, .nops, .balign and, on arm64, .inst';

const NOPS: Readonly<Record<Isa, readonly number[]>> = {
  'x86-64': [0x90],
  arm64: [0x1f, 0x20, 0x03, 0xd5],
};

/**
 * Bytes of a directive.
 * @param address where they will stand
 * @param scope names in operands; may know them only roughly while the layout is not final
 */
export function directiveBytes(
  isa: Isa,
  text: string,
  line: number,
  address: bigint,
  scope: Scope,
): Uint8Array {
  const { mnemonic, operands } = splitWords(text);
  const fail = (why: string): never => {
    throw new AssemblerError(`cannot assemble ${quote(text)}: ${why}`, line);
  };
  const number = (operand: string | undefined): bigint => {
    const value = operand === undefined ? null : evaluate(operand.replace(/^#/, ''), scope);
    return value === null ? fail(`"${operand ?? ''}" is neither a number nor a known symbol`) : value.value;
  };
  const small = (operand: string | undefined): number => {
    const value = number(operand);
    return value > BigInt(MAX_CODE) ? fail(`more than ${MAX_CODE} bytes`) : Number(value);
  };

  const size = mnemonic === '.inst' && isa === 'arm64' ? 4 : DATA_SIZES.get(mnemonic);
  if (size !== undefined) {
    if (operands.length === 0) fail('a value is missing');
    const bits = size * 8;
    return concat(
      operands.map((operand) => {
        const value = number(operand);
        if (
          BigInt.asUintN(bits, value) !== value &&
          BigInt.asIntN(bits, value) !== BigInt.asIntN(64, value)
        ) {
          fail(`${operand} does not fit ${size === 1 ? 'a byte' : `${size} bytes`}`);
        }
        return littleEndian(value, size);
      }),
    );
  }
  switch (mnemonic) {
    case '.skip':
    case '.space':
    case '.zero':
      return new Uint8Array(small(operands[0])).fill(operands[1] === undefined ? 0 : small(operands[1]));
    case '.nops': {
      const unit = NOPS[isa];
      const length = small(operands[0]);
      if (length % unit.length !== 0) fail(`not a multiple of ${unit.length} bytes`);
      return filled(unit, length);
    }
    case '.balign': {
      const alignment = small(operands[0]);
      if (alignment === 0 || (alignment & (alignment - 1)) !== 0)
        fail('the alignment must be a power of two');
      const length = Number(BigInt.asUintN(64, -address) % BigInt(alignment));
      if (operands[1] !== undefined) return new Uint8Array(length).fill(small(operands[1]));
      const unit = NOPS[isa];
      // Whole nops as far as they go; in front of them zeros, as GNU as does.
      const odd = length % unit.length;
      return concat([new Uint8Array(odd), filled(unit, length - odd)]);
    }
    default:
      return fail(`unknown directive ${mnemonic}; known are ${KNOWN}`);
  }
}

function filled(unit: readonly number[], length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => unit[i % unit.length] ?? 0);
}

function littleEndian(value: bigint, size: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, value), true);
  return bytes.slice(0, size);
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const all = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    all.set(part, offset);
    offset += part.length;
  }
  return all;
}
