/** What a fixture says about the task, its memory, the clock and the kernel, on the real machine. */
import { describe, expect, test } from '@jest/globals';
import { drain } from '../../emu/path.js';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { buildMachine } from '../build/build-machine.js';
import { type Fixture, parseFixture } from '../format/load.js';
import { Source } from '../format/source.js';
import { runFixture } from './run-fixture.js';

const engine = new NativeEngine(undefined, { reuse: true });

interface Words {
  readonly arch: 'x86-64' | 'arm64';
  /** Loads from the first argument and returns; stores the second one there. */
  readonly load: string;
  readonly store: string;
  readonly argument: string;
  /** What a user's read of its own zero page, mapped read-only, has as attributes. */
  readonly special: string;
}

const WORDS: readonly Words[] = [
  {
    arch: 'x86-64',
    load: '48 8b 07  mov rax, qword ptr [rdi]\nc3        ret',
    store: '48 89 37  mov qword ptr [rdi], rsi\nc3        ret',
    argument: 'rdi',
    special: 'PAGE_READONLY | 1 << 9',
  },
  {
    arch: 'arm64',
    load: 'f9400000  ldr x0, [x0]\nd65f03c0  ret',
    store: 'f9000001  str x1, [x0]\nd65f03c0  ret',
    argument: 'x0',
    special: 'PAGE_READONLY | 1 << 56',
  },
];

/** The lines of a console with time and caller, in a block of a fixture; anything may come before them. */
function consoleOf(lines: readonly string[]): string {
  return ['...', ...lines]
    .map((line) => (line === '...' ? '        ...' : `        [    1.750000][  T100] ${line}`))
    .join('\n');
}

function indent(code: string): string {
  return code.replaceAll(/^/gm, '      ');
}

describe.each(WORDS)('on $arch', ({ arch, load, store, argument, special }) => {
  const fixture = (body: string): string =>
    [
      'name: x',
      `arch: ${arch}`,
      'ram: 16MiB',
      'text:',
      `  - symbol: load\n    asm: |\n${indent(load)}`,
      `  - symbol: user_load\n    section: user\n    asm: |\n${indent(load)}`,
      `  - symbol: user_store\n    section: user\n    asm: |\n${indent(store)}`,
      body.replaceAll('ARG', argument).replaceAll('SPECIAL', special),
    ].join('\n');

  /** What does not hold. */
  const wrong = async (body: string): Promise<string[]> => {
    const loaded = parseFixture(new Source('f.yaml', fixture(body)));
    if (!loaded.ok) return loaded.errors.map((error) => error.format());
    const { failures, errors } = await runFixture(loaded.fixture, engine);
    return [
      ...errors.map((error) => error.format()),
      ...failures.map((f) => `${f.where}: ${f.expected} / ${f.actual}`),
    ];
  };

  test('the task of each CPU has a pid from the list, or the next one behind it', async () => {
    const body = `
cpus: 3
task: { pid: [7, 3] }
kfence: { objects: 3 }
steps:
  - { cpu: 2, slab: kmalloc, args: { size: 8 } }
  - { cpu: 1, slab: kmalloc, args: { size: 8 } }
  - { slab: kmalloc, args: { size: 8 } }
  - debugfs: kfence/objects
    expect:
      text: |
        ...
        allocated by task 4 on cpu 2 at 0.000000s (0.000000s ago):
        ...
        allocated by task 3 on cpu 1 at 0.000000s (0.000000s ago):
        ...
        allocated by task 7 on cpu 0 at 0.000000s (0.000000s ago):
        ...`;
    expect(await wrong(body)).toEqual([]);
  });

  test('a read of untouched memory maps the zero page, a write a page of its own', async () => {
    const body = `
data: [{ symbol: d, where: user, size: 8KiB, populate: false }]
steps:
  - user: user_load
    registers: { ARG: d + 8 }
    expect: { faults: [{ resolved_by: vm }], ptes: [{ va: d, value: "mk_pte(phys(d), SPECIAL)" }] }
  - user: user_store
    registers: { ARG: d + 8 }
    expect:
      faults: [{ resolved_by: vm, path: [do_wp_page, wp_page_copy] }]
      ptes: [{ va: d, value: page }, { va: d + PAGE_SIZE, value: none }]`;
    expect(await wrong(body)).toEqual([]);
  });

  test.each([
    ['sigbus', '{ kind: signal, signo: SIGBUS, code: BUS_ADRERR, address: d }'],
    ['sigsegv', '{ kind: signal, signo: SIGSEGV, code: SEGV_MAPERR, address: d }'],
    ['hwpoison', '{ kind: signal, signo: SIGBUS, code: BUS_MCEERR_AR, address: d }'],
    ['oom', 'livelock'],
    ['retry', 'returned'],
    ['retry_major', 'returned'],
    ['completed', 'returned'],
  ])('handle_mm_fault() that answers %s', async (fault, outcome) => {
    const body = `
data: [{ symbol: d, where: user, size: 4KiB, fault: ${fault} }]
steps: [{ user: user_store, registers: { ARG: d }, expect: { outcome: ${outcome} } }]`;
    expect(await wrong(body)).toEqual([]);
  });

  test('memory that nobody may touch, and a stack that grows', async () => {
    const body = `
data:
  - { symbol: forbidden, where: user, size: 4KiB, prot: none }
  - { symbol: stack, where: user, size: 4KiB, at: 0x20000000, grows_down: true }
steps:
  - user: user_load
    registers: { ARG: forbidden }
    expect: { outcome: { kind: signal, signo: SIGSEGV, code: SEGV_ACCERR, address: forbidden } }
  - user: user_store
    registers: { ARG: stack - 0x1008 }
    expect: { faults: [{ path: [lock_mm_and_find_vma], resolved_by: vm }] }
  - user: user_store
    registers: { ARG: stack - 0x900000 }
    expect: { outcome: { kind: signal, code: SEGV_MAPERR } }`;
    expect(await wrong(body)).toEqual([]);
  });

  test('locks that somebody else holds: user code waits, and its next fault has the per-VMA lock', async () => {
    const body = `
task: { mmap_lock: held }
data: [{ symbol: d, where: user, size: 8KiB, populate: false, write_locked: true }]
steps:
  - user: user_store
    registers: { ARG: d }
    expect: { faults: [{ path: [lock_vma_under_rcu, lock_mm_and_find_vma, handle_mm_fault], resolved_by: vm }] }
  - user: user_store
    registers: { ARG: d + PAGE_SIZE }
    expect: { faults: [{ path: [lock_vma_under_rcu, handle_mm_fault], not: [lock_mm_and_find_vma] }] }`;
    expect(await wrong(body)).toEqual([]);
  });

  test('no lock is held when a step is over', async () => {
    const body = `
data:
  - { symbol: d, where: user, size: 8KiB, populate: false }
  - { symbol: r, where: user, size: 4KiB, prot: r }
  - { symbol: s, where: user, size: 4KiB, fault: sigbus }
  - { symbol: t, where: user, size: 4KiB, fault: retry }
steps:
${['d', 'r', 's', 't', '0'].flatMap((at) => ['user_load', 'user_store'].map((code) => `  - { user: ${code}, registers: { ARG: ${at} } }`)).join('\n')}`;
    const loaded = parseFixture(new Source('f.yaml', fixture(body)));
    if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
    const { machine } = await buildMachine(loaded.fixture, engine);
    try {
      const mm = machine.system.userMm();
      const held: number[] = [];
      loaded.fixture.data.steps.forEach((step) => {
        if (!('user' in step)) return;
        const at = Object.values(step.registers ?? {})[0]?.value(machine.scope) ?? 0n;
        drain(machine.user(0, step.user.value(machine.scope), new Map([[argument, at]]), null, null));
        held.push(mm.readers, ...mm.vmas.map(({ readers }) => readers));
      });
      expect(held.length).toBeGreaterThan(60);
      expect(held.every((readers) => readers === 0)).toBe(true);
    } finally {
      machine.close();
    }
  });

  test('a kernel thread has no user memory, unless it has borrowed the tables', async () => {
    const body = (task: string, memory: string): string => `
task: { ${task} }
data: [{ symbol: d, where: user, words: [0x4141] }]
steps: [{ check: ${memory} }]`;
    expect(
      await wrong(body('kthread: true, borrows_mm: true', '{ memory: [{ at: d, u16: 0x4141 }] }')),
    ).toEqual([]);
    expect(await wrong(body('kthread: true', '{ memory: [{ at: d, u16: 0x4141 }] }'))).toEqual([
      'step 1 check.memory[0].u16: 0x4141 / not mapped',
    ]);
  });

  test('a kernel thread has tables at the most, no address space', async () => {
    const parsed = (task: string): Fixture => {
      const loaded = parseFixture(new Source('f.yaml', fixture(`task: { ${task} }\nsteps: [{ check: {} }]`)));
      if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
      return loaded.fixture;
    };
    const taskOf = async (task: string): Promise<readonly unknown[]> => {
      const { machine } = await buildMachine(parsed(task), engine);
      const { mm, active_mm } = machine.system.here().current;
      machine.close();
      return [mm?.name, active_mm.name];
    };
    expect(await taskOf('comm: t')).toEqual(['t', 't']);
    expect(await taskOf('comm: t, kthread: true')).toEqual([undefined, 'init_mm']);
    expect(await taskOf('comm: t, kthread: true, borrows_mm: true')).toEqual([undefined, 't']);
  });

  test('time, taint, modules and hardware are those of the fixture; behind a panic nothing runs', async () => {
    const modules = 'Modules linked in: nvidia(POE) vfat';
    const taint = 'Tainted: [P]=PROPRIETARY_MODULE, [W]=WARN, [O]=OOT_MODULE, [E]=UNSIGNED_MODULE';
    // The order of these lines is the architecture's.
    const parts =
      arch === 'arm64'
        ? [modules, '...', taint, 'Hardware name: a box', '...']
        : [taint, 'Hardware name: a box', '...', modules, '...'];
    const body = `
clock: 1.5
console: { time: true, caller: true }
config: { taint: W, modules: [{ name: nvidia, flags: POE }, { name: vfat }], hardware: a box, panic_on_oops: true }
steps:
  - call: load
    advance: 0.25
    registers: { ARG: 8 }
    context: { preempt_count: 1, irqs_disabled: true }
    expect:
      outcome: panic
      taint: "Tainted: P      D W  OE      "
      console: |
${consoleOf(parts)}
  - call: load
    expect: { outcome: { kind: stopped, why: "the kernel has panicked: nothing runs on this machine any more" } }`;
    expect(await wrong(body)).toEqual([]);
  });
});

test('a protection key is in the entries of pages that are populated', async () => {
  const loaded = parseFixture(
    new Source(
      'f.yaml',
      `
name: x
arch: x86-64
config: { PKE: true }
data:
  - { symbol: d, where: user, size: 4KiB, pkey: 5 }
steps: [{ check: { ptes: [{ va: d, value: "mk_pte(phys(d), PAGE_SHARED) | 5 << 59" }] } }]
`,
    ),
  );
  if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
  const { failures, errors } = await runFixture(loaded.fixture, engine);
  expect([...errors, ...failures.map((f) => `${f.where}: ${f.expected} / ${f.actual}`)]).toEqual([]);
});
