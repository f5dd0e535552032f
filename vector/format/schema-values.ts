/** The small values that a fixture's keys take, with their descriptions for the published schema. */
import { z } from 'zod';
import { Expression } from './bound-expression.js';

const EXPRESSION_HELP =
  'A number, or an expression: decimal, 0x… and 0b… numbers (with _), symbols, labels (`function.label`), ' +
  'arenas (`a.kern`, `a.kern_vm`, `a.user`, `a.scratch`, `a.page(n)`, `a.upage(n)`), constants (PAGE_SIZE, ' +
  'EBUSY, …) and + - * & | ^ << >> ~ ( ), wrapping at 64 bits.';

/** A number or an expression; in the loaded fixture an `Expression`. */
export const expression = z
  .union([z.string(), z.int()], { error: 'a number or an expression is wanted here' })
  .transform((value) => new Expression(String(value)))
  .meta({ id: 'expression', description: EXPRESSION_HELP });

/** The same with its own description. */
export function expressionOf(what: string): typeof expression {
  return expression.describe(`${what} (Number or expression.)`);
}

/** Pieces of an address space have names like C identifiers. */
export const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

export const name = z
  .string()
  .max(64)
  .regex(NAME, { error: 'a name is letters, digits and _, and does not begin with a digit' });

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};
const SIZE = /^(0x[0-9a-fA-F]+|[0-9]+)\s*(|KiB|MiB|GiB|TiB)$/;
const SIZE_ERROR = 'a size is a number of bytes, or a number with KiB, MiB or GiB';

/** Bytes: a number, or text like `64MiB`. */
export const size = z
  .union([z.int().min(0), z.string().regex(SIZE, { error: SIZE_ERROR })], { error: SIZE_ERROR })
  .transform((value) => {
    if (typeof value === 'number') return value;
    const match = SIZE.exec(value);
    return Number(match?.[1] ?? Number.NaN) * (UNITS[match?.[2] ?? ''] ?? Number.NaN);
  });

/** Bytes in hexadecimal, with or without blanks between them. */
export const hexBytes = z
  .string()
  .regex(/^\s*(?:[0-9a-fA-F]{2}\s*)+$/, {
    error: 'bytes are pairs of hexadecimal digits, like "48 89 07"',
  })
  .describe('Bytes in hexadecimal, like "48 89 07". Quote it: 00 11 would be text, but 11 a number.')
  .transform((text) =>
    Uint8Array.from(text.replaceAll(/\s/g, '').match(/../g) ?? [], (b) => Number.parseInt(b, 16)),
  );

/** Levels that can hold an entry of their own (p4d is folded into pgd). */
export const level = z.enum(['pte', 'pmd', 'pud', 'pgd']).meta({
  id: 'level',
  description: 'Level of the entry. Without it: the last entry that a walk of the tables reaches.',
});

export const registers = z.record(z.string(), expression);

/** Text to compare with: a block or a list of lines. A line `...` stands for any lines, none included. */
export const lines = z
  .union([z.string(), z.array(z.string())], { error: 'text or a list of lines is wanted here' })
  .transform((value) => (typeof value === 'string' ? value : value.map((line) => `${line}\n`).join('')))
  .meta({
    id: 'lines',
    description:
      'The exact text, as a block or as a list of lines. A line that is just ... stands for any lines (or none). ' +
      'Blank lines count, also at the end: in a block they need |+ (YAML drops them behind a |), in a list they are "".',
  });

/** Exactly one of these says how wide a value is. */
export const widths = {
  u8: expressionOf('One byte.').optional(),
  u16: expressionOf('Two bytes, little endian.').optional(),
  u32: expressionOf('Four bytes, little endian.').optional(),
  u64: expressionOf('Eight bytes, little endian.').optional(),
  bytes: hexBytes.optional(),
};
