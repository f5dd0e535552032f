import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE } from '../../emu/cpu.js';
import type { HandlerFrame } from '../arch.js';
import { KERN_ALERT, KERN_DEFAULT, KERN_EMERG, KERN_WARNING } from '../kernel.js';
import { arm64 } from './index.js';
import { pstateText } from './process.js';
import { K, STACK, TEXT, TestMachine } from './testing.js';

const TOP = STACK + 16384n;
const FINAL = TOP - 0x140n + 0x128n;
const CALLER = 0xffff_8000_8002_0024n;
const KTHREAD = 0xffff_8000_8003_0110n;
const RET_FROM_FORK = 0xffff_8000_8004_0010n;

/** A store to K by a function with a frame record, called by one, called by kthread. */
function victim(): TestMachine {
  const machine = new TestMachine();
  const { kernel, cpu } = machine;
  // stp x29,x30,[sp,#-16]!; mov x29,sp; mov x2,x0; mov x0,#1; str x0,[x1]
  [0xa9bf_7bfd, 0x9100_03fd, 0xaa00_03e2, 0xd280_0020, 0xf900_0020].forEach((word, i) => {
    machine.code(word, TEXT + BigInt(i * 4));
  });
  const pc = TEXT + 0x10n;
  kernel.symbols.set(pc, 'victim+0x10/0x40');
  kernel.symbols.set(CALLER, 'caller+0x24/0x80');
  kernel.symbols.set(KTHREAD, 'kthread+0x110/0x124');
  kernel.symbols.set(RET_FROM_FORK, 'ret_from_fork+0x10/0x20');
  const [inner, middle, outer] = [TOP - 0x2d0n, TOP - 0x2a0n, TOP - 0x200n];
  machine.words(inner, middle, CALLER);
  machine.words(middle, outer, KTHREAD);
  machine.words(outer, FINAL, RET_FROM_FORK);
  for (let n = 2; n < 29; n++) cpu.write(`x${n}`, 0n);
  cpu.write('x0', 1n);
  cpu.write('x1', K);
  cpu.write('x29', inner);
  cpu.write('x30', CALLER);
  cpu.write('sp', inner);
  cpu.write('pc', pc);
  cpu.write('pstate', 0x6040_0005n);
  machine.entryPa(K, 3);
  return machine;
}

describe('oops', () => {
  test('a store to a missing page, complete', () => {
    const machine = victim();
    machine.miss(K, ACCESS_WRITE);
    const { kernel } = machine;
    const hex = (value: bigint | number): string => value.toString(16).padStart(16, '0');
    const entry = (level: number): string => hex(machine.ram.readU64(machine.entryPa(K, level)));
    const sp = hex(TOP - 0x2d0n);
    const zero = hex(0n);
    const row = (n: number): string =>
      [n, n - 1, n - 2].map((r) => `x${String(r).padEnd(2)}: ${zero}`).join(' ');
    expect(kernel.console).toEqual([
      'Unable to handle kernel paging request at virtual address ffff800123456008',
      'Mem abort info:',
      '  ESR = 0x0000000096000047',
      '  EC = 0x25: DABT (current EL), IL = 32 bits',
      '  SET = 0, FnV = 0',
      '  EA = 0, S1PTW = 0',
      '  FSC = 0x07: level 3 translation fault',
      'Data abort info:',
      '  ISV = 0, ISS = 0x00000047, ISS2 = 0x00000000',
      '  CM = 0, WnR = 1, TnD = 0, TagAccess = 0',
      '  GCS = 0, Overlay = 0, DirtyBit = 0, Xs = 0',
      `swapper pgtable: 4k pages, 48-bit VAs, pgdp=${hex(kernel.init_mm.pgd)}`,
      `[ffff800123456008] pgd=${entry(0)}, p4d=${entry(0)}, pud=${entry(1)}, pmd=${entry(2)}, pte=${zero}`,
      'Internal error: Oops: 0000000096000047 [#1]  SMP',
      'Modules linked in:',
      'CPU: 0 UID: 0 PID: 42 Comm: kfault Not tainted 7.1.0-rc5 #1 PREEMPT ',
      'Hardware name: linux,dummy-virt (DT)',
      'pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)',
      'pc : victim+0x10/0x40',
      'lr : caller+0x24/0x80',
      `sp : ${sp}`,
      `x29: ${sp} x28: ${zero} x27: ${zero}`,
      ...[26, 23, 20, 17, 14, 11, 8, 5].map(row),
      `x2 : ${zero} x1 : ffff800123456008 x0 : 0000000000000001`,
      'Call trace:',
      ' victim+0x10/0x40 (P)',
      ' caller+0x24/0x80',
      ' kthread+0x110/0x124',
      ' ret_from_fork+0x10/0x20',
      'Code: a9bf7bfd 910003fd aa0003e2 d2800020 (f9000020) ',
      '---[ end trace 0000000000000000 ]---',
    ]);
    const emergencies = kernel.console.filter((_, i) => kernel.levels[i] === KERN_EMERG);
    expect(emergencies.map((line) => line.slice(0, 8))).toEqual(['Internal', 'Code: a9']);
    expect(kernel.levels.slice(0, 13)).toEqual(Array(13).fill(KERN_ALERT));
    expect(kernel.levels[14]).toBe(KERN_DEFAULT);
    expect(kernel.levels.at(-1)).toBe(KERN_WARNING);
  });

  test('without a frame record the caller is in lr only', () => {
    const machine = victim();
    machine.cpu.write('x29', TOP - 0x2a0n);
    machine.miss(K, ACCESS_WRITE);
    const trace = machine.kernel.console.filter((line) => line.startsWith(' '));
    expect(trace.slice(-3)).toEqual([
      ' victim+0x10/0x40 (P)',
      ' kthread+0x110/0x124',
      ' ret_from_fork+0x10/0x20',
    ]);
    expect(machine.kernel.console).toContain('lr : caller+0x24/0x80');
  });

  test('code that cannot be read is shown as question marks', () => {
    const machine = victim();
    machine.cpu.write('pc', K);
    machine.miss(K, ACCESS_FETCH);
    expect(machine.kernel.console).toContain('Code: ???????? ???????? ???????? ???????? (????????) ');
  });
});

test.each([
  // From published reports.
  [0x2000_0005, 'nzCv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--'],
  [0x6040_00c9, 'nZCv daIF +PAN -UAO -TCO -DIT -SSBS BTYPE=--'],
  [0x8040_00c5, 'Nzcv daIF +PAN -UAO -TCO -DIT -SSBS BTYPE=--'],
  [0x0000_0205, 'nzcv Daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--'],
  [0x0000_0405, 'nzcv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=jc'],
  [0x0000_0805, 'nzcv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=-c'],
  // Each of the others set.
  [0x1380_1f05, 'nzcV DAif -PAN +UAO +TCO +DIT +SSBS BTYPE=j-'],
])('pstate %s', (pstate, text) => {
  expect(pstateText(pstate)).toBe(text);
});

test('the bottom frame and the handler frames have an entry in the list of functions', () => {
  const known = new Map(arm64.kernelFunctions.map(({ name, size }) => [name, size]));
  const machine = new TestMachine();
  const { here, mmu } = machine;
  const progSide = (esr: bigint): readonly HandlerFrame[] => {
    mmu.syndrome.esr_el1 = esr;
    return arm64.progSideFrames(here);
  };
  // Level 3 translation, alignment, synchronous tag check, level 3 permission: DDI 0487, D24.2.40.
  const [translation = [], alignment = [], tagCheck = [], permission = []] = [
    0x9600_0007n,
    0x9600_0021n,
    0x9600_0011n,
    0x9600_000fn,
  ].map(progSide);
  const names = (frames: readonly HandlerFrame[]): string[] => frames.map(({ fn }) => fn).slice(4, 8);
  expect(names(translation)).toEqual([
    '__do_kernel_fault',
    'do_bad_area',
    'do_translation_fault',
    'do_mem_abort',
  ]);
  expect(names(alignment)).toEqual([
    '__do_kernel_fault',
    'do_bad_area',
    'do_alignment_fault',
    'do_mem_abort',
  ]);
  expect(names(tagCheck)).toEqual(['__do_kernel_fault', 'do_bad_area', 'do_tag_check_fault', 'do_mem_abort']);
  expect(names(permission)).toEqual(['__do_kernel_fault', 'do_page_fault', 'do_mem_abort', 'el1_abort']);
  const progSides = [...translation, ...alignment, ...tagCheck, ...permission];
  for (const { fn, offset } of [...arm64.kernelSideFrames, ...progSides, arm64.bottomFrame]) {
    expect(known.get(fn) ?? 0).toBeGreaterThan(offset);
  }
});

test('the registers of a task have no BTYPE: the engine has FEAT_BTI, the machine has not', () => {
  const machine = new TestMachine();
  machine.cpu.write('pstate', 0x0040_0805n);
  machine.miss(K, ACCESS_READ);
  expect(machine.kernel.console).toContain('pstate: 00400005 (nzcv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)');
});
