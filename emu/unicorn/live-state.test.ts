import { afterEach, describe, expect, test } from '@jest/globals';
import { ACCESS_READ, type Cpu, PERM_READ, PERM_WRITE, type TlbFiller } from '../cpu.js';
import { Ram } from '../ram.js';
import { libraryPath, openLibrary, type UnicornLibrary } from './library.js';
import { NativeCpu } from './native-cpu.js';
import { CODE, DATA, RAM_BASE, RWX, SENTINEL, words } from './test-machine.js';

const opened = openLibrary(libraryPath());
/** The same library, as if the engine's state had not been found in place. */
const blind: UnicornLibrary = {
  ...opened,
  x86: { ...opened.x86, live: null },
  arm64: { ...opened.arm64, live: null },
};
/** The same library, with the state in a place where it is not: behind the end of everything. */
const misled: UnicornLibrary = {
  ...opened,
  x86: { ...opened.x86, live: opened.x86.live && { ...opened.x86.live, distance: 2 ** 46 } },
  arm64: { ...opened.arm64, live: opened.arm64.live && { ...opened.arm64.live, distance: 2 ** 46 } },
};

const X86 = ['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi', 'rbp', 'rsp', 'r8', 'r9', 'r15', 'rip'];
const ARM64 = [...Array.from({ length: 31 }, (_, n) => `x${n}`), 'sp', 'pc'];
const CASES = {
  // 2: add rbx, rax; inc rcx; mov rdx, [rdi]; inc rcx; mov rdx, [rdi+0x1000]
  'x86-64': {
    names: X86,
    pointer: 'rdi',
    code: [0x48, 0x01, 0xc3, 0x48, 0xff, 0xc1, 0x48, 0x8b, 0x17].concat([
      0x48, 0xff, 0xc1, 0x48, 0x8b, 0x97, 0, 0x10, 0, 0,
    ]),
    at: [CODE + 6n, CODE + 12n],
  },
  // add x3, x3, x4; add x5, x5, #1; ldr x6, [x1]; add x5, x5, #1; ldr x6, [x1, #0x1000]
  arm64: {
    names: ARM64,
    pointer: 'x1',
    code: words(0x8b040063, 0x910004a5, 0xf9400026, 0x910004a5, 0xf9480026),
    at: [CODE + 8n, CODE + 16n],
  },
} as const;

const cpus: Cpu[] = [];
afterEach(() => {
  for (const cpu of cpus.splice(0)) cpu.close();
});

test('the state of the engines of the pinned version is found in place', () => {
  expect(opened.x86.live).not.toBeNull();
  expect(opened.arm64.live).not.toBeNull();
});

describe.each([
  { how: 'in place', from: opened },
  { how: 'by saving contexts', from: blind },
  { how: 'by saving contexts, when it is not where it should be', from: misled },
])('registers read $how', ({ from }) => {
  test.each(['x86-64', 'arm64'] as const)('are what the opened says, %s', (isa) => {
    const { names, pointer, code, at } = CASES[isa];
    const ram = new Ram(RAM_BASE, 1 << 20);
    ram.write(RAM_BASE, Uint8Array.from(code));
    const inCallback: (readonly [bigint[], bigint[]])[] = [];
    const both = (): readonly [bigint[], bigint[]] => {
      set.load();
      return [names.map((name) => cpu.read(name)), [...set.values]];
    };
    const filler: TlbFiller = {
      pa: RAM_BASE,
      fill: (va, access) => {
        if (access !== ACCESS_READ) return RWX;
        inCallback.push(both());
        return va === Number(BigInt.asIntN(64, DATA)) ? PERM_READ | PERM_WRITE : 0;
      },
    };
    const cpu = new NativeCpu(from, isa, ram, { id: 0, filler, sentinel: SENTINEL });
    cpus.push(cpu);
    const set = cpu.registerSet(names);
    names.forEach((name, index) => {
      cpu.write(name, 0xfedcba9876540000n + BigInt(index * 16));
    });
    expect(both()[0]).toEqual(both()[1]);
    cpu.write(pointer, DATA + 8n);
    expect(cpu.start(CODE, 100)).toEqual({ kind: 'miss', va: DATA + 0x1008n, access: ACCESS_READ });
    inCallback.push(both());
    for (const [one, other] of inCallback) expect(one).toEqual(other);
    const pc = names.indexOf(isa === 'x86-64' ? 'rip' : 'pc');
    expect(inCallback.map(([values]) => values[pc])).toEqual([...at, at[1]]);
  });

  test('come with flags put right', () => {
    const ram = new Ram(RAM_BASE, 1 << 20);
    ram.write(RAM_BASE, Uint8Array.from(CASES['x86-64'].code));
    const filler: TlbFiller = { pa: RAM_BASE, fill: (_va, access) => (access === ACCESS_READ ? 0 : RWX) };
    const cpu = new NativeCpu(from, 'x86-64', ram, { id: 0, filler, sentinel: SENTINEL });
    cpus.push(cpu);
    ram.write(RAM_BASE + 3, Uint8Array.from(CASES['x86-64'].code.slice(6, 9)));
    cpu.write('rdi', DATA);
    cpu.write('rax', 0xffff_ffff_ffff_ffffn);
    cpu.write('rbx', 1n);
    expect(cpu.start(CODE, 100)).toMatchObject({ kind: 'miss', va: DATA });
    // CF, PF, AF, ZF of -1 + 1
    expect(cpu.read('rflags')).toBe(0x57n);
  });
});
