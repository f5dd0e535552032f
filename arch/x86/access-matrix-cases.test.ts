/** The scripted cases of x86/access.c, with real instructions. */
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { AccessMachine, type Target } from './access-matrix-machine.js';
import { AC } from './access-model.js';

const engine = new NativeEngine();
const machines: AccessMachine[] = [];
const NX = 1n << 63n;

afterAll(() => {
  for (const machine of machines) machine.close();
});

const flags = (...names: (keyof typeof AC)[]): number =>
  names.reduce((all, name) => all | (1 << AC[name]), 0);

describe.each([4, 5] as const)('with %i levels', (levels) => {
  let m: AccessMachine;
  beforeEach(() => {
    m = new AccessMachine(engine, { maxphyaddr: 46, levels });
    machines.push(m);
  });

  function setUp(target: Target, c: number): void {
    m.select(target);
    m.setUp(c);
  }
  /** The access that `c` asks for, with the entries as they are: `ok`, or the error code. */
  function access(target: Target, c: number, flush = true): number | 'ok' {
    m.select(target);
    m.access(c, flush);
    expect(m.oddity).toBeNull();
    expect(m.disagreement(c)).toBeNull();
    return m.faulted ? m.code : 'ok';
  }

  test('corrupt_hugepage_trigger', () => {
    const one = m.target(0xffff923400000000n);
    const two = m.target(0xffffe66600000000n, one);
    const readOnly = flags('wp', 'pdePse', 'pdeP');
    const writable = readOnly | flags('pdeRw');
    setUp(two, readOnly);
    expect(access(two, readOnly)).toBe('ok');
    setUp(one, writable);
    expect(access(one, writable)).toBe('ok');
    expect(access(one, writable | flags('write'))).toBe('ok');
    expect(access(two, readOnly | flags('write'))).toBe(3);
    expect([m.ram.readU64(one.pde), m.ram.readU64(two.pde)]).toEqual([0x20000e3n, 0x20000a1n]);
  });

  test('check_pfec_on_prefetch_pte', () => {
    const one = m.target(0xffff923406001000n);
    const two = m.target(0xffff923406003000n, one);
    expect([one.pde, two.pte]).toEqual([two.pde, one.pte + 16]);
    const present = flags('pdeP', 'pteP');
    setUp(one, present);
    setUp(two, present | flags('pteNx'));
    expect(access(one, present)).toBe('ok');
    expect(access(two, present | flags('pteNx'))).toBe(9);
    expect(m.ram.readU64(two.pte)).toBe(NX | 0x2000001n);
  });

  test('check_large_pte_dirty_for_nowp', () => {
    const one = m.target(0xffff923403000000n);
    const two = m.target(0xffffe66606000000n, one);
    const large = flags('pdeP', 'pdePse');
    setUp(two, large);
    expect(access(two, large)).toBe('ok');
    setUp(one, large);
    expect(access(one, large | flags('write'))).toBe('ok');
    expect(m.ram.readU64(two.pde)).toBe(0x20000a1n);
    expect(access(two, large | flags('write'))).toBe('ok');
    expect([m.ram.readU64(one.pde), m.ram.readU64(two.pde)]).toEqual([0x20000e1n, 0x20000e1n]);
  });

  test('check_smep_andnot_wp', () => {
    const target = m.target(0xffff923406001000n);
    const page = flags('pdeP', 'pteP', 'pdeUser', 'pteUser', 'pdeA', 'pteA', 'smep', 'wp');
    setUp(target, page);
    expect(access(target, page | flags('write'))).toBe(3);
    expect(access(target, page | flags('fetch'))).toBe(0x11);
    // It is for the supervisor, and EFER.NX is clear all the time.
    expect(access(target, page | flags('fetch', 'user'))).toBe('ok');
  });

  test('check_toggle_cr0_wp', () => {
    const target = m.target(0xffff923042007000n);
    const page = flags('pdeP', 'pdeA', 'pteP', 'pteA');
    setUp(target, page);
    // Nothing but the write to CR0 drops what the TLB holds.
    for (const [wp, want] of [
      [0, 'ok'],
      [flags('wp'), 3],
      [0, 'ok'],
      [flags('wp'), 3],
    ] as const) {
      expect(access(target, page | wp | flags('write'), false)).toBe(want);
    }
  });

  test('check_effective_sp_permissions', () => {
    const GIB = 1n << 30n;
    const MIB2 = 1n << 21n;
    const VA = 0xffff923480000000n;
    const page = flags('pdeP', 'pteP', 'pdeUser', 'pteUser', 'pdeA', 'pteA', 'pteRw', 'user');
    const writable = page | flags('pdeRw', 'pteD');
    const one = m.target(VA);
    const pud = one.tables[3] ?? 0;
    setUp(one, page);
    const two = m.target(VA + MIB2, one);
    setUp(two, writable);
    // The other PDPTE is read-only and points to the same PDEs.
    const three = m.target(VA + GIB, one, pud);
    setUp(three, page | flags('pdpteRo'));
    const four = m.target(VA + GIB + MIB2, two, pud);
    setUp(four, writable | flags('pdpteRo'));
    expect([three.pde, four.pde]).toEqual([one.pde, two.pde]);

    expect(access(one, page)).toBe('ok');
    expect(access(two, writable | flags('write'))).toBe('ok');
    expect(access(three, page | flags('pdpteRo'))).toBe('ok');
    expect(access(four, writable | flags('pdpteRo', 'write'))).toBe(7);
  });
});
