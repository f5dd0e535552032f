import { describe, expect, test } from '@jest/globals';
import { ExpressionError, evaluate, parseExpression, type Scope } from './expression.js';

const NAMES: Readonly<Record<string, bigint>> = { f: 0xffffffff81000100n, EBUSY: 16n };
const scope: Scope = {
  name: (name, offset) => {
    const value = NAMES[name];
    if (value === undefined) throw new ExpressionError(offset, `unknown ${name}`);
    return value;
  },
  member: (object, member) => (object === 'a' && member === 'kern' ? 0xffffc90001e69000n : 0n),
  call: (object, fn, args) => {
    const [arg] = args;
    if (object === 'a' && fn === 'page' && arg !== undefined) {
      return 0xffffc90028069000n + evaluate(arg, scope) * 0x1000n;
    }
    return 0n;
  },
};
const value = (text: string): bigint => evaluate(parseExpression(text), scope);

describe('values, with the operators of C on unsigned 64-bit integers', () => {
  test.each([
    ['0', 0n],
    ['18446744073709551615', 0xffffffffffffffffn],
    ['0xffff_ffff_8100_0000', 0xffffffff81000000n],
    ['0b1010', 10n],
    ['-EBUSY', 0xfffffffffffffff0n],
    ['~0', 0xffffffffffffffffn],
    ['- - 5', 5n],
    ['1 + 2 * 3', 7n],
    ['(1 + 2) * 3', 9n],
    ['10 - 3 - 2', 5n],
    ['1 | 2 ^ 3 & 2', 1n],
    ['1 << 2 + 1', 8n],
    ['0xff & 0xf << 4', 0xf0n],
    ['1 << 63', 0x8000000000000000n],
    ['1 << 64', 0n],
    ['(0 - 1) >> 60', 15n],
    ['0xffffffffffffffff + 2', 1n],
    ['0 - 1', 0xffffffffffffffffn],
    ['0x100000000 * 0x100000001', 0x100000000n],
    ['a.kern + 0x26203000', 0xffffc9002806c000n],
    ['(a.page(1 + 2) & ~0xfff) | 7', 0xffffc9002806c007n],
    ['f+4', 0xffffffff81000104n],
  ])('%s', (text, expected) => {
    expect(value(text)).toBe(expected);
  });
});

describe('mistakes, each at its character', () => {
  test.each([
    ['', 0, 'an expression is missing here'],
    ['1 +', 3, 'a number, a name or ( is missing here'],
    ['1 + * 2', 4, 'a number, a name or ( is missing here, not `*`'],
    ['(1 + 2', 6, '`)` is missing here'],
    ['1 2', 2, 'an operator is missing before `2`'],
    ['f g', 2, 'an operator is missing before `g`'],
    ['1 $ 2', 2, '`$` means nothing in an expression'],
    ['1 / 2', 2, '`/` means nothing in an expression'],
    ['0x', 0, '`0x` is not a number'],
    ['4 + 12ab', 4, '`12ab` is not a number'],
    ['017', 0, '`017`: a leading zero is not allowed (octal or decimal?)'],
    ['1__0', 0, '`1__0` is not a number'],
    ['0x10000000000000000', 0, '`0x10000000000000000` does not fit 64 bits'],
    ['a.', 2, 'a name is missing behind `a.`'],
    ['a.page(1', 8, '`)` is missing here'],
    [`${'('.repeat(100)}1`, 64, 'nested too deep'],
    ['1'.repeat(2000), 0, 'an expression of 2000 characters: 1000 is the most'],
  ])('%.20s', (text, offset, message) => {
    try {
      parseExpression(text);
    } catch (error) {
      expect(error).toBeInstanceOf(ExpressionError);
      expect(error).toMatchObject({ offset, message });
      return;
    }
    throw new Error('no mistake found');
  });

  test('a name that means nothing is reported where it stands', () => {
    expect(() => value('4 + nobody')).toThrow(expect.objectContaining({ offset: 4 }));
  });
});
