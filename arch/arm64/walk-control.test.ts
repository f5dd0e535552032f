import { describe, expect, test } from '@jest/globals';
import {
  ControlRegisterError,
  type ControlRegisters,
  decodeControl,
  initialControl,
} from './walk-control.js';

/** As the kernel leaves them, with 40 bits of physical address. */
const REGISTERS: ControlRegisters = {
  tcr_el1: 0x32_b550_3510n,
  sctlr_el1: (1n << 57n) | 1n,
  ttbr0_el1: 0x4123_4000n,
  // An ASID above, CnP below.
  ttbr1_el1: 0x0042_0000_4567_8001n,
};

const decode = (registers: Partial<ControlRegisters>) => {
  const control = initialControl();
  decodeControl(control, { ...REGISTERS, ...registers });
  return control;
};

test('the values of the kernel', () => {
  expect(decode({})).toEqual({
    ...initialControl(),
    ttbr0: 0x4123_4000,
    ttbr1: 0x4567_8000,
    limit0: 2 ** 48,
    limit1: 2 ** 48,
    paLimit: 2 ** 40,
    tbi0: true,
    epan: true,
  });
});

// TCR_EL1 and SCTLR_EL1: which bit is which (Arm ARM, D24.2).
test.each([
  [7n, 'epd0'],
  [23n, 'epd1'],
  [38n, 'tbi1'],
  [39n, 'ha'],
  [40n, 'hd'],
  [41n, 'hpd0'],
  [42n, 'hpd1'],
  [51n, 'tbid0'],
  [52n, 'tbid1'],
  [55n, 'e0pd0'],
  [56n, 'e0pd1'],
] as const)('bit %s of TCR_EL1 is %s and nothing else', (position, name) => {
  expect(decode({ tcr_el1: REGISTERS.tcr_el1 | (1n << position) })).toEqual({ ...decode({}), [name]: true });
});

test('bit 37 of TCR_EL1 is TBI0; bits 19 and 57 of SCTLR_EL1 are WXN and EPAN', () => {
  expect(decode({ tcr_el1: REGISTERS.tcr_el1 & ~(1n << 37n) }).tbi0).toBe(false);
  expect(decode({ sctlr_el1: 1n })).toEqual({ ...decode({}), epan: false });
  expect(decode({ sctlr_el1: 1n | (1n << 19n) })).toEqual({ ...decode({}), epan: false, wxn: true });
});

test.each([
  [0n, 32],
  [1n, 36],
  [2n, 40],
  [3n, 42],
  [4n, 44],
  [5n, 48],
])('IPS = %s is %s bits', (ips, bits) => {
  expect(decode({ tcr_el1: (REGISTERS.tcr_el1 & ~(7n << 32n)) | (ips << 32n) }).paLimit).toBe(2 ** bits);
});

// Bytes of the first table: 8 for each entry, from level 0, 1, 2 and 3 on.
test.each([
  [16n, 4096],
  [24n, 16],
  [25n, 4096],
  [32n, 32],
  [33n, 16],
  [34n, 4096],
  [39n, 128],
  [43n, 4096],
  [48n, 128],
])('TnSZ = %s: the table is aligned to its %s bytes', (tsz, bytes) => {
  const ttbr = 0xffff_ffff_fffen;
  for (const [half, shift] of [
    [0, 0n],
    [1, 16n],
  ] as const) {
    const tcr_el1 = (REGISTERS.tcr_el1 & ~(0x3fn << shift)) | (tsz << shift);
    const control = decode({ tcr_el1, ttbr0_el1: ttbr, ttbr1_el1: ttbr });
    const [table, limit, other] =
      half === 0
        ? [control.ttbr0, control.limit0, control.limit1]
        : [control.ttbr1, control.limit1, control.limit0];
    expect([table, limit, other]).toEqual([2 ** 48 - bytes, 2 ** (64 - Number(tsz)), 2 ** 48]);
  }
});

describe('refused', () => {
  test.each<readonly [keyof ControlRegisters, bigint, bigint, string]>([
    [
      'tcr_el1',
      0x3fn,
      15n,
      'TCR_EL1 = 0x32b550350f: T0SZ = 15 is not modelled, 16 (48 bits) to 48 (16 bits) are',
    ],
    ['tcr_el1', 0x3fn, 49n, 'TCR_EL1 = 0x32b5503531: T0SZ = 49 is not modelled'],
    ['tcr_el1', 0x3fn << 16n, 12n << 16n, 'T1SZ = 12 is not modelled, 16 (48 bits) to 48 (16 bits) are'],
    ['tcr_el1', 3n << 14n, 1n << 14n, 'TG0 = 1 (64 KiB) is not modelled, 0 (4 KiB) is'],
    ['tcr_el1', 3n << 14n, 2n << 14n, 'TG0 = 2 (16 KiB) is not modelled, 0 (4 KiB) is'],
    ['tcr_el1', 3n << 14n, 3n << 14n, 'TG0 = 3 (reserved) is not modelled'],
    ['tcr_el1', 3n << 30n, 1n << 30n, 'TG1 = 1 (16 KiB) is not modelled, 2 (4 KiB) is'],
    ['tcr_el1', 3n << 30n, 3n << 30n, 'TG1 = 3 (64 KiB) is not modelled, 2 (4 KiB) is'],
    ['tcr_el1', 3n << 30n, 0n, 'TG1 = 0 (reserved) is not modelled'],
    ['tcr_el1', 7n << 32n, 6n << 32n, 'IPS = 6 is not modelled, 0 (32 bits) to 5 (48 bits) are'],
    ['tcr_el1', 1n << 59n, 1n << 59n, 'DS = 1 (52-bit addresses) is not modelled, 0 is'],
    ['sctlr_el1', 1n, 0n, 'SCTLR_EL1 = 0x200000000000000: M = 0 (MMU off) is not modelled, 1 is'],
    ['sctlr_el1', 2n, 2n, 'A = 1 (alignment checks of all accesses) is not modelled, 0 is'],
    ['sctlr_el1', 1n << 25n, 1n << 25n, 'EE = 1 (big-endian tables) is not modelled, 0 is'],
  ])('%s, bits %s = %s', (register, mask, value, message) => {
    const control = initialControl();
    const refused = { ...REGISTERS, [register]: (REGISTERS[register] & ~mask) | value };
    expect(() => decodeControl(control, refused)).toThrow(ControlRegisterError);
    expect(() => decodeControl(control, refused)).toThrow(message);
    expect(control).toEqual(initialControl());
  });

  test('but not what a half that is switched off would have', () => {
    const off = (REGISTERS.tcr_el1 & ~((3n << 30n) | (0x3fn << 16n))) | (1n << 23n);
    expect(decode({ tcr_el1: off })).toEqual({ ...decode({}), epd1: true });
  });
});
