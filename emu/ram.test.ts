import { describe, expect, test } from '@jest/globals';
import { fromSigned, hex, hex16, pageOf, toSigned } from './address.js';
import { RAM_MAX, RAM_MIN, Ram, RamError } from './ram.js';

describe('ram', () => {
  test('has its base, and the same bytes in every view', () => {
    const ram = new Ram(0x4000_0000, RAM_MIN);
    ram.writeU64(0x4000_0010, 0x1122_3344_5566_7788n);
    expect([...ram.read(0x4000_0010, 8)]).toEqual([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    expect(ram.words32[4]).toBe(0x55667788);
    expect(ram.words64[2]).toBe(0x1122_3344_5566_7788n);
    ram.write(0x4000_0010, Uint8Array.of(1));
    expect(ram.readU64(0x4000_0010)).toBe(0x1122_3344_5566_7701n);
    ram.fill(0x4000_0000, 32, 0xff);
    expect(ram.readU64(0x4000_0018)).toBe(0xffff_ffff_ffff_ffffn);
  });

  test.each([0, -4096, 1 << 40, RAM_MAX + 4096, RAM_MIN + 1, Number.NaN])('refuses a size of %p', (size) => {
    expect(() => new Ram(0, size)).toThrow(RamError);
  });

  test('that this computer has no memory for is a RamError that says so', () => {
    const { ArrayBuffer: original } = globalThis;
    globalThis.ArrayBuffer = class extends original {
      constructor(size: number) {
        if (size > 2 ** 30) throw new RangeError('Array buffer allocation failed');
        super(size);
      }
    } as ArrayBufferConstructor;
    try {
      expect(() => new Ram(0, RAM_MAX)).toThrow(RamError);
      expect(() => new Ram(0, RAM_MAX)).toThrow(/has not enough memory for it; make it smaller/);
    } finally {
      globalThis.ArrayBuffer = original;
    }
    expect(new Ram(0, RAM_MIN).bytes.length).toBe(RAM_MIN);
  });

  test('over memory of another size is refused', () => {
    expect(() => new Ram(0, RAM_MIN, new ArrayBuffer(2 * RAM_MIN))).toThrow(
      /the memory given for it has 2097152/,
    );
  });

  test('refuses what lies outside, also in part', () => {
    const ram = new Ram(0x1000, RAM_MIN);
    expect(ram.contains(0x1000, RAM_MIN)).toBe(true);
    expect(ram.contains(0xfff)).toBe(false);
    expect(ram.contains(0x1001, RAM_MIN)).toBe(false);
    expect(() => ram.readU64(0)).toThrow(/physical 0x0 .*ram 0x1000\.\.0x100fff/);
    expect(() => ram.writeU64(0x1000 + RAM_MIN, 0n)).toThrow(RamError);
    expect(() => ram.readU64(0x1004)).toThrow(RamError);
    expect(() => ram.write(0x1000 + RAM_MIN - 1, Uint8Array.of(1, 2))).toThrow(RamError);
    expect(() => ram.read(0x1000 + RAM_MIN - 1, 2)).toThrow(RamError);
  });
});

describe('addresses', () => {
  test.each([
    [0n, 0],
    [0x0000_7fff_ffff_ffffn, 0x7fff_ffff_ffff],
    [0xffff_8000_0000_0000n, -0x8000_0000_0000],
    [0xffff_ffff_ffff_ffffn, -1],
  ])('%p is %p as a signed number, and back', (va, signed) => {
    expect(toSigned(va)).toBe(signed);
    expect(fromSigned(signed)).toBe(va);
  });

  test('what a number cannot hold exactly is NaN', () => {
    expect(toSigned(0x8000_0000_0000_0000n)).toBeNaN();
    expect(toSigned(0x0100_0000_0000_0010n)).toBeNaN();
    expect(toSigned(0x001f_ffff_ffff_ffffn)).toBe(Number.MAX_SAFE_INTEGER);
  });

  test('are printed as the kernel does', () => {
    expect(hex(0n)).toBe('0x0');
    expect(hex16(0xffffn)).toBe('000000000000ffff');
    expect(pageOf(0xffff_ffff_ffff_ffffn)).toBe(0xffff_ffff_ffff_f000n);
  });
});
