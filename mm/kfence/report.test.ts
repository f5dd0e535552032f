import { describe, expect, test } from '@jest/globals';
import {
  KFENCE_ERROR_CORRUPTION,
  KFENCE_ERROR_INVALID,
  KFENCE_ERROR_INVALID_FREE,
  KFENCE_ERROR_OOB,
  KFENCE_ERROR_UAF,
} from './kfence.js';
import { early_kfence_fault, get_stack_skipnr, show_objects } from './report.js';
import { kmalloc32, TestKfence } from './testing.js';

const RULER = '='.repeat(66);

describe('what is left out at the start of a stack', () => {
  test.each([
    [['check_canary_byte', 'kfence_guarded_free', '__kfence_free', '__slab_free', 'kfree', 'F', 'T'], 5],
    [['check_canary_byte', 'kfence_guarded_free', '__kfence_free', '__slab_free', 'F', 'T'], 4],
    [['F', 'G'], 0],
    [['kfence_x', 'kfree'], 0],
    [['kfence_guarded_free', '__kfence_free', 'kfree', 'F'], 3],
    [['__kfence_alloc', '__kmalloc_noprof', 'F'], 2],
    [['__kfence_alloc', 'kmem_cache_alloc_noprof', 'F'], 2],
    [['kfree_skbmem', 'F'], 1],
    [['kfence_a', 'kfence_b'], 0],
    // A name that the other one begins with counts, not the other way round.
    [['__slab', 'F'], 1],
    [['__slab_free_bulk', 'F'], 0],
    [[], 0],
  ])('%j', (names, skipnr) => {
    expect(get_stack_skipnr(names, null)).toBe(skipnr);
    expect(get_stack_skipnr(names, KFENCE_ERROR_CORRUPTION)).toBe(skipnr);
    expect(get_stack_skipnr(names, KFENCE_ERROR_INVALID_FREE)).toBe(skipnr);
    for (const type of [KFENCE_ERROR_OOB, KFENCE_ERROR_UAF, KFENCE_ERROR_INVALID] as const) {
      expect(get_stack_skipnr(names, type)).toBe(0);
    }
  });
});

test('kfence.fault= is one of three words', () => {
  expect(['report', 'oops', 'panic', 'Panic', '', null].map(early_kfence_fault)).toEqual([
    'report',
    'oops',
    'panic',
    null,
    null,
    null,
  ]);
});

test('a report, line for line', () => {
  const machine = new TestKfence();
  const { cpu, here, kfence } = machine;
  here.current.pid = 484;
  cpu.clock.advance(32_919_330);
  kfence.callers = machine.stack('__kmalloc_noprof', 'H');
  machine.alloc(kmalloc32(), 32, { slot: 72, side: 'left' });
  cpu.clock.advance(15);
  machine.fault(machine.at(0x91fff));
  expect(machine.cpu.console.linesWithLevels(1)).toEqual([
    `<3>${RULER}`,
    '<3>BUG: KFENCE: out-of-bounds read in F+0x4/0x10',
    '<3>',
    '<3>Out-of-bounds read at 0xffff888003e91fff (1B left of kfence-#72):',
    '<4> F+0x4/0x10',
    '<4> G+0x4/0x10',
    '<3>',
    '<4>kfence-#72: 0xffff888003e92000-0xffff888003e9201f, size=32, cache=kmalloc-32',
    '<4>',
    '<4>allocated by task 484 on cpu 0 at 32.919330s (0.000015s ago):',
    '<4> H+0x4/0x10',
    '<3>',
    '<4>show_regs',
    `<3>${RULER}`,
  ]);
});

test('with hashed pointers no register is printed, and the first report has not tainted yet', () => {
  const machine = new TestKfence({ config: { no_hash_pointers: false } });
  machine.fault(machine.at(0xa));
  const first = machine.console();
  expect(first.slice(-2)).toEqual([
    'CPU: 0 UID: 0 PID: 100 Comm: t Not tainted 7.1.0-rc5 #1 PREEMPT(full) ',
    RULER,
  ]);
  expect(first[3]).toMatch(/^Invalid read at 0x00000000[0-9a-f]{8}:$/);
  machine.fault(machine.at(0x1000), true);
  // One column for each of the 20 flags.
  expect(machine.console().slice(-3)).toEqual([
    `CPU: 0 UID: 0 PID: 100 Comm: t Tainted: G    B${' '.repeat(14)} 7.1.0-rc5 #1 PREEMPT(full) `,
    'Tainted: [B]=BAD_PAGE',
    RULER,
  ]);
});

test('an invalid access has no object, an unused object no history, and a missing stack says so', () => {
  const machine = new TestKfence();
  machine.fault(machine.at(0xa), true);
  expect(machine.console()).toEqual([
    RULER,
    'BUG: KFENCE: invalid write in F+0x4/0x10',
    '',
    'Invalid write at 0xffff888003e0000a:',
    ' F+0x4/0x10',
    ' G+0x4/0x10',
    '',
    'show_regs',
    RULER,
  ]);
  machine.free(machine.at(0x2000));
  const unused = machine.console();
  expect(unused).toContain('kfence-#0 unused');
  expect(unused).toContain('BUG: KFENCE: invalid free in F+0x4/0x10');
  expect(unused.some((line) => line.startsWith('allocated by'))).toBe(false);
});

test('the files of debugfs', () => {
  const machine = new TestKfence({ num_objects: 2 });
  machine.kfence.callers = [];
  machine.free(machine.alloc(kmalloc32(), 32, { side: 'left' }));
  const here = machine.here;
  expect(machine.kfence.stats_show()).toBe(
    'enabled: 1\ncurrently allocated: 0\ntotal allocations: 1\ntotal frees: 1\nzombie allocations: 0\n' +
      'total bugs: 0\nskipped allocations (incompatible): 0\nskipped allocations (capacity): 0\n' +
      'skipped allocations (covered): 0\n',
  );
  const start = machine.at(0x2000).toString(16);
  expect(show_objects(here, machine.kfence)).toBe(
    `kfence-#0: 0x${start}-0x${start.slice(0, -2)}1f, size=32, cache=kmalloc-32\n\n` +
      'allocated by task 100 on cpu 0 at 0.000000s (0.000000s ago):\n __kfence_alloc+0xb4/0x10\n\n' +
      'freed by task 100 on cpu 0 at 0.000000s (0.000000s ago):\n' +
      ' kfence_guarded_free+0x9c/0x10\n __kfence_free+0x7c/0x10\n' +
      `${'-'.repeat(33)}\nkfence-#1 unused\n${'-'.repeat(33)}\n`,
  );
});
