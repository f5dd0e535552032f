import { describe, expect, test } from '@jest/globals';
import { CommandError } from './command-error.js';
import { bytesOf, littleEndian, parseFormat, sizeText, stringText, valueAs } from './format.js';
import { cutAtComma, parsePlace } from './place.js';

const nameOf = (address: bigint): string | null => (address === 0x1000n ? 'start' : null);

describe('formats of x and print', () => {
  test.each([
    ['', null, null, null],
    ['8xg', 8, 'x', 8],
    ['gx', null, 'x', 8],
    ['3i', 3, 'i', null],
    ['s', null, 's', null],
    ['16xb', 16, 'x', 1],
    ['h', null, null, 2],
    ['dw', null, 'd', 4],
  ])('/%s', (text, count, letter, size) => {
    expect(parseFormat(text)).toEqual({ count, letter, size });
  });

  test.each(['0x', '4097x', 'q', '8 x', '-1x', 'x8'])('/%s is refused', (text) => {
    expect(() => parseFormat(text)).toThrow(CommandError);
  });
});

// What gdb 13 prints for (char)0xc1 and so on.
describe('values', () => {
  test.each([
    [0xfffffffffffffffbn, 'd', 8, '-5'],
    [0xfffffffffffffffbn, 'u', 8, '18446744073709551611'],
    [0xfffffffffffffffbn, 'd', 4, '-5'],
    [0xfffffffbn, 'd', 8, '4294967291'],
    [0x1234n, 'x', 1, '0x34'],
    [0x1234n, 'z', 4, '0x00001234'],
    [0n, 'x', 8, '0x0'],
    [8n, 'o', 8, '010'],
    [0n, 'o', 8, '0'],
    [10n, 't', 1, '1010'],
    [65n, 'c', 1, "65 'A'"],
    [10n, 'c', 1, "10 '\\n'"],
    [0n, 'c', 1, "0 '\\000'"],
    [0xc1n, 'c', 1, "-63 '\\301'"],
    [39n, 'c', 1, "39 '\\''"],
    [0x1000n, 'a', 8, '0x1000 <start>'],
    [0x1001n, 'a', 8, '0x1001'],
  ] as const)('%s as /%s of %d bytes', (value, letter, size, text) => {
    expect(valueAs(value, letter, size, nameOf)).toBe(text);
  });

  test('strings', () => {
    expect(stringText(Buffer.from('a "b"\n\x01\\'))).toBe('"a \\"b\\"\\n\\001\\\\"');
  });

  test('bytes are little-endian', () => {
    expect([...bytesOf(0x1234n, 4)]).toEqual([0x34, 0x12, 0, 0]);
    expect([...bytesOf(-1n, 2)]).toEqual([0xff, 0xff]);
    expect(littleEndian(Uint8Array.of(0x34, 0x12, 0, 0x80))).toBe(0x80001234n);
  });

  test.each([
    [0n, '0'],
    [4096n, '4K'],
    [1023n, '1023'],
    [0x180000n, '1.5M'],
    [0x100011000n, '4.0G'],
    [1n << 47n, '128T'],
  ])('%d bytes are %s', (bytes, text) => {
    expect(sizeText(bytes)).toBe(text);
  });
});

describe('places in memory', () => {
  test.each([
    ['a.page(3) + 8', 'a.page(3) + 8', null],
    ['*counter', 'counter', 8],
    ['*(u32 *)counter', 'counter', 4],
    ['* ( unsigned   int * ) (a + 8)', '(a + 8)', 4],
    ['*(char *)a.page(1 + 2)', 'a.page(1 + 2)', 1],
    ['*(char **)p', 'p', 8],
    ['{u16}0x1000', '0x1000', 2],
    ['{pte_t} p', 'p', 8],
    ['*(u32 *)&counter', '&counter', 4],
    ['**(u64 **)p', '*(u64 **)p', 8],
  ])('%s', (text, address, size) => {
    expect(parsePlace(text)).toEqual({ address, size });
  });

  test.each([
    ['*(struct page *)p', 'struct page is no type that is known here: u8, u16, u32 and u64 are'],
    ['{}p', 'an empty type is no type that is known here: u8, u16, u32 and u64 are'],
    ['*p + 8', 'put what is added to the address in parentheses: *(u64 *)(p + 8)'],
    ['*(u8 *)p==1', 'put what is added to the address in parentheses: *(u64 *)(p==1)'],
    ['*(u8 *)p - 1', 'put what is added to the address in parentheses: *(u64 *)(p - 1)'],
  ])('%s is refused', (text, message) => {
    expect(() => parsePlace(text)).toThrow(new CommandError(message));
  });

  test('the last comma outside of parentheses', () => {
    expect(cutAtComma('f(1, 2), 8')).toEqual(['f(1, 2)', '8']);
    expect(cutAtComma('f(1, 2)')).toBeNull();
  });
});
