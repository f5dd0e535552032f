import { describe, expect, test } from '@jest/globals';
import type { Event, RunOutcome } from '../../emu/events.js';
import { FakeMachine, fakeFixture, MAPPED, scratchFault } from '../machine/fake-machine.js';
import { runSteps } from '../run/run-steps.js';
import type { Failure } from './failure.js';

const HEX = `0x${MAPPED.toString(16)}`;
const STDERR = 'ERROR: Arena WRITE access at unmapped address 0x7f7d26203000\\nCPU: 0\\n\\n';

function failures(
  body: string,
  script: readonly Event[] = scratchFault(),
  outcome: RunOutcome = { kind: 'returned' },
): readonly Failure[] {
  return runSteps(fakeFixture(body), new FakeMachine(script, outcome)).failures;
}

/** Every failure in short. */
function shorts(list: readonly Failure[]): string[] {
  return list.map((f) => `${f.where}: ${f.expected} / ${f.actual}`);
}

const call = (expectation: string): string => `steps: [{ call: f, expect: { ${expectation} } }]`;
const fault = (expectation: string): string => call(`faults: [{ ${expectation} }]`);

/** Each kind of expectation: one that holds, the same one changed, and the only failure that may come. */
const KINDS: readonly [kind: string, holds: string, changed: string, failure: string][] = [
  ['outcome', call('outcome: returned'), call('outcome: oops'), 'step 1 expect.outcome: oops / returned'],
  ['faults', call('faults: [{}]'), call('faults: []'), 'step 1 expect.faults: no faults / 1 fault'],
  [
    'a fault too many',
    call('faults: [{}]'),
    call('faults: [{}, {}]'),
    'step 1 expect.faults: 2 faults / 1 fault',
  ],
  [
    'address',
    fault('address: 0xffffc9002806c000'),
    fault('address: 0xffffc9002806d000'),
    'step 1 expect.faults[0].address: 0xffffc9002806d000 / 0xffffc9002806c000',
  ],
  [
    'error_code',
    fault('error_code: 2'),
    fault('error_code: 3'),
    'step 1 expect.faults[0].error_code: 0x3 / 0x2',
  ],
  ['access', fault('access: write'), fault('access: read'), 'step 1 expect.faults[0].access: read / write'],
  [
    'exception',
    fault('exception: "#PF"'),
    fault('exception: "#GP"'),
    'step 1 expect.faults[0].exception: #GP / #PF',
  ],
  [
    'pc',
    fault('pc: f + 4'),
    fault('pc: f'),
    'step 1 expect.faults[0].pc: 0xffffffff81000000 (f+0x0) / 0xffffffff81000004 (f+0x4)',
  ],
  [
    'path',
    fault('path: [page_fault_oops, bpf_arena_handle_page_fault]'),
    fault('path: [page_fault_oops, fixup_exception]'),
    'step 1 expect.faults[0].path[1]: fixup_exception entered after page_fault_oops / fixup_exception not entered',
  ],
  [
    'order of the path',
    fault('path: [kfence_handle_page_fault, bpf_arena_handle_page_fault]'),
    fault('path: [bpf_arena_handle_page_fault, kfence_handle_page_fault]'),
    'step 1 expect.faults[0].path[1]: kfence_handle_page_fault entered after bpf_arena_handle_page_fault / kfence_handle_page_fault entered only before bpf_arena_handle_page_fault',
  ],
  [
    'not',
    fault('not: [fixup_exception]'),
    fault('not: [page_fault_oops]'),
    'step 1 expect.faults[0].not[0]: page_fault_oops not entered / page_fault_oops entered',
  ],
  [
    'decisions',
    fault('decisions: [{ test: "error_code & X86_PF_PROT", value: false }, { test: nr, value: 3 }]'),
    fault('decisions: [{ test: "error_code & X86_PF_PROT", value: true }]'),
    'step 1 expect.faults[0].decisions[0].value: true / false',
  ],
  [
    'decisions about numbers',
    fault('decisions: [{ fn: page_fault_oops, test: nr, value: 3 }]'),
    fault('decisions: [{ fn: page_fault_oops, test: nr, value: 4 }]'),
    'step 1 expect.faults[0].decisions[0].value: 4 / 3',
  ],
  [
    'decisions never taken',
    fault('decisions: []'),
    fault('decisions: [{ fn: other, test: nr, value: 3 }]'),
    'step 1 expect.faults[0].decisions[0].test: other: nr / not decided',
  ],
  [
    'resolved_by',
    fault('resolved_by: scratch'),
    fault('resolved_by: kfence'),
    'step 1 expect.faults[0].resolved_by: kfence / scratch',
  ],
  [
    'stream of a fault',
    fault(`stream: "${STDERR}"`),
    fault('stream: []'),
    'step 1 expect.faults[0].stream: no text / ERROR: Arena WRITE access at unmapped address 0x7f7d26203000 … (3 lines)',
  ],
  [
    'registers',
    call('registers: { rax: 0x4141 }'),
    call('registers: { rax: 0x4142 }'),
    'step 1 expect.registers.rax: 0x4142 / 0x4141',
  ],
  [
    'a taint that differs in blanks at its end',
    call('taint: Not tainted'),
    call('taint: "Not tainted "'),
    'step 1 expect.taint: "Not tainted " / Not tainted',
  ],
  ['taint', call('taint: Not tainted'), call('taint: Tainted'), 'step 1 expect.taint: Tainted / Not tainted'],
  [
    'memory',
    call(`memory: [{ at: ${HEX}, u32: 0x03020100 }]`),
    call(`memory: [{ at: ${HEX}, u32: 0x03020101 }]`),
    'step 1 expect.memory[0].u32: 0x3020101 / 0x3020100',
  ],
  [
    'bytes in memory',
    call(`memory: [{ at: ${HEX}, bytes: "00 01 02" }]`),
    call(`memory: [{ at: ${HEX}, bytes: "00 01 03" }]`),
    'step 1 expect.memory[0].bytes: 00 01 03 / 00 01 02',
  ],
  [
    'memory that is not mapped',
    call('memory: []'),
    call('memory: [{ at: 0, u8: 0 }]'),
    'step 1 expect.memory[0].u8: 0x0 / not mapped',
  ],
  [
    'ptes',
    call(`ptes: [{ va: ${HEX}, value: 0x8000000000001163 }]`),
    call(`ptes: [{ va: ${HEX}, value: 0x8000000000001161 }]`),
    'step 1 expect.ptes[0].value: 0x8000000000001161 / 0x8000000000001163 at level pte',
  ],
  [
    'ptes that are none',
    call('ptes: [{ va: 0x1000, value: none }]'),
    call(`ptes: [{ va: ${HEX}, value: none }]`),
    'step 1 expect.ptes[0].value: none / 0x8000000000001163 at level pte',
  ],
  [
    'ptes that map a page',
    call(`ptes: [{ va: ${HEX}, value: page }]`),
    call('ptes: [{ va: a.kern, value: page }]'),
    'step 1 expect.ptes[0].value: a present page, not a scratch page / 0x8000000001234163 at level pte, a scratch page',
  ],
  [
    'ptes that map the scratch page',
    call('ptes: [{ va: a.kern, value: scratch(a) }]'),
    call('ptes: [{ va: 0x1000, value: scratch(a) }]'),
    'step 1 expect.ptes[0].value: 0x8000000001234163 / 0x0 at level pte',
  ],
  [
    'ptes of a level',
    call(`ptes: [{ va: ${HEX}, level: pmd, value: 0x2063 }]`),
    call(`ptes: [{ va: ${HEX}, level: pmd, value: 0x2067 }]`),
    'step 1 expect.ptes[0].value: 0x2067 / 0x2063 at level pmd',
  ],
  [
    'arenas',
    call('arenas: { a: { pages: 2, scratched: 1, free: 14 } }'),
    call('arenas: { a: { pages: 2, scratched: 0, free: 14 } }'),
    'step 1 expect.arenas.a.scratched: 0 / 1',
  ],
  [
    'pages of an arena',
    call('arenas: { a: { pages: 2 } }'),
    call('arenas: { a: { pages: 0x10 } }'),
    'step 1 expect.arenas.a.pages: 16 / 2',
  ],
  [
    'free pages in the range tree',
    call('arenas: { a: { ranges: 0-2 5-15 } }'),
    call('arenas: { a: { ranges: none } }'),
    'step 1 expect.arenas.a.ranges: none / 0-2 5-15',
  ],
  [
    'frees that are put off',
    call('arenas: { a: { deferred: 3, queued: irq_work } }'),
    call('arenas: { a: { deferred: 3-4, queued: irq_work } }'),
    'step 1 expect.arenas.a.deferred: 3-4 / 3',
  ],
  [
    'work that waits',
    call('arenas: { a: { queued: irq_work } }'),
    call('arenas: { a: { queued: none } }'),
    'step 1 expect.arenas.a.queued: none / irq_work',
  ],
  [
    'an arena that is there',
    call('arenas: { a: { exists: true } }'),
    call('arenas: { a: { exists: false } }'),
    'step 1 expect.arenas.a.exists: false / true',
  ],
  [
    'references to a page',
    call(`frames: [{ at: ${HEX}, refs: 2, mapped: 1 }]`),
    call(`frames: [{ at: ${HEX}, refs: 1, mapped: 1 }]`),
    'step 1 expect.frames[0].refs: 1 / 2',
  ],
  [
    'what a page was taken for',
    call(`frames: [{ at: ${HEX}, owner: bpf arena }]`),
    call(`frames: [{ at: ${HEX}, owner: page table }]`),
    'step 1 expect.frames[0].owner: page table / bpf arena',
  ],
  [
    'addresses of one page',
    call(`same_page: [[${HEX}, ${HEX}]]`),
    call(`same_page: [[${HEX}, ${HEX} + 1]]`),
    'step 1 expect.same_page[0]: one page / not one page',
  ],
  [
    'pages in use',
    call('in_use: { bpf arena: 3 }'),
    call('in_use: { bpf arena: 4 }'),
    'step 1 expect.in_use.bpf arena: 4 / 3',
  ],
  ['areas', call('arena_areas: 1'), call('arena_areas: 2'), 'step 1 expect.arena_areas: 2 / 1'],
  [
    'calls',
    call('calls: { page_fault_oops: 1, die: 0 }'),
    call('calls: { page_fault_oops: 2 }'),
    'step 1 expect.calls.page_fault_oops: 2 / 1',
  ],
  [
    'flushes',
    call('tlb_flushes: []'),
    call('tlb_flushes: [all, f]'),
    'step 1 expect.tlb_flushes: all, 0xffffffff81000000 (f+0x0) / none',
  ],
  ['pages taken', call('pages_taken: 0'), call('pages_taken: 1'), 'step 1 expect.pages_taken: 1 / 0'],
  [
    'the value of a program',
    'steps: [{ test_run: prog, expect: { returns: 0 } }]',
    'steps: [{ test_run: prog, expect: { returns: 0xfffffffe } }]',
    'step 1 expect.returns: 0xfffffffe (-2) / 0x0',
  ],
  [
    'console',
    call('console: [first line, second line]'),
    call('console: [first line]'),
    'step 1 expect.console: first line / first line … (2 lines)',
  ],
  [
    'streams',
    call(`streams: { prog: { stderr: "${STDERR}", stdout: [] } }`),
    call(`streams: { prog: { stderr: "${STDERR}CPU: 1" } }`),
    'step 1 expect.streams.prog.stderr: ERROR: Arena WRITE access at unmapped address 0x7f7d26203000 … (4 lines) / ERROR: Arena WRITE access at unmapped address 0x7f7d26203000 … (3 lines)',
  ],
  [
    'streams that dropped',
    call('streams: { prog: { dropped: 0 } }'),
    call('streams: { prog: { dropped: 1 } }'),
    'step 1 expect.streams.prog.dropped: 0x1 / 0x0',
  ],
  [
    'ret',
    'steps: [{ kfunc: bpf_arena_reserve_pages, args: { map: a, ptr: 0 }, expect: { ret: -EBUSY } }]',
    'steps: [{ kfunc: bpf_arena_reserve_pages, args: { map: a, ptr: 0 }, expect: { ret: 0 } }]',
    'step 1 expect.ret: 0x0 / 0xfffffffffffffff0 (-16)',
  ],
  [
    'text',
    'steps: [{ stream_read: { program: prog }, expect: { text: foo, ret: 4 } }]',
    'steps: [{ stream_read: { program: prog }, expect: { text: bar, ret: 4 } }]',
    'step 1 expect.text: bar / foo',
  ],
  [
    'value',
    `steps: [{ read: { at: ${HEX}, size: 2 }, expect: { value: 0x0100 } }]`,
    `steps: [{ read: { at: ${HEX}, size: 2 }, expect: { value: 0x0101 } }]`,
    'step 1 expect.value: 0x101 / 0x100',
  ],
  [
    'check',
    'steps: [{ check: { registers: { rax: 0x4141 } } }]',
    'steps: [{ check: { registers: { rax: 1 } } }]',
    'step 1 check.registers.rax: 0x1 / 0x4141',
  ],
  [
    'the end',
    'steps: [{ call: f }, { call: f }]\nexpect: { console: [first line, second line, first line, ...] }',
    'steps: [{ call: f }, { call: f }]\nexpect: { console: [first line, second line] }',
    'expect.console: first line … (2 lines) / first line … (4 lines)',
  ],
];

describe('each kind of expectation holds, and fails alone and by name when it is changed', () => {
  test.each(KINDS)('%s', (_, holds, changed, failure) => {
    expect(shorts(failures(holds))).toEqual([]);
    expect(shorts(failures(changed))).toEqual([failure]);
  });
});

test('a failure names the line and column of the expectation', () => {
  const [failure] = failures('steps:\n  - call: f\n    expect:\n      faults:\n        - address: 1\n');
  expect(failure).toMatchObject({ kind: 'faults', line: 10, column: 20 });
});

describe('how a run ends', () => {
  const oops: RunOutcome = { kind: 'oops', title: 'BUG: bad', signal: 9 };
  test.each<[string, RunOutcome, string, string | null]>([
    ['oops', oops, 'outcome: { kind: oops, title: "BUG: bad", signo: 9 }', null],
    [
      'oops',
      oops,
      'outcome: { kind: oops, title: "BUG: good" }',
      'step 1 expect.outcome.title: BUG: good / BUG: bad',
    ],
    ['oops', oops, 'outcome: { kind: oops, code: 1 }', 'step 1 expect.outcome.code: 0x1 / nothing'],
    ['oops', oops, 'faults: []', 'step 1 expect.outcome: returned / oops: BUG: bad'],
    [
      'signal',
      { kind: 'signal', signo: 11, code: 1, address: 0x10n },
      'outcome: { kind: signal, signo: SIGSEGV, code: 1, address: 0x10 }',
      null,
    ],
    [
      'signal',
      { kind: 'signal', signo: 11, code: 1, address: 0x10n },
      'outcome: { kind: signal, address: 0 }',
      'step 1 expect.outcome.address: 0x0 / 0x10',
    ],
    [
      'signal',
      { kind: 'signal', signo: 11, code: 4, address: 0x10n, pkey: 1 },
      'outcome: { kind: signal, pkey: 2 }',
      'step 1 expect.outcome.pkey: 0x2 / 0x1',
    ],
    [
      'signal',
      { kind: 'signal', signo: 11, code: 4, address: 0x10n, pkey: 1 },
      'outcome: returned',
      'step 1 expect.outcome: returned / signal: SIGSEGV, SEGV_PKUERR at 0x10, key 1',
    ],
    [
      'livelock',
      { kind: 'livelock', pc: 1n, address: 2n, turns: 16 },
      'outcome: { kind: livelock, turns: 17 }',
      'step 1 expect.outcome.turns: 0x11 / 0x10',
    ],
    [
      'budget',
      { kind: 'budget', instructions: 100 },
      'outcome: returned',
      'step 1 expect.outcome: returned / budget: 100 instructions used up',
    ],
    [
      'stopped',
      { kind: 'stopped', why: 'hlt', pc: 0xffffffff81000000n },
      'outcome: { kind: stopped, why: ud2, pc: f }',
      'step 1 expect.outcome.why: ud2 / hlt',
    ],
  ])('%s', (_, outcome, expectation, failure) => {
    expect(shorts(failures(call(expectation), [], outcome))).toEqual(failure === null ? [] : [failure]);
  });

  test('an unexpected end shows the last fault and the console', () => {
    const script = scratchFault().slice(0, -1);
    const [failure] = failures('steps: [{ call: f }]', script, oops);
    expect(failure?.notes).toEqual([
      'last fault: #PF write at 0xffffc9002806c000, code 0x2, by f+0x4, resolved by oops',
      'its path: page_fault_oops → kfence_handle_page_fault → bpf_arena_handle_page_fault',
      'console:',
      '  first line',
      '  second line',
    ]);
  });
});

describe('what only the machine can refuse', () => {
  test.each([
    [
      'an unknown register',
      'steps: [{ call: f, registers: { raxx: 1 } }]',
      'unknown register `raxx`: did you mean `rax`?',
    ],
    [
      'a write to nowhere',
      'steps: [{ write: { at: 0, u8: 1 } }]',
      '0x0 is not mapped: nothing can be written there',
    ],
    ['a read from nowhere', 'steps: [{ read: { at: 0 } }]', '0x0 is not mapped: nothing can be read there'],
    ['a value too wide', `steps: [{ write: { at: ${HEX}, u8: 0x100 } }]`, '0x100 does not fit 1 byte'],
    [
      'a TLB entry of nothing',
      'steps: [{ tlb: { keep: 0 } }]',
      '0x0 does not translate now: there is nothing that a TLB could keep',
    ],
  ])('%s', (_, body, message) => {
    expect(() => failures(body)).toThrow(expect.objectContaining({ name: 'FixtureError', message }));
  });
});

test('lines of the console are compared as the fixture writes them', () => {
  const format = 'console: { levels: true, time: true, caller: true }';
  const written =
    'console: ["<4>[   12.345678][  T100] first line", "<4>[   12.345678][  T100] second line"]';
  expect(failures(`${format}\n${call(written)}`)).toEqual([]);
  expect(shorts(failures(`${format}\n${call('console: ["first line", "..."]')}`))).toHaveLength(1);
});

test('what the source calls by a name is expected by it', () => {
  const decide = (value: string): Event[] => [
    ...scratchFault().slice(0, 2),
    { type: 'decide', cpu: 0, fn: 'fixup_exception', test: 'type', value },
    ...scratchFault().slice(2),
  ];
  const expected = fault('decisions: [{ test: type, value: EX_TYPE_BPF }]');
  expect(failures(expected, decide('EX_TYPE_BPF'))).toEqual([]);
  expect(shorts(failures(expected, decide('EX_TYPE_UACCESS')))).toEqual([
    'step 1 expect.faults[0].decisions[0].value: EX_TYPE_BPF / EX_TYPE_UACCESS',
  ]);
});

test('an exception that is raised, the state of the task and the time reach the machine', () => {
  const machine = new FakeMachine([]);
  const body = [
    'steps:',
    '  - call: f',
    '    advance: 0.5',
    '    context: { preempt_count: 2, irqs_disabled: true }',
    '    raise: { exception: PF, error_code: 8, address: f + 8 }',
    '  - user: f',
    '    raise: { exception: GP }',
  ];
  expect(runSteps(fakeFixture(body.join('\n')), machine).failures).toEqual([]);
  expect(machine.calls).toEqual([
    'advance 500000',
    'call raised 14 8 ffffffff81000008, in_interrupt 0, pagefault_disabled 0, preempt_count 2, irqs_disabled true',
    'user raised 13 0 0',
  ]);
});

test('the arguments of a kfunc have defaults', () => {
  const machine = new FakeMachine([]);
  const body = [
    'steps:',
    '  - kfunc: bpf_arena_alloc_pages',
    '    args: { map: a }',
    '  - kfunc: bpf_arena_free_pages_non_sleepable',
    '    args: { map: a, ptr: 0x1000, page_cnt: 3 }',
    '  - kernel: run_deferred',
    '  - destroy: a',
  ];
  expect(runSteps(fakeFixture(body.join('\n')), machine).failures).toEqual([]);
  expect(machine.calls).toEqual([
    'bpf_arena_alloc_pages a 0 1 -1',
    'bpf_arena_free_pages_non_sleepable a 4096 3 -1',
    'run_deferred',
    'destroy a',
  ]);
});
