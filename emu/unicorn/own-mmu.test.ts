import { afterAll, describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE } from '../cpu.js';
import { Ram } from '../ram.js';
import { CalibrationError } from './calibration.js';
import { libraryPath, openLibrary } from './library.js';
import { NOT_CANONICAL, onlyPlace, placesOf } from './own-mmu.js';
import { OwnArm64Mmu } from './own-mmu-arm64.js';
import { OwnX86Mmu } from './own-mmu-x86.js';

const library = openLibrary(libraryPath());

describe("the library's x86-64 MMU", () => {
  const ram = new Ram(0, 1 << 20);
  const mmu = new OwnX86Mmu(library, ram);
  afterAll(() => mmu.close());
  const state = { cr0: 0x80050033n, cr3: 0x1000n, cr4: 0x20n, efer: 0xd01n, pkru: 0, user: false, ac: false };
  const PKE = 1n << 22n;
  for (const [pa, entry] of [
    [0x1000, 0x2027n],
    [0x2000, 0x3027n],
    [0x3000, 0x4027n],
    [0x4000, 0x8000_0000_0000_9021n],
    [0x4008, 0x2800_0000_0000_9067n],
    // The root of five levels.
    [0x5000, 0x1027n],
  ] as const) {
    ram.writeU64(pa, entry);
  }

  test('calibration leaves the ram as it was', () => {
    expect(ram.readU64(0x1000)).toBe(0x2027n);
    expect(ram.read(0x10000, 0x1000).every((byte) => byte === 0)).toBe(true);
  });

  // SDM volume 3, "Page-Fault Exceptions": P 1, W 2, U 4, I 16, PK 32.
  test.each([
    ['a read', {}, 0x123n, ACCESS_READ, 0x9123],
    ['a write to a read-only page', {}, 0x123n, ACCESS_WRITE, { code: 3, address: 0x123n }],
    ['a fetch from a no-execute page', {}, 0x123n, ACCESS_FETCH, { code: 17, address: 0x123n }],
    ['a user read of it', { user: true }, 0x123n, ACCESS_READ, { code: 5, address: 0x123n }],
    ['nothing there', {}, 0x2fffn, ACCESS_WRITE, { code: 2, address: 0x2fffn }],
    ['not canonical', {}, 1n << 47n, ACCESS_READ, { code: NOT_CANONICAL, address: null }],
    [
      'a key whose accesses are disabled',
      { cr4: 0x20n | PKE, pkru: 1 << 10 },
      0x1123n,
      ACCESS_READ,
      { code: 33, address: 0x1123n },
    ],
    ['another key', { cr4: 0x20n | PKE, pkru: 1 << 12 }, 0x1123n, ACCESS_READ, 0x9123],
    ['five levels', { cr4: 0x1020n, cr3: 0x5000n }, 0x123n, ACCESS_READ, 0x9123],
    ['SMAP', { cr4: 0x20n | (1n << 21n) }, 0x1123n, ACCESS_READ, { code: 1, address: 0x1123n }],
    ['SMAP and AC', { cr4: 0x20n | (1n << 21n), ac: true }, 0x1123n, ACCESS_READ, 0x9123],
  ] as const)('%s', (_what, change, va, access, expected) => {
    mmu.set({ ...state, ...change });
    expect(mmu.translate(va, access)).toEqual(
      typeof expected === 'number' ? { translates: true, pa: expected } : { translates: false, ...expected },
    );
  });
});

describe("the library's arm64 MMU", () => {
  const BASE = 0x4000_0000;
  const ram = new Ram(BASE, 1 << 20);
  const mmu = new OwnArm64Mmu(library, ram);
  afterAll(() => mmu.close());
  const root = BigInt(BASE + 0x1000);
  const state = {
    ...{ ttbr0: root, ttbr1: root, tcr: 0x5_b510_3510n, sctlr: 1n },
    ...{ unprivileged: false, ldtr: false, pan: false },
  };
  for (const [offset, entry] of [
    [0x1000, 0x4000_2003n],
    [0x2000, 0x4000_3003n],
    [0x3000, 0x4000_4003n],
    // Kernel page; page of both; without access flag.
    [0x4000, 0x4000_8703n],
    [0x4008, 0x4000_8743n],
    [0x4010, 0x4000_8303n],
  ] as const) {
    ram.writeU64(BASE + offset, entry);
  }
  const HIGH = 0xffff_0000_0000_0000n;

  // Arm ARM, "ESR_EL1": EC, IL, WnR, the status code.
  test.each([
    ['a read', {}, 0x123n, ACCESS_READ, 0x4000_8123],
    ['the other half', {}, HIGH + 0x123n, ACCESS_READ, 0x4000_8123],
    ['EL0 on a kernel page', { unprivileged: true }, 0x123n, ACCESS_WRITE, 0x9200004f],
    ['STTR on a kernel page', { unprivileged: true, ldtr: true }, 0x123n, ACCESS_WRITE, 0x9600004f],
    [
      'LDTR on a page of EL0 with PAN',
      { unprivileged: true, ldtr: true, pan: true },
      0x1123n,
      ACCESS_READ,
      0x4000_8123,
    ],
    ['PAN', { pan: true }, 0x1123n, ACCESS_READ, 0x9600000f],
    ['no access flag', {}, HIGH + 0x2123n, ACCESS_READ, 0x9600000b],
    ['a fetch from nowhere', {}, 0x3120n, ACCESS_FETCH, 0x86000007],
    [
      'EL0, a fetch from nowhere',
      { unprivileged: true, ldtr: true },
      HIGH + 0x3120n,
      ACCESS_FETCH,
      0x82000007,
    ],
    ['out of range', {}, 1n << 50n, ACCESS_READ, 0x96000004],
    ['a tag that is ignored', { tcr: 0x25_b510_3510n }, 0x1200_0000_0000_0123n, ACCESS_READ, 0x4000_8123],
  ] as const)('%s', (_what, change, va, access, expected) => {
    mmu.set({ ...state, ...change });
    expect(mmu.translate(va, access)).toEqual(
      expected < 0x8000_0000
        ? { translates: true, pa: expected }
        : { translates: false, code: expected, address: va },
    );
  });
});

describe('what cannot be found', () => {
  test('is refused, and so is what is found twice', () => {
    const context = new Uint8Array(64);
    new DataView(context.buffer).setUint32(8, 0x1234, true);
    new DataView(context.buffer).setUint32(24, 0x1234, true);
    const twice = placesOf(context, 0x1234n, 4);
    expect([...twice]).toEqual([8, 24]);
    expect(onlyPlace([twice, new Set([24, 32])], 'it')).toBe(24);
    expect(() => onlyPlace([twice], 'the syndrome')).toThrow(CalibrationError);
    expect(() => onlyPlace([twice], 'the syndrome')).toThrow(
      '2 places for the syndrome, expected exactly one',
    );
    expect(() => onlyPlace([placesOf(context, 5n, 8)], 'it')).toThrow('0 places');
  });
});
