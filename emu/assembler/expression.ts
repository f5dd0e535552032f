/** Numbers and symbols in operands: sums such as `write_cmask+0x10`. */
import { u64 } from '../address.js';

/** What names mean at one line: labels of the function, symbols of others, `.` and `1b`, `1f`. */
export interface Scope {
  /** Address of a name, or undefined if it is none. */
  resolve(name: string): bigint | undefined;
}

export interface Value {
  /** Unsigned 64-bit. */
  readonly value: bigint;
  /** True if a name took part. */
  readonly symbolic: boolean;
}

const TERM = /^\s*([+-]?)\s*([\w.$]+)\s*/;
const NUMBER = /^(?:0x[0-9a-f]+|0b[01]+|0|[1-9]\d*)$/i;

/** A literal: 0x…, 0b… or decimal. Leading zeros (octal for some, decimal for others) are no number. */
export function parseNumber(text: string): bigint | null {
  return NUMBER.test(text) ? BigInt(text) : null;
}

/** Value of a sum of numbers and names, or null if it is none or a name is unknown. */
export function evaluate(text: string, scope: Scope): Value | null {
  let rest = text.trim();
  if (rest === '') return null;
  let value = 0n;
  let symbolic = false;
  for (let first = true; rest !== ''; first = false) {
    const match = TERM.exec(rest);
    if (match === null) return null;
    const [whole, sign = '', word = ''] = match;
    if (!first && sign === '') return null;
    const number = parseNumber(word);
    const term = number ?? scope.resolve(word);
    if (term === undefined) return null;
    if (number === null) symbolic = true;
    value += sign === '-' ? -term : term;
    rest = rest.slice(whole.length);
  }
  return { value: u64(value), symbolic };
}

/** An address that objdump wrote: hexadecimal without 0x, and the symbol it lies in. */
const OBJDUMP_ADDRESS = /^(?:0x)?([0-9a-f]+)\s*<[^<>]*>$/i;

/** Value of `ffffffff81000105 <write_cmask+0x4>`, or null for any other text. */
export function objdumpAddress(text: string): bigint | null {
  const match = OBJDUMP_ADDRESS.exec(text);
  return match === null ? null : u64(BigInt(`0x${match[1]}`));
}
