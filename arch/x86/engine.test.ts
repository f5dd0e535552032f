import { afterEach, describe, expect, test } from '@jest/globals';
import type { Cpu } from '../../emu/cpu.js';
import type { RunOutcome } from '../../emu/events.js';
import { drain } from '../../emu/path.js';
import { DEFAULT_LIMITS, runGuest } from '../../emu/run.js';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { TaskDead } from '../kernel.js';
import { x86 } from './index.js';
import { engineMachine, HOLE, STACK, STACK_TOP, TEXT, type TestMachine } from './testing.js';

type Machine = TestMachine<Cpu>;

const engine = new NativeEngine();
const open: Machine[] = [];
const CODE = TEXT + 0x100n;
const NX_DATA = 0x8000000000000163n;
const USER = 0x400000n;

afterEach(() => {
  for (const { cpu } of open.splice(0)) cpu.close();
});

function machine(): Machine {
  const made = engineMachine(engine);
  open.push(made);
  return made;
}

/** Puts code there and calls it. */
function call(
  m: Machine,
  bytes: readonly number[],
  registers: Readonly<Record<string, bigint>> = {},
): RunOutcome {
  m.text('code', 0x100, bytes);
  m.cpu.flushCode();
  x86.prepareCall(m.here, CODE, STACK_TOP - 0x100n);
  m.set(registers);
  return run(m, CODE);
}

function run(m: Machine, pc: bigint): RunOutcome {
  const { here } = m;
  let clock = 0;
  const guest = {
    cpu: m.cpu,
    trace: here.trace,
    pcRegister: x86.pcRegister,
    now: () => clock++,
    *handleStop(stop: Parameters<typeof x86.handleStop>[1]) {
      try {
        return yield* x86.handleStop(here, stop);
      } catch (thrown) {
        if (thrown instanceof TaskDead) return { how: 'end' as const, outcome: thrown.outcome };
        throw thrown;
      }
    },
  };
  return drain(runGuest(guest, pc, DEFAULT_LIMITS));
}

/** The arena's stage as a page that appears. */
function installs(m: Machine, pte: bigint): void {
  // biome-ignore lint/correctness/useYield: it stands in for a ported function, which is a generator
  m.kernel.bpf_arena_handle_page_fault = function* (_here, addr) {
    m.map(addr, pte);
    return true;
  };
}

function faults(m: Machine): string[] {
  return m.events('fault').map(({ exception, address, code, access }) => {
    return `${exception} 0x${address.toString(16)} code ${code} ${access}`;
  });
}

describe('real code', () => {
  test('misses, is repaired and goes on; its registers are untouched', () => {
    const m = machine();
    installs(m, 0x201000n | NX_DATA);
    // mov [rdi], rax; mov rbx, [rdi]; ret
    const outcome = call(m, [0x48, 0x89, 0x07, 0x48, 0x8b, 0x1f, 0xc3], { rdi: HOLE, rax: 0x4141n, r9: 9n });
    expect(outcome).toEqual({ kind: 'returned' });
    expect(faults(m)).toEqual([`#PF 0x${HOLE.toString(16)} code 2 write`]);
    expect(m.ram.readU64(0x201008)).toBe(0x4141n);
    expect([m.cpu.read('rbx'), m.cpu.read('r9'), m.cpu.read('rsp')]).toEqual([
      0x4141n,
      9n,
      STACK_TOP - 0x100n,
    ]);
  });

  test('a read-modify-write is a write, and a crossing access names the second page', () => {
    const m = machine();
    installs(m, 0x201000n | NX_DATA);
    m.map(HOLE & ~0xfffn, 0x202000n | NX_DATA);
    const edge = (HOLE & ~0xfffn) + 0xffcn;
    // lock add [rdi], rax; ret
    expect(call(m, [0xf0, 0x48, 0x01, 0x07, 0xc3], { rdi: edge, rax: 0x1122334455667788n })).toEqual({
      kind: 'returned',
    });
    expect(faults(m)).toEqual([`#PF 0x${(edge + 4n).toString(16)} code 2 write`]);
    expect(m.ram.readU64(0x201000)).toBe(0x11223344n);
  });

  test('an oops ends it', () => {
    const m = machine();
    expect(call(m, [0x48, 0x8b, 0x07, 0xc3], { rdi: HOLE })).toMatchObject({ kind: 'oops' });
    const console = m.console();
    expect(console[0]).toBe('BUG: unable to handle page fault for address: ffffc90000401008');
    expect(console).toContain('RIP: 0010:code+0x0/0x4');
    expect(console).toContain('CR2: ffffc90000401008 CR3: 0000000000100000 CR4: 00000000003506f0');
    expect(console).toContain('CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033');
    expect(console.filter((line) => line.startsWith('DR'))).toEqual([]);
  });

  test('non-canonical addresses do not reach the tables', () => {
    const m = machine();
    // mov rax, [rbp]
    expect(call(m, [0x48, 0x8b, 0x45, 0x00, 0xc3], { rbp: 0x1234567812345678n })).toMatchObject({
      kind: 'oops',
    });
    expect(faults(m)).toEqual(['#SS 0x1234567812345678 code 0 read']);
  });

  test('a recursion that eats its stack is a double fault', () => {
    const m = machine();
    // call itself
    expect(call(m, [0xe8, 0xfb, 0xff, 0xff, 0xff])).toMatchObject({ kind: 'panic' });
    expect(faults(m)).toEqual([
      `#PF 0x${(STACK - 8n).toString(16)} code 2 write`,
      `#DF 0x${(STACK - 8n).toString(16)} code 0 write`,
    ]);
    expect(m.console()[0]).toMatch(/^BUG: TASK stack guard page was hit at ffffc900001ffff8 /);
  });
});

describe('privileges', () => {
  test('SMAP looks at the AC that guest code has set', () => {
    const m = machine();
    m.map(USER, 0x201067n);
    m.ram.writeU64(0x201000, 0x77n);
    // stac; mov rax, [rdi]; clac; mov rbx, [rdi]; ret
    const code = [0x0f, 0x01, 0xcb, 0x48, 0x8b, 0x07, 0x0f, 0x01, 0xca, 0x48, 0x8b, 0x1f, 0xc3];
    expect(call(m, code, { rdi: USER })).toMatchObject({ kind: 'oops' });
    expect(m.cpu.read('rax')).toBe(0x77n);
    expect(faults(m)).toEqual(['#PF 0x400000 code 1 read']);
    expect(m.events('fault')[0]?.pc).toBe(CODE + 9n);
  });

  test('user code faults as user code', () => {
    const m = machine();
    m.map(USER, 0x201025n);
    m.map(0x7fff0000n, 0x8000000000202067n);
    // mov rax, [rdi]
    m.ram.write(0x201000, Uint8Array.of(0x48, 0x8b, 0x07));
    m.cpu.flushCode();
    x86.prepareUser(m.here, USER, 0x7fff0800n);
    m.set({ rdi: STACK });
    expect(run(m, USER)).toEqual({ kind: 'signal', signo: 11, code: 1, address: STACK });
    expect(faults(m)).toEqual([`#PF 0x${STACK.toString(16)} code 5 read`]);
    const frame = m.mmu.peek(STACK_TOP - 168n);
    expect([m.ram.readU64(frame + 128), m.ram.readU64(frame + 136)]).toEqual([USER, 0x33n]);
    // The next call is kernel code again.
    m.log.events.length = 0;
    expect(call(m, [0x48, 0x8b, 0x07, 0xc3], { rdi: STACK })).toEqual({ kind: 'returned' });
  });

  test('executing user code from the kernel is for SMEP', () => {
    const m = machine();
    m.map(USER, 0x201025n);
    // jmp rdi
    expect(call(m, [0xff, 0xe7], { rdi: USER })).toMatchObject({ kind: 'oops' });
    expect(faults(m)).toEqual(['#PF 0x400000 code 17 fetch']);
    expect(m.console()[0]).toContain('(SMEP?)');
  });
});

describe('accessed and dirty bits', () => {
  test('are set by what the code does', () => {
    const m = machine();
    const pte = m.map(HOLE, 0x8000000000201003n);
    // mov rax, [rdi]; ret
    call(m, [0x48, 0x8b, 0x07, 0xc3], { rdi: HOLE });
    expect(m.ram.readU64(pte)).toBe(0x8000000000201023n);
    // mov [rdi], rax; ret
    call(m, [0x48, 0x89, 0x07, 0xc3], { rdi: HOLE });
    expect(m.ram.readU64(pte)).toBe(0x8000000000201063n);
    expect(faults(m)).toEqual([]);
  });
});

describe('non-canonical addresses', () => {
  const WILD = 0x1234567812345678n;
  /** Four bytes below the hole, in a page that is mapped. */
  const BRINK = 0x7ffffffffffcn;
  const hexOf = (va: bigint): string => `0x${va.toString(16)}`;

  test.each<[string, string, Readonly<Record<string, bigint>>, string]>([
    ['mov rax, [rdi]', '488b07', { rdi: WILD }, '#GP read'],
    ['mov [rdi], rax', '488907', { rdi: WILD }, '#GP write'],
    ['lock add [rdi], rax', 'f0480107', { rdi: WILD }, '#GP write'],
    ['mov rax, [rdi+rbp]', '488b042f', { rdi: 0n, rbp: WILD }, '#GP read'],
    ['mov rax, ss:[rdi]: the prefix is ignored', '36488b07', { rdi: WILD }, '#GP read'],
    ['mov rax, fs:[rbp]', '64488b4500', { rbp: WILD, fs_base: 0n }, '#GP read'],
    ['mov rax, gs:[rbp]', '65488b4500', { rbp: WILD, gs_base: 0n }, '#GP read'],
    ['push [rdi]', 'ff37', { rdi: WILD }, '#GP read'],
    ['pop [rdi]', '8f07', { rdi: WILD }, '#GP write'],
    ['call [rdi]', 'ff17', { rdi: WILD }, '#GP read'],
    ['jmp [rdi]', 'ff27', { rdi: WILD }, '#GP read'],
    ['rep movsb', 'f3a4', { rdi: STACK, rsi: WILD, rcx: 3n }, '#GP read'],
    ['rep stosb', 'f3aa', { rdi: WILD, rcx: 3n }, '#GP write'],
    ['mov rax, [rbp]', '488b4500', { rbp: WILD }, '#SS read'],
    ['lock add [rbp], rax', 'f048014500', { rbp: WILD }, '#SS write'],
    ['mov rax, ds:[rbp]: the prefix is ignored', '3e488b4500', { rbp: WILD }, '#SS read'],
    ['call [rbp]', 'ff5500', { rbp: WILD }, '#SS read'],
    ['jmp [rbp]', 'ff6500', { rbp: WILD }, '#SS read'],
    ['leave', 'c9', { rbp: WILD }, '#SS read'],
  ])('%s', (_, hex, registers, expected) => {
    const m = machine();
    expect(call(m, [...Buffer.from(hex, 'hex')], { cr2: 0x77n, ...registers })).toMatchObject({
      kind: 'oops',
    });
    const [exception, access] = expected.split(' ');
    expect(faults(m)).toEqual([`${exception} ${hexOf(WILD)} code 0 ${access}`]);
    expect(m.events('fault')[0]?.pc).toBe(CODE);
    // No table was read, and CR2 is what it was.
    expect(m.events('walk')[0]?.levels).toEqual([]);
    expect(m.cpu.read('cr2')).toBe(0x77n);
    expect(m.cpu.read('rsp')).toBe(STACK_TOP - 0x108n);
  });

  test.each<[string, string, bigint, string]>([
    ['push', '55', WILD - 8n, 'write'],
    ['pop', '5d', WILD, 'read'],
    ['call', 'e800000000', WILD - 8n, 'write'],
    ['ret', 'c3', WILD, 'read'],
    ['enter', 'c8100000', WILD - 8n, 'write'],
    ['mov rax, [rsp]', '488b0424', WILD, 'read'],
  ])('%s on such a stack: not even the #SS can be delivered', (_, hex, address, access) => {
    const m = machine();
    expect(call(m, [...Buffer.from(hex, 'hex')], { rsp: WILD })).toMatchObject({ kind: 'panic' });
    expect(faults(m)).toEqual([`#SS ${hexOf(address)} code 0 ${access}`, '#DF 0x0 code 0 write']);
  });

  test('an access that begins below the hole is refused at its first byte in it', () => {
    for (const [hex, exception] of [
      ['488b07', '#GP'],
      ['488b4500', '#SS'],
    ] as const) {
      const m = machine();
      m.map(BRINK, 0x201163n | NX_DATA);
      call(m, [...Buffer.from(hex, 'hex')], { rdi: BRINK, rbp: BRINK });
      expect(faults(m)).toEqual([`${exception} 0x800000000000 code 0 read`]);
    }
  });

  test.each([
    ['jmp rdi', 'ffe7'],
    ['call rdi', 'ffd7'],
    ['push rdi; ret', '57c3'],
  ])('%s to one is #GP', (_, hex) => {
    const m = machine();
    expect(call(m, [...Buffer.from(hex, 'hex')], { rdi: WILD })).toMatchObject({ kind: 'oops' });
    expect(faults(m)).toEqual([`#GP ${hexOf(WILD)} code 0 fetch`]);
  });
});

test('with five levels 57 bits of an address are translated', () => {
  const m = machine();
  const wide = 0x00ff800000000000n;
  const root = 0x3e0000;
  m.ram.fill(root, 4096, 0);
  for (const index of [0xff, 511]) m.ram.writeU64(root + 8 * index, BigInt(m.kernel.init_mm.pgd) | 0x67n);
  const pte = m.map(wide, 0x8000000000201063n);
  m.map(wide + 0x1000n, 0n);
  m.set({ cr3: BigInt(root), cr4: 0x516f0n });
  m.mmu.refresh();
  // mov rax, [rdi]; mov [rdi+0x1ff8], rax; ret
  const code = [0x48, 0x8b, 0x07, 0x48, 0x89, 0x87, 0xf8, 0x1f, 0, 0, 0xc3];
  m.ram.writeU64(0x201008, 0x77n);
  expect(call(m, code, { rdi: wide + 8n })).toMatchObject({ kind: 'oops' });
  expect(m.cpu.read('rax')).toBe(0x77n);
  expect(m.ram.readU64(pte)).toBe(0x8000000000201063n);
  const [walk] = m.events('walk');
  expect(walk?.levels.map(({ level }) => level)).toEqual(['pgd', 'p4d', 'pud', 'pmd', 'pte']);
  expect(faults(m)).toEqual([`#PF 0x${(wide + 0x2000n).toString(16)} code 2 write`]);
});

test('a page fault drops the translation that refused: the next access walks', () => {
  const m = machine();
  const pte = m.map(HOLE, 0x8000000000201121n);
  m.ram.writeU64(0x201008, 0x11n);
  m.ram.writeU64(0x202008, 0x22n);
  const alias = 0xffffc90000500000n;
  m.map(alias, BigInt(pte - (pte % 4096)) | NX_DATA);
  // mov rbx, [rdi]; mov [rsi], rax: another page behind the TLB's back; mov [rdi], rcx; mov rdx, [rdi]; ret
  const code = [0x48, 0x8b, 0x1f, 0x48, 0x89, 0x06, 0x48, 0x89, 0x0f, 0x48, 0x8b, 0x17, 0xc3];
  m.fixup({ insn: CODE + 6n, type: 'DEFAULT', fixup: CODE + 9n });
  const registers = { rdi: HOLE, rsi: alias + BigInt(pte % 4096), rax: 0x8000000000202121n };
  expect(call(m, code, registers)).toEqual({ kind: 'returned' });
  expect(faults(m)).toEqual([`#PF 0x${HOLE.toString(16)} code 3 write`]);
  expect([m.cpu.read('rbx'), m.cpu.read('rdx')]).toEqual([0x11n, 0x22n]);
});
