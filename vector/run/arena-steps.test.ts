/** Steps and expectations about arenas, what fails in them and what happens in their middle. */
import { describe, expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { type Fixture, type LoadResult, parseFixture } from '../format/load.js';
import { Source } from '../format/source.js';
import { explainFixture } from '../report/explain-fixture.js';
import { runFixture } from './run-fixture.js';

const engine = new NativeEngine(undefined, { reuse: true });

interface Side {
  readonly arch: string;
  readonly load: string;
  readonly enter: string;
  readonly leave: string;
  readonly call: string;
  readonly arg: string;
  readonly kept: string;
  /** A function that fills its part of the stack with its argument. */
  readonly deep: string;
}
const X86: Side = {
  arch: 'x86-64',
  load: '48 8b 07 mov rax, qword ptr [rdi]',
  enter: '55 push rbp\n      48 89 e5 mov rbp, rsp',
  leave: '5d pop rbp\n      c3 ret',
  call: 'call read_word',
  arg: 'rdi',
  kept: 'r12',
  deep: '57 push rdi\n      57 push rdi\n      57 push rdi\n      57 push rdi\n      48 83 c4 20 add rsp, 32\n      c3 ret',
};
const ARM64: Side = {
  arch: 'arm64',
  load: 'f9400001 ldr x1, [x0]',
  enter: 'a9bf7bfd stp x29, x30, [sp, #-16]!\n      910003fd mov x29, sp',
  leave: 'a8c17bfd ldp x29, x30, [sp], #16\n      d65f03c0 ret',
  call: 'bl read_word',
  arg: 'x0',
  kept: 'x20',
  deep:
    'a9bf03e0 stp x0, x0, [sp, #-16]!\n      a9bf03e0 stp x0, x0, [sp, #-16]!\n      910083ff add sp, sp, #32\n' +
    '      d65f03c0 ret',
};

const fixture = ({ arch, load, enter, leave, call, deep }: Side, steps: string, keys = ''): string => `name: x
arch: ${arch}
${keys}cpus: 2
arenas:
  a: { max_entries: 16, map_extra: 0x7f7d26200000 }
  b: { max_entries: 16, map_extra: 0x7f7d36200000, when: step }
programs: { p: { arena: a } }
text:
  - symbol: bpf_p
    program: p
    asm: |
      ${enter}
      ${call}
      ${leave}
  - symbol: read_word
    asm: |
      ${enter}
      ${load}
      ${leave}
  - symbol: deep
    asm: |
      ${deep}
  - symbol: user_load
    section: user
    asm: |
      ${load}
      ${arch === 'arm64' ? 'd65f03c0 ret' : 'c3 ret'}
steps:
${steps}`;

function parse(text: string): LoadResult {
  return parseFixture(new Source('f.yaml', text));
}

function loaded(text: string): Fixture {
  const result = parse(text);
  if (!result.ok) throw new Error(result.errors.map((error) => error.format()).join('\n'));
  return result.fixture;
}

/** What is wrong with a fixture of these steps: messages with hints, failures with what came. */
async function wrong(steps: string, side = X86, keys = ''): Promise<string[]> {
  const result = parse(fixture(side, steps, keys));
  if (!result.ok)
    return result.errors.map(({ message, hint }) => (hint === '' ? message : `${message} | ${hint}`));
  const { errors, failures } = await runFixture(result.fixture, engine);
  return [
    ...errors.map(({ message, hint }) => (hint === '' ? message : `${message} | ${hint}`)),
    ...failures.map(({ where, actual }) => `${where}: ${actual}`),
  ];
}

const ALLOC = '  - kfunc: bpf_arena_alloc_pages\n    args: { map: a, addr: a.upage(3), page_cnt: 2 }\n';
const at = (fn: string, testText: string, nth = 1): string =>
  `    meanwhile:\n      - at: { fn: ${fn}, test: '${testText}', nth: ${nth} }\n        steps:\n`;
const SET = at('apply_range_set_cb', '!pte_none(ptep_get(pte))');

describe.each([X86, ARM64])('in the middle of a step, $arch', (side) => {
  const { arg, kept } = side;

  test('another CPU acts between the look at an entry and the store', async () => {
    const scratched = `${ALLOC}${SET}          - call: bpf_p
            cpu: 1
            registers: { ${arg}: a.page(3) }
            expect: { faults: [{ resolved_by: scratch }], ptes: [{ va: a.page(3), value: scratch(a) }] }
    expect: { ret: a.upage(3), ptes: [{ va: a.page(3), value: page }] }`;
    expect(await wrong(scratched, side)).toEqual([]);
  });

  test('what is nested in a fault on the same CPU leaves its registers and its stack alone', async () => {
    const nested = `  - call: bpf_p
    registers: { ${arg}: a.page(3), ${kept}: 0x1234 }
${at('apply_range_set_scratch_cb', '!pte_none(ptep_get(pte))')}          - call: bpf_p
            registers: { ${arg}: a.page(4), ${kept}: 0x99 }
            expect: { faults: [{ address: a.page(4) }], registers: { ${kept}: 0x99 }, calls: { bpf_arena_handle_page_fault: 1 } }
          - { call: deep, registers: { ${arg}: 0x5555 } }
    expect:
      faults: [{ address: a.page(3), resolved_by: scratch }]
      registers: { ${arg}: a.page(3), ${kept}: 0x1234 }
      calls: { bpf_arena_handle_page_fault: 1 }
      arenas: { a: { scratched: 2 } }`;
    expect(await wrong(nested, side)).toEqual([]);
  });

  test('a place behind a step on the same CPU is waited for all the same', async () => {
    const second = `      - at: { fn: apply_range_set_cb, test: '!pte_none(ptep_get(pte))', nth: 2 }
        steps: [{ kfunc: bpf_arena_reserve_pages, args: { map: a, ptr: a.upage(9) }, cpu: 1, expect: { ret: -EBUSY } }]\n`;
    const steps = `${ALLOC}${SET}          - call: bpf_p
            registers: { ${arg}: a.page(7) }
${second}    expect: { ret: a.upage(3) }`;
    expect(await wrong(steps, side)).toEqual([]);
  });

  test('kernel code is nested in a fault of user code', async () => {
    const nested = `  - mmap: { arena: a, addr: a.user }
  - user: user_load
    registers: { ${arg}: a.upage(3), ${kept}: 0x1234 }
${at('arena_vm_fault', 'raw_res_spin_lock_irqsave()')}          - call: bpf_p
            registers: { ${arg}: a.page(4) }
            expect: { faults: [{ resolved_by: scratch }] }
    expect: { faults: [{ resolved_by: vm }], registers: { ${kept}: 0x1234 }, arenas: { a: { pages: 1, scratched: 1 } } }`;
    expect(await wrong(nested, side)).toEqual([]);
  });

  test('a process has an address space of its own', async () => {
    const steps = `  - { mmap: { arena: a, addr: a.user }, process: other, expect: { ret: a.user } }
  - user: user_load
    process: other
    registers: { ${arg}: a.upage(3) }
    expect: { arenas: { a: { pages: 1, mappings: 1 } }, frames: [{ at: a.page(3), refs: 2, mapped: 1 }] }
  - user: user_load
    registers: { ${arg}: a.upage(3) }
    expect: { outcome: signal }
  - call: bpf_p
    registers: { ${arg}: a.page(5) }
    expect: { streams: { p: { stderr: ["...", "CPU: 0 UID: 0 PID: 100 Comm: kfault", "..."] } } }
  - { munmap: { addr: a.user, length: 0x10000 }, process: other, expect: { ret: 0, arenas: { a: { mappings: 0 } } } }`;
    expect(await wrong(steps, side)).toEqual([]);
  });
});

describe('a place that the step does not come to', () => {
  test.each([
    [
      at('apply_range_set_c', 'x'),
      '`apply_range_set_c` decides nothing in this step: did you mean `apply_range_set_cb`? | What decides in it: ' +
        'bpf_arena_alloc_pages, arena_alloc_pages and apply_range_set_cb.',
    ],
    [
      at('apply_range_set_cb', 'pte_none(pte)'),
      '`apply_range_set_cb` does not decide `pte_none(pte)` in this step | It decides `!pte_none(ptep_get(pte))` (2 times).',
    ],
    [
      at('apply_range_set_cb', '!pte_none(ptep_get(pte))', 3),
      '`apply_range_set_cb` decides `!pte_none(ptep_get(pte))` only 2 times in this step, not 3 times',
    ],
  ])('%s', async (place, message) => {
    expect(await wrong(`${ALLOC}${place}          - check: {}`)).toEqual([message]);
  });
});

describe('an arena cannot go while somebody has it', () => {
  const destroy = '          - { destroy: a, cpu: 1 }\n';
  const refused = (holder: string): string[] => [
    `arena \`a\` cannot be destroyed here: ${holder} has it, and with it a reference`,
  ];

  test('a call on it', async () => {
    const steps = `${ALLOC}${SET}${destroy}`;
    expect(await wrong(steps)).toEqual(refused('bpf_arena_alloc_pages(), which is under way,'));
  });

  test('its lock', async () => {
    const steps = `  - { mmap: { arena: a, addr: a.user }, expect: { ret: a.user } }
  - user: user_load
    registers: { rdi: a.upage(3) }
${at('arena_vm_fault', 'page')}${destroy}`;
    expect(await wrong(steps)).toEqual(refused('CPU 0, which holds arena->spinlock,'));
  });

  test('a program that runs', async () => {
    const steps = `  - call: bpf_p
    registers: { rdi: a.page(3) }
${at('bpf_arena_handle_page_fault', 'prog->aux->arena')}${destroy}`;
    expect(await wrong(steps)).toEqual(refused('program p, which runs on CPU 0,'));
  });

  test('its worker, and whoever destroys it already', async () => {
    const free = `${ALLOC}  - { kfunc: bpf_arena_free_pages_non_sleepable, args: { map: a, ptr: a.upage(3), page_cnt: 2 } }\n`;
    const place = at('arena_free_worker', 'raw_res_spin_lock_irqsave()');
    expect(await wrong(`${free}  - kernel: run_deferred\n${place}${destroy}`)).toEqual(
      refused('arena_free_worker(), which is under way,'),
    );
    expect(await wrong(`${free}  - destroy: a\n${place}${destroy}`)).toEqual(
      refused('arena_map_free(), which is under way,'),
    );
  });
});

describe('a call that the kernel does not come back from', () => {
  const LOOP = `  - pte: { va: a.page(3), value: 0x60 }\n${ALLOC}`;
  const later = (steps: string) => wrong(steps, X86, 'config: { arena: L1 }\n');

  test('has its outcome instead of a result', async () => {
    const outcome = 'outcome: { kind: livelock, address: a.page(3), turns: 16 }';
    expect(await later(`${LOOP}    expect: { ${outcome} }`)).toEqual([]);
    expect((await later(`${LOOP}    expect: { ${outcome}, ret: 0 }`)).join()).toContain('nothing');
    expect((await later(LOOP)).join()).toContain('livelock: 16 turns for 0x');
  });

  test('and a call that returns has none', async () => {
    const problems = await wrong(`${ALLOC}    expect: { outcome: livelock }`);
    expect(problems.join()).toContain('returned');
  });
});

describe('what fails', () => {
  test.each([
    ['page: {}', '0'],
    ['page: { after: 1 }', '0'],
    ['pages: {}', '0'],
    ['lock: EDEADLK', '0'],
    ['lock: { errno: ETIMEDOUT, times: all }', '0'],
  ])('%s', async (inject, ret) => {
    const failing = `${ALLOC}    inject: { ${inject} }\n    expect: { ret: ${ret}, arenas: { a: { ranges: 0-15 } } }\n`;
    expect(await wrong(`${failing}${ALLOC}    expect: { ret: a.upage(3) }`)).toEqual([]);
  });

  test.each([
    ['page: { after: 2 }', '`page` was to fail in this step, but it was not tried (often enough)'],
    ['page: { times: 2 }', '`page` was to fail in this step, but it was not tried (often enough)'],
    ['vma_list: { times: all }', '`vma_list` was to fail in this step, but it was not tried (often enough)'],
    ['', 'nothing fails here: name what is to fail'],
    ['lock: EBUSY', 'EDEADLK or ETIMEDOUT is wanted here'],
    ['pagee: {}', 'unknown key `pagee`: did you mean `page`?'],
  ])('%s is a mistake', async (inject, message) => {
    expect(await wrong(`${ALLOC}    inject: { ${inject} }`)).toEqual([message]);
  });

  test('a step in the middle has only its own failures', async () => {
    const inner = `${ALLOC}    inject: { page: { after: 2 } }
${SET}          - kfunc: bpf_arena_alloc_pages
            args: { map: a, addr: a.upage(9) }
            cpu: 1
            inject: { lock: EDEADLK }
            expect: { ret: 0 }
          - { check: {} }
    expect: { ret: a.upage(3) }`;
    expect(await wrong(inner)).toEqual([
      '`page` was to fail in this step, but it was not tried (often enough)',
    ]);
    const other = inner.replace('page: { after: 2 }', 'lock: { errno: EDEADLK, after: 1 }');
    expect(await wrong(other)).toEqual([
      '`lock` was to fail in this step, but it was not tried (often enough)',
    ]);
  });
});

describe('mistakes about mappings and creation', () => {
  test.each([
    ['  - create: a', 'arena `a` is there from the start | Say `when: step` where it is declared.'],
    ['  - create: c', "unknown arena `c`: did you mean `a`? | The fixture's arenas: a and b."],
    ['  - { create: b, expect: { ret: 0 } }\n  - create: b', 'arena `b` exists already'],
    ['  - mmap: { arena: b }', 'arena `b` does not exist now'],
    [
      '  - mmap: { arena: a, flags: [shared, private] }',
      'a mapping is either shared or private: exactly one of them is wanted',
    ],
    [
      '  - mremap: { addr: 0, length: 1, new_addr: 2 }',
      'nobody looks at a new address without MREMAP_FIXED or MREMAP_DONTUNMAP | Add fixed to the flags.',
    ],
    [
      '  - { user: 0, process: 1a }',
      '`1a`: a process has a name of letters, digits and _, and it does not begin with a digit',
    ],
    [
      `${ALLOC}${SET}          - { check: {}, cpu: 2 }`,
      'there is no CPU 2: the fixture has 2 | The key cpus at the top says how many there are; they count from 0.',
    ],
    [`${ALLOC}${SET}          - { clal: 0 }`, 'unknown key `clal`: did you mean `call`?'],
    [
      '  - { check: { arenas: { a: { ranges: 0-99 foo } } } }',
      '`0-99 foo`: ranges of pages are written like "0-2 4 7-15", or none',
    ],
    [
      '  - { kfunc: bpf_arena_reserve, args: { map: a, ptr: a.user } }',
      '`bpf_arena_reserve` is not known here | It must be one of ' +
        'bpf_arena_alloc_pages, bpf_arena_alloc_pages_non_sleepable, bpf_arena_alloc_pages_sleepable, ' +
        'bpf_arena_free_pages, bpf_arena_free_pages_non_sleepable and bpf_arena_reserve_pages.',
    ],
  ])('%s', async (steps, message) => {
    expect(await wrong(steps)).toEqual([message]);
  });
});

test('expectations about arenas and pages fail by name', async () => {
  const steps = `  - kfunc: bpf_arena_alloc_pages
    args: { map: a, page_cnt: 2 }
    expect:
      arenas: { a: { exists: false, ranges: 3-15, deferred: "1", queued: work, user_vm_start: 0, user_vm_end: 0, mappings: 1 } }
      frames: [{ at: a.page(0), refs: 2, mapped: 1, owner: somebody }, { at: a.page(5) }]
      same_page: [[a.page(0), a.page(1)]]
      in_use: { bpf arena: 3 }
      arena_areas: 0
      calls: { arena_alloc_pages: 2 }
      tlb_flushes: [all]
      pages_taken: 3
      pages_freed: 1
      path: [arena_free_pages]
      not: [arena_alloc_pages]
      decisions: [{ test: page_cnt > page_cnt_max, value: true }]`;
  expect((await wrong(steps)).map((line) => line.replace('step 1 expect.', ''))).toEqual([
    'arenas.a.exists: true',
    'arenas.a.mappings: 0',
    'arenas.a.ranges: 2-15',
    'arenas.a.deferred: none',
    'arenas.a.queued: none',
    'arenas.a.user_vm_start: 0x7f7d26200000',
    'arenas.a.user_vm_end: 0x7f7d26210000',
    'frames[0].refs: 1',
    'frames[0].mapped: 0',
    'frames[0].owner: bpf arena',
    'frames[1].at: not mapped',
    'same_page[0]: not one page',
    'in_use.bpf arena: 2',
    'arena_areas: 1',
    'path[0]: arena_free_pages not entered',
    'not[0]: arena_alloc_pages entered',
    'decisions[0].value: false',
    'calls.arena_alloc_pages: 1',
    'tlb_flushes: none',
    'pages_taken: 2',
    'pages_freed: 0',
  ]);
});

test('an arena that is still mapped stays when it is destroyed', async () => {
  const steps = `  - mmap: { arena: a, addr: a.user }
  - destroy: a
    expect: { arenas: { a: { exists: true, mappings: 1 } }, in_use: { bpf arena scratch: 1 }, pages_freed: 0 }
  - munmap: { addr: a.user, length: 0x10000 }
  - destroy: a
    expect: { arenas: { a: { exists: false } }, in_use: { bpf arena scratch: 0 }, arena_areas: 0 }`;
  expect(await wrong(steps)).toEqual([]);
});

test('an errno that nobody expects is a failure; one that is expected is none', async () => {
  const steps = `  - mmap: { arena: a, addr: 0 }
  - mmap: { arena: a, addr: 0 }
    expect: { ret: -EINVAL }
  - munmap: { addr: a.user + 1, length: 0x1000 }
  - mremap: { addr: a.user, length: 0x1000 }
    expect: { arenas: { a: { mappings: 0 } } }
  - create: b
    inject: { vm_area: {} }`;
  expect(await wrong(steps)).toEqual([
    'step 1 expect.ret: -EINVAL',
    'step 3 expect.ret: -EINVAL',
    'step 4 expect.ret: -EFAULT',
    'step 5 expect.ret: -ENOMEM',
  ]);
});

test('a mapping goes to the user address of its arena where no other is given', async () => {
  const steps = `  - mmap: { arena: a }
    expect: { ret: a.user }
  - mmap: { arena: a }
    process: other
    expect: { ret: a.user, arenas: { a: { mappings: 2 } } }`;
  expect(await wrong(steps)).toEqual([]);
});

test('the story of a step tells what happened in its middle, and where', async () => {
  const steps = `${ALLOC}${SET}          - { name: the other, kfunc: bpf_arena_reserve_pages, args: { map: a, ptr: a.upage(9) }, cpu: 1 }`;
  const story = await explainFixture(loaded(fixture(X86, steps)), engine, { step: null });
  expect(story).toContain(
    '  In the middle of it, behind apply_range_set_cb: !pte_none(ptep_get(pte)): kfunc bpf_arena_reserve_pages  (the other)',
  );
  expect(
    story.filter((line) => line.includes('arena_reserve_pages(')).every((line) => line.startsWith('    ')),
  ).toBe(true);
});
