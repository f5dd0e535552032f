import { describe, expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { parseFixture } from '../format/load.js';
import { Source } from '../format/source.js';
import { runFixture } from './run-fixture.js';

const engine = new NativeEngine(undefined, { reuse: true });
const ARCHES = ['x86-64', 'arm64'] as const;

/** What is wrong with a fixture, `line:column message | hint`, and what failed. */
async function problems(text: string): Promise<string[]> {
  const loaded = parseFixture(new Source('f.yaml', text));
  const result = loaded.ok
    ? await runFixture(loaded.fixture, engine)
    : { errors: loaded.errors, failures: [] };
  return [
    ...result.errors.map((e) => `${e.line}:${e.column} ${e.message}${e.hint === '' ? '' : ` | ${e.hint}`}`),
    ...result.failures.map((f) => `${f.where}: ${f.expected}, not ${f.actual}`),
  ];
}

/** A fixture with an arena `a`: four lines, then `body`. */
function fixture(arch: string, ...body: string[]): string {
  const head = [
    'name: x',
    `arch: ${arch}`,
    'arenas: { a: { max_entries: 4, map_extra: 0x7f7d26200000 } }',
    'programs:',
  ];
  return [...head, ...body].join('\n');
}

/** `name` with the lines of its BPF text, indented as a block. */
function program(name: string, keys: string, ...bpf: string[]): string {
  return [
    `  ${name}:`,
    ...(keys === '' ? [] : [`    ${keys}`]),
    '    bpf: |',
    ...bpf.map((line) => `      ${line}`),
  ].join('\n');
}

const EXIT = ['r0 = 0', 'exit'];
const run = (name: string, expected: string): string =>
  `steps: [{ test_run: ${name}, expect: { ${expected} } }]`;

describe.each(ARCHES)('a program in BPF text on %s', (arch) => {
  test('allocates a page, stores into it, reads it, and frees it', async () => {
    const text = fixture(
      arch,
      program(
        'p',
        'arena: a',
        'r1 = map[a]',
        'r2 = 0',
        'r3 = 1',
        'r4 = NUMA_NO_NODE',
        'r5 = 0',
        'call bpf_arena_alloc_pages',
        'r6 = r0',
        'r7 = addr_space_cast(r6, 0, 1)',
        'r1 = 0x1234',
        '*(u64 *)(r7 + 8) = r1',
        'r8 = *(u64 *)(r7 + 8)',
        'r1 = map[a]',
        'r2 = r6',
        'r3 = 1',
        'call bpf_arena_free_pages',
        'r0 = r8',
        'exit',
      ),
      run('p', 'returns: 0x1234, faults: [], arenas: { a: { pages: 0, free: 4 } }'),
    );
    expect(await problems(text)).toEqual([]);
  });

  test('that cannot sleep frees later', async () => {
    const text = fixture(
      arch,
      program(
        'p',
        'sleepable: false',
        'r1 = map[a]',
        'r2 = 0',
        'r3 = 1',
        'r4 = -1',
        'r5 = 0',
        'call bpf_arena_alloc_pages',
        'r1 = map[a]',
        'r2 = r0',
        'r3 = 1',
        'call bpf_arena_free_pages',
        ...EXIT,
      ),
      'steps:',
      '  - { test_run: p, expect: { arenas: { a: { pages: 1 } } } }',
      '  - { kernel: run_deferred, expect: { arenas: { a: { pages: 0, free: 4 } } } }',
    );
    expect(await problems(text)).toEqual([]);
  });

  test('has subprograms, whose faults are told on its own stderr', async () => {
    const text = fixture(
      arch,
      program('main', 'arena: a', 'call sub', 'r0 += 1', 'exit'),
      program(
        'sub',
        'subprogram_of: main',
        'r1 = a.user ll',
        'r1 = addr_space_cast(r1, 0, 1)',
        'r0 = *(u32 *)(r1 + 0)',
        'exit',
      ),
      'steps:',
      '  - test_run: main',
      '    expect:',
      '      returns: 1',
      '      faults: [{ address: a.page(0), resolved_by: fixup }]',
      '      streams:',
      '        main:',
      '          stderr: |',
      '            ERROR: Arena READ access at unmapped address 0x7f7d26200000',
      '            ...',
      '            bpf_test_run+0x0/0x0',
    );
    const [problem = ''] = await problems(text);
    expect(problem).toContain('streams.main.stderr');
    expect(await problems(text.replace('            bpf_test_run+0x0/0x0', '            ...'))).toEqual([]);
  });

  test('calls functions of kernel text and is called by them, both by name', async () => {
    const kernel =
      arch === 'x86-64'
        ? ['push rbp', 'mov rbp, rsp', 'call p', 'pop rbp', 'ret']
        : ['stp x29, x30, [sp, #-16]!', 'mov x29, sp', 'bl p', 'ldp x29, x30, [sp], #16', 'ret'];
    const twice = arch === 'x86-64' ? ['lea rax, [rdi + rdi]', 'ret'] : ['add x0, x0, x0', 'ret'];
    const asm = (lines: string[]): string => JSON.stringify(lines.join('\n'));
    const register = arch === 'x86-64' ? 'rax' : 'x0';
    const text = fixture(
      arch,
      program('p', '', 'r1 = 21', 'call twice', 'exit'),
      'text:',
      `  - { symbol: outer, asm: ${asm(kernel)} }`,
      `  - { symbol: twice, asm: ${asm(twice)} }`,
      'steps:',
      `  - { call: outer, expect: { registers: { ${register}: 42 } } }`,
      `  - { call: p, expect: { registers: { ${register}: 42 } } }`,
    );
    expect(await problems(text)).toEqual([]);
  });

  test('prints its stack and text to its streams, which can be read in parts', async () => {
    const text = fixture(
      arch,
      program(
        'p',
        '',
        'r1 = BPF_STDOUT',
        'r2 = format ll',
        'r3 = 0',
        'r4 = 0',
        'call bpf_stream_vprintk',
        'exit',
      ),
      'data:',
      '  - { symbol: format, bytes: "66 6f 6f 00" }',
      '  - { symbol: buffer, where: user, size: 4096 }',
      'steps:',
      '  - { test_run: p, expect: { returns: 0 } }',
      '  - { stream_read: { stream_id: 1 }, expect: { ret: -EBADF } }',
      '  - { stream_read: { program: a, stream_id: 1 }, expect: { ret: -EINVAL } }',
      '  - { stream_read: { program: p, stream_id: 0 }, expect: { ret: -ENOENT } }',
      '  - { stream_read: { program: p, stream_id: 1, length: 64, buf: 0 }, expect: { ret: -EFAULT } }',
      '  - { stream_read: { program: p, stream_id: 1, length: 2, buf: buffer }, expect: { ret: 2, text: fo } }',
      '  - { stream_read: { program: p, stream_id: 1, length: 2, buf: buffer + 2 }, expect: { ret: 1, text: o, ' +
        'memory: [{ at: buffer, bytes: "66 6f 6f 00" }] } }',
      '  - { stream_read: { program: p, stream_id: 1, length: 1 }, expect: { ret: 0 } }',
    );
    expect(await problems(text)).toEqual([]);
  });

  test.each(['retry', 'retry_major', 'completed'])('a fault of its reader that ends in %s', async (fault) => {
    const text = fixture(
      arch,
      program(
        'p',
        '',
        'r1 = BPF_STDOUT',
        'r2 = format ll',
        'r3 = 0',
        'r4 = 0',
        'call bpf_stream_vprintk',
        'exit',
      ),
      'data:',
      '  - { symbol: format, bytes: "66 6f 6f 00" }',
      `  - { symbol: buffer, where: user, size: 4096, fault: ${fault} }`,
      'steps:',
      '  - { test_run: p, expect: { returns: 0 } }',
      '  - { stream_read: { program: p, stream_id: 1, buf: buffer }, expect: { ret: 3, text: foo, ' +
        'memory: [{ at: buffer, bytes: "66 6f 6f 00" }] } }',
    );
    expect(await problems(text)).toEqual([]);
  });

  test('a loop with may_goto ends when its time is over', async () => {
    const text = fixture(
      arch,
      program('p', '', 'r0 = 3', 'loop:', 'may_goto done', 'goto loop', 'done:', 'exit'),
      'steps:',
      '  - test_run: p',
      '    expect:',
      '      returns: 3',
      '      streams:',
      '        p:',
      '          stderr: |',
      '            ERROR: Timeout detected for may_goto instruction',
      '            ...',
      '            arch_bpf_timed_may_goto+...',
    );
    const [problem = ''] = await problems(text);
    expect(problem).toContain('expect.streams.p.stderr');
    expect(await problems(text.replace('arch_bpf_timed_may_goto+', ''))).toEqual([]);
  });

  test('kernel text hands the map to a function by its pointer', async () => {
    const registers =
      arch === 'x86-64' ? ['rdi', 'rsi', 'rdx', 'rcx', 'rax'] : ['x0', 'x1', 'x2', 'x3', 'x0'];
    const [map, addr, count, node, ret] = registers;
    const text = [
      'name: x',
      `arch: ${arch}`,
      'arenas: { a: { max_entries: 4, map_extra: 0x7f7d26200000 } }',
      'steps:',
      `  - { call: bpf_arena_alloc_pages_sleepable, registers: { ${map}: a.map, ${addr}: 0, ${count}: 2, ${node}: -1 },`,
      `      expect: { registers: { ${ret}: a.user }, arenas: { a: { pages: 2 } } } }`,
      `  - { call: bpf_arena_reserve_pages, registers: { ${map}: 8, ${count}: 2 } }`,
    ].join('\n');
    const [problem = '', ...more] = await problems(text);
    expect(more).toEqual([]);
    expect(problem).toMatch(/^7:5 bpf_arena_reserve_pages\(\): no map is at 0x8, which it got as its map/);
  });

  test('a member of a struct_ops map is called through its trampoline', async () => {
    const [argument, ret] = arch === 'x86-64' ? ['rdi', 'rax'] : ['x0', 'x0'];
    const text = fixture(
      arch,
      program('p', 'args: [scalar]', 'r1 = *(u64 *)(r1 + 0)', 'r0 = r1', 'r0 += 1', 'exit'),
      'struct_ops:',
      '  ops: { type: scx_ops, members: { select: p }, returns: [select] }',
      'steps:',
      `  - { call: bpf__scx_ops_select, registers: { ${argument}: 41 }, expect: { registers: { ${ret}: 42 }, ` +
        'memory: [{ at: ops, u64: bpf__scx_ops_select }] } }',
    );
    expect(await problems(text)).toEqual([]);
  });
});

test.each(ARCHES)('a scheduler has its masks in the arena of its programs: %s', async (arch) => {
  const [a, b, ret] = arch === 'x86-64' ? ['rdi', 'rsi', 'rax'] : ['x0', 'x1', 'x0'];
  const text = fixture(
    arch,
    program('p', 'arena: a', ...EXIT),
    'struct_ops:',
    '  ops: { type: sched_ext_ops_cid, members: { set_cmask: p }, args: { set_cmask: 2 } }',
    'steps:',
    `  - { call: bpf_scx_reg_cid, registers: { ${a}: ops }, expect: { registers: { ${ret}: 0 } } }`,
    `  - { call: scx_arena_alloc, registers: { ${a}: ops, ${b}: 32 },`,
    `      expect: { registers: { ${ret}: a.page(0) }, arenas: { a: { pages: 4 } } } }`,
    `  - { call: scx_arena_alloc, registers: { ${a}: ops, ${b}: 0x100000008 }, expect: { registers: { ${ret}: 0 } } }`,
    `  - { call: scx_kaddr_to_arena, registers: { ${a}: ops, ${b}: a.page(0) + 32 },`,
    `      expect: { registers: { ${ret}: 0x26200020 } } }`,
  );
  expect(await problems(text)).toEqual([]);
});

/** Bytes of the prologue of a program without arena and stack. */
test.each([
  ['x86-64', '{}', 20],
  ['x86-64', '{ IBT: false }', 12],
  ['x86-64', '{ IBT: false, RETHUNK: true, SLS: true, BMI2: false }', 12],
  ['arm64', '{}', 36],
  ['arm64', '{ BTI: false, PAC: false, LSE: false }', 24],
])('the configuration shows in the code: %s %s', async (arch, config, prologue) => {
  const register = arch === 'arm64' ? 'x0' : 'rax';
  const text = fixture(
    arch,
    program('p', '', 'r0 = 5', 'exit'),
    `config: ${config}`,
    'data: [{ symbol: d, words: [p.insn(0) - p] }]',
    `steps: [{ test_run: p, expect: { returns: 5, memory: [{ at: d, u64: ${prologue} }] } },`,
    `  { call: p, expect: { registers: { ${register}: 5 } } }]`,
  );
  expect(await problems(text)).toEqual([]);
});

test('without LSE the verifier refuses atomics on an arena', async () => {
  const text = fixture(
    'arm64',
    program(
      'p',
      'arena: a',
      'r1 = a.user ll',
      'r1 = addr_space_cast(r1, 0, 1)',
      'r2 = 1',
      'lock *(u64 *)(r1 + 0) += r2',
      ...EXIT,
    ),
    'config: { LSE: false }',
    'steps: [{ test_run: p }]',
  );
  expect((await problems(text))[0]).toMatch(/^11:7 the kernel refuses program `p`: /);
  expect(await problems(text.replace('LSE: false', 'LSE: true'))).toEqual([]);
});

describe('mistakes in BPF text are told at their place', () => {
  const one = (...bpf: string[]): string =>
    fixture('x86-64', program('p', 'arena: a', ...bpf), 'steps: [{ test_run: p }]');

  test('of the assembler, with line and column', async () => {
    const [problem = ''] = await problems(one('r0 = 0', 'r1 = blah(3)', 'exit'));
    expect(problem).toMatch(/^9:\d+ /);
    expect(Number(/^9:(\d+)/.exec(problem)?.[1])).toBeGreaterThanOrEqual(7);
  });

  test('of the verifier', async () => {
    const [problem = ''] = await problems(one('r0 = r7', 'exit'));
    expect(problem).toBe('8:7 the kernel refuses program `p`: R7 !read_ok (-EACCES)');
    const [unknown = ''] = await problems(one('r0 = 0', 'call nobody', 'exit'));
    expect(unknown).toMatch(/^9:7 .*nobody/);
  });

  test('a refusal can be what the fixture is about', async () => {
    const refused = (expected: string): string =>
      fixture(
        'arm64',
        program('p', `expect: { ${expected} }`, 'r0 = r7', 'exit'),
        'steps: [{ call: 0, expect: { outcome: oops } }]',
      );
    expect(await problems(refused('errno: -EACCES, log: R7 !read_ok'))).toEqual([]);
    expect(await problems(refused('errno: -EINVAL'))).toEqual([
      '6:22 -EINVAL is expected, but the kernel says -EACCES: R7 !read_ok',
    ]);
    expect((await problems(refused('log: nothing')))[0]).toMatch(/^6:20 this text is expected in the log/);
    const loads = fixture(
      'arm64',
      program('p', 'expect: { errno: -EINVAL }', ...EXIT),
      'steps: [{ call: 0 }]',
    );
    expect((await problems(loads))[0]).toMatch(/the verifier is to refuse program `p`, but it loads$/);
  });

  test.each([
    [
      'a key of BPF text',
      'programs: { p: { sleepable: false } }',
      '3:18 only a program in BPF text (the key bpf) has `sleepable`',
    ],
    [
      'both kinds of code',
      'programs: { p: { bpf: exit } }\ntext: [{ symbol: f, program: p, asm: ret }]',
      '3:18 program `p` has native code already, in `f`: it is one or the other',
    ],
    [
      'lines of native code',
      'programs: { p: { bpf: exit, lines: [] } }',
      '3:29 BPF text says its source lines itself | Write `; text of the line @ file.c:12` in front of the instructions of the line.',
    ],
    [
      'a subprogram that is run',
      'programs: { p: { bpf: exit }, q: { bpf: exit, subprogram_of: p } }\nsteps: [{ test_run: q }]',
      '4:21 a subprogram is not run by itself: its main program is `p`',
    ],
    [
      'an option of the other architecture',
      'config: { BTI: false }',
      '3:11 `BTI` is an option of arm64, and this fixture is of x86-64',
    ],
  ])('%s', async (_, text, message) => {
    const steps = text.includes('steps:') ? '' : '\nsteps: [{ call: 0 }]';
    expect(await problems(`name: x\narch: x86-64\n${text}${steps}`)).toEqual([message]);
  });
});
