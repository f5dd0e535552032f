/** How `print` and `x` show values: the letters are gdb's. */
import { hex, hex16 } from '../../emu/address.js';
import type { Size } from '../../vector/format/expression.js';
import { namedAddress } from '../stop.js';
import { CommandError } from './command-error.js';

export type Letter = 'x' | 'd' | 'u' | 'o' | 't' | 'z' | 'c' | 'a' | 's' | 'i';
const LETTERS: readonly string[] = ['x', 'd', 'u', 'o', 't', 'z', 'c', 'a', 's', 'i'] satisfies Letter[];

export type { Size };

const SIZES: Readonly<Record<string, Size>> = { b: 1, h: 2, w: 4, g: 8 };

/** What stands behind the slash; null for what is left out. */
export interface Format {
  readonly count: number | null;
  readonly letter: Letter | null;
  readonly size: Size | null;
}

/** The most units that are shown at once. */
export const COUNT_MAX = 4096;

function isLetter(char: string): char is Letter {
  return LETTERS.includes(char);
}

/** `8xg` and the like: a count, a letter for the form and one for the size, the letters in any order. */
export function parseFormat(text: string): Format {
  const match = /^(\d*)([a-z]*)$/.exec(text);
  if (match === null) throw new CommandError(`/${text} is not a format: a count and letters, as in /8xg`);
  const [, digits = '', letters = ''] = match;
  let letter: Letter | null = null;
  let size: Size | null = null;
  for (const char of letters) {
    if (isLetter(char)) letter = char;
    else if (SIZES[char] !== undefined) size = SIZES[char];
    else {
      throw new CommandError(
        `/${text}: ${char} is neither a format (x d u o t z c a s i) nor a size (b h w g)`,
      );
    }
  }
  const count = digits === '' ? null : Number(digits);
  if (count !== null && (count < 1 || count > COUNT_MAX))
    throw new CommandError(`/${text}: from 1 to ${COUNT_MAX} units can be shown at once`);
  return { count, letter, size };
}

/** A value of `size` bytes in the form of a letter; `i` and `s` are for memory and are shown as `x`. */
export function valueAs(
  value: bigint,
  letter: Letter,
  size: Size,
  nameOf: (address: bigint) => string | null,
): string {
  const bits = size * 8;
  const unsigned = BigInt.asUintN(bits, value);
  switch (letter) {
    case 'x':
    case 'i':
    case 's':
      return hex(unsigned);
    case 'z':
      return `0x${unsigned.toString(16).padStart(size * 2, '0')}`;
    case 'd':
      return BigInt.asIntN(bits, value).toString();
    case 'u':
      return unsigned.toString();
    case 'o':
      return unsigned === 0n ? '0' : `0${unsigned.toString(8)}`;
    case 't':
      return unsigned.toString(2);
    case 'c':
      return `${BigInt.asIntN(8, value)} ${character(Number(unsigned & 0xffn))}`;
    case 'a':
      return namedAddress(unsigned, nameOf);
  }
}

const ESCAPES: Readonly<Record<number, string>> = {
  7: '\\a',
  8: '\\b',
  9: '\\t',
  10: '\\n',
  11: '\\v',
  12: '\\f',
  13: '\\r',
  27: '\\033',
  39: "\\'",
  92: '\\\\',
};

function escaped(byte: number): string {
  if (byte >= 32 && byte < 127 && byte !== 92) return String.fromCharCode(byte);
  return ESCAPES[byte] ?? `\\${byte.toString(8).padStart(3, '0')}`;
}

function character(byte: number): string {
  return `'${byte === 39 ? "\\'" : escaped(byte)}'`;
}

/** Bytes of a string in quotes, with gdb's escapes. */
export function stringText(bytes: Uint8Array): string {
  return `"${[...bytes].map((byte) => (byte === 34 ? '\\"' : escaped(byte))).join('')}"`;
}

/** An address as views have it: sixteen digits, and its name if it has one. */
export function addressText(address: bigint, nameOf: (address: bigint) => string | null): string {
  const name = nameOf(address);
  return name === null ? hex16(address) : `${hex16(address)}  ${name}`;
}

/** Little-endian bytes as a number. */
export function littleEndian(bytes: Uint8Array): bigint {
  return bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}

/** The `size` low bytes of a value, little-endian. */
export function bytesOf(value: bigint, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}

/** `4K`, `64M`, `1.5T`: in the largest unit that it has one of. */
export function sizeText(bytes: bigint): string {
  const units = ['', 'K', 'M', 'G', 'T', 'P'];
  let unit = 0;
  while (unit < units.length - 1 && bytes >> BigInt(10 * (unit + 1)) > 0n) unit += 1;
  const tenths = (bytes * 10n) >> BigInt(10 * unit);
  const exact = (tenths / 10n) << BigInt(10 * unit) === bytes;
  return `${exact ? tenths / 10n : `${tenths / 10n}.${tenths % 10n}`}${units[unit]}`;
}
