/** Processes that fork and exit. */
import { describe, expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { type LoadResult, parseFixture } from '../format/load.js';
import { Source } from '../format/source.js';
import { explainFixture } from '../report/explain-fixture.js';
import { runFixture } from './run-fixture.js';

const engine = new NativeEngine(undefined, { reuse: true });

interface Side {
  readonly arch: string;
  readonly load: string;
  readonly store: string;
  readonly ret: string;
  /** Where the address goes, the value to store, and the value loaded. */
  readonly at: string;
  readonly value: string;
  readonly got: string;
}
const SIDES: readonly Side[] = [
  {
    arch: 'x86-64',
    load: '48 8b 07 mov rax, qword ptr [rdi]',
    store: '48 89 37 mov qword ptr [rdi], rsi',
    ret: 'c3 ret',
    at: 'rdi',
    value: 'rsi',
    got: 'rax',
  },
  {
    arch: 'arm64',
    load: 'f9400002 ldr x2, [x0]',
    store: 'f9000001 str x1, [x0]',
    ret: 'd65f03c0 ret',
    at: 'x0',
    value: 'x1',
    got: 'x2',
  },
];
const [X86 = SIDES[0]] = SIDES;

function parse(steps: string, side: Side | undefined = X86, keys = ''): LoadResult {
  if (side === undefined) throw new Error('no side');
  const { arch, load, store, ret } = side;
  const text = `name: x
arch: ${arch}
${keys}cpus: 2
arenas: { a: { max_entries: 16, map_extra: 0x7f7d26200000 } }
data: [{ symbol: word, where: user, size: 8 }]
text:
  - { symbol: load, section: user, asm: "${load}\\n${ret}" }
  - { symbol: store, section: user, asm: "${store}\\n${ret}" }
steps:
${steps}`;
  return parseFixture(new Source('f.yaml', text));
}

async function wrong(steps: string, side?: Side, keys?: string): Promise<string[]> {
  const result = parse(steps, side, keys);
  if (!result.ok) return result.errors.map(({ message }) => message);
  const { errors, failures } = await runFixture(result.fixture, engine);
  return [
    ...errors.map(({ line, message }) => `${line}: ${message}`),
    ...failures.map(({ where, actual }) => `${where}: ${actual}`),
  ];
}

describe.each(SIDES)('a child on $arch', (side) => {
  const { at, value, got } = side;
  const store = (process: string, what: number): string =>
    `  - { user: store, ${process}registers: { ${at}: word, ${value}: ${what} } }\n`;
  const load = (process: string, what: number): string =>
    `  - { user: load, ${process}registers: { ${at}: word }, expect: { registers: { ${got}: ${what} } } }\n`;

  test.each([
    ['the child', 'process: p, ', ''],
    ['the parent', '', 'process: p, '],
  ])('sees what was there, and %s writes for itself', async (_who, writer, other) => {
    const steps = `${store('', 1)}  - { fork: p }\n${load('process: p, ', 1)}${store(writer, 2)}${load(other, 1)}${load(writer, 2)}`;
    expect(await wrong(steps, side)).toEqual([]);
  });

  test('of a child has what that had, and the end of one leaves the others what they have', async () => {
    const steps = `  - { fork: p }
${store('process: p, ', 5)}  - { fork: q, process: p }
  - { exit: p }
${load('process: q, ', 5)}${load('', 0)}  - { exit: q }
  - check: { frames: [{ at: word, refs: 1, mapped: 1 }] }`;
    expect(await wrong(steps, side)).toEqual([]);
  });

  test("goes on in its own memory behind a step of the CPU's task in the middle of its own", async () => {
    const steps = `${store('', 1)}  - { fork: p }
  - user: store
    process: p
    registers: { ${at}: word, ${value}: 5 }
    meanwhile:
      - at: { fn: wp_page_copy, test: '!new_folio' }
        steps:
          - { user: load, registers: { ${at}: word }, expect: { registers: { ${got}: 1 } } }
${load('', 1)}${load('process: p, ', 5)}`;
    expect(await wrong(steps, side)).toEqual([]);
  });

  test('takes its mapping of an arena with it', async () => {
    const steps = `  - { mmap: { arena: a }, process: p }
  - { exit: p, expect: { path: [exit_mmap, arena_vm_close], arenas: { a: { mappings: 0 } } } }
  - { destroy: a, expect: { arenas: { a: { exists: false } } } }`;
    expect(await wrong(steps, side)).toEqual([]);
  });

  test('that finds no memory leaves nothing but page tables', async () => {
    const steps = `${store('', 1)}  - check: { in_use: { kernel stack: STACKS } }
  - fork: p
    inject: { table: { after: 5 } }
    expect: { ret: -ENOMEM, frames: [{ at: word, refs: 1, mapped: 1 }], in_use: { kernel stack: STACKS } }
  - { fork: p, expect: { frames: [{ at: word, refs: 2, mapped: 2 }] } }
  - { exit: p, expect: { in_use: { kernel stack: STACKS } } }
${store('', 3)}${load('', 3)}`;
    expect(await wrong(steps.replaceAll('STACKS', '8'), side)).toEqual([]);
  });
});

test('a child has the comm of its parent and a pid of its own', async () => {
  const steps = `  - { fork: p, expect: { ret: 102 } }
  - { exit: p }
  - { fork: q, expect: { ret: 103 } }
  - user: load
    process: q
    registers: { rdi: 0x10 }
    expect:
      outcome: { kind: signal, signo: SIGSEGV, code: SEGV_MAPERR, address: 0x10 }
      console:
        - 'test[103]: segfault at 10 ip 0000000000400000 sp 0000007fffffeff8 error 4 likely on CPU 0 (core 0, socket 0)'
        - '...'`;
  expect(await wrong(steps, X86, 'task: { comm: test }\n')).toEqual([]);
});

test.each([
  ['  - { fork: p }\n  - { exit: p }\n  - { user: load, process: p }', '12: process p has exited'],
  ['  - { fork: p }\n  - { exit: p }\n  - { exit: p }', '12: process p has exited'],
  ['  - { exit: pp }', '10: there is no process pp: a step with `process: pp` or `fork: pp` makes it'],
  ['  - { fork: p }\n  - { exit: p }\n  - { fork: p }', '12: process p has exited'],
  ['  - { fork: p }\n  - { fork: p }', '11: process p is there already'],
  ['  - { fork: p, process: p }', 'a process is not its own child: the child has another name'],
  [
    '  - { fork: 1p }',
    '`1p`: a process has a name of letters, digits and _, and it does not begin with a digit',
  ],
])('a mistake: %s', async (steps, message) => {
  const [first = ''] = await wrong(steps);
  expect(first).toBe(message);
});

test('a process does not exit in the middle of what it does', async () => {
  const steps = `  - mmap: { arena: a }
    process: p
    meanwhile:
      - at: { fn: arena_map_mmap, test: 'remember_vma(arena, vma)' }
        steps: [{ exit: p, cpu: 1 }]`;
  expect(await wrong(steps)).toEqual(['14: process p is in the middle of a step on CPU 0']);
});

test('a kernel thread has no child with memory', async () => {
  const keys = 'task: { kthread: true }\n';
  expect(await wrong('  - { fork: p }', X86, keys)).toEqual([
    'a kernel thread has nothing that a child could get',
  ]);
});

test('the story names who forks and who exits', async () => {
  const result = parse('  - { fork: p }\n  - { exit: p }');
  if (!result.ok) throw new Error('not loaded');
  const story = (await explainFixture(result.fixture, engine, { step: null })).join('\n');
  expect(story).toContain('Step 1: fork p');
  expect(story).toContain('Step 2: exit p');
});
