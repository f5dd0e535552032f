/** Fixtures on the real machine: what it refuses, code that runs wild, and formatting. */
import { describe, expect, test } from '@jest/globals';
import type { Engine } from '../../emu/cpu.js';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { buildMachine } from '../build/build-machine.js';
import { formatFixture, withoutDistances } from '../format/format-file.js';
import { type Fixture, parseFixture } from '../format/load.js';
import { Source } from '../format/source.js';
import { explainFixture } from '../report/explain-fixture.js';
import { runFixture } from './run-fixture.js';

const engine = new NativeEngine(undefined, { reuse: true });

function load(text: string): Fixture {
  const loaded = parseFixture(new Source('f.yaml', text));
  if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
  return loaded.fixture;
}

const HEAD = 'name: x\narch: x86-64\n';
const code = (asm: string): string =>
  `text:\n  - symbol: f\n    asm: |\n      ${asm.replaceAll('\n', '\n      ')}\n`;
const CALL = 'steps: [{ call: f }]\n';

/** `status line:column message` for each mistake or failure. */
async function outcomeOf(text: string): Promise<string[]> {
  const result = await runFixture(load(text), engine);
  return [
    ...result.errors.map((e) => `${result.status} ${e.line}:${e.column} ${e.message}`),
    ...result.failures.map((f) => `${result.status} ${f.where}: ${f.actual}`),
  ];
}

test('an engine that fails is told as such, and the next fixture runs', async () => {
  const fixture = load(`${HEAD}${code('nop\nret')}${CALL}`);
  let failing = true;
  // Its CPUs are bent: they must serve nobody else.
  const own = new NativeEngine();
  const flaky: Engine = {
    version: own.version,
    createRam: (base, size) => own.createRam(base, size),
    releaseRam: (ram) => own.releaseRam(ram),
    createCpu: (isa, ram, options) => {
      const cpu = own.createCpu(isa, ram, options);
      if (failing) cpu.start = () => cpu.read('no such register') as never;
      return cpu;
    },
  };
  const failed = await runFixture(fixture, flaky);
  expect(failed.status).toBe('invalid');
  expect(failed.errors.map((error) => error.format())).toEqual([
    expect.stringMatching(/^f\.yaml: the engine failed: there is no register "no such register"/),
  ]);
  failing = false;
  expect((await runFixture(fixture, flaky)).status).toBe('passed');
});

describe('what the machine refuses', () => {
  test.each<[string, string, string | RegExp]>([
    [
      'a line that does not assemble',
      `${HEAD}${code('nop\nfrobnicate rax\nret')}${CALL}`,
      /^invalid 7:7 .*frobnicate/,
    ],
    [
      'bytes that disagree',
      `${HEAD}${code('90  nop\n48 89 07  mov rax, rbx\nc3  ret')}${CALL}`,
      /^invalid 7:7 .*48 89 07/,
    ],
    [
      'an unknown register',
      `${HEAD}${code('c3 ret')}steps: [{ call: f, registers: { raxx: 1 } }]`,
      'invalid 7:33 unknown register `raxx`: did you mean `rax`?',
    ],
    [
      'an arena of 0 pages',
      `${HEAD}arenas: { a: { max_entries: 0 } }\nsteps: [{ check: {} }]`,
      'invalid 3:11 the kernel refuses arena `a` of 0 pages: -EINVAL',
    ],
    [
      'an arena of too many',
      `${HEAD}arenas: { a: { max_entries: 0x100001 } }\nsteps: [{ check: {} }]`,
      'invalid 3:11 the kernel refuses arena `a` of 1048577 pages: -E2BIG',
    ],
    [
      'an arena over 4 GiB',
      `${HEAD}arenas: { a: { max_entries: 16, map_extra: 0x7f7dffff1000 } }\nsteps: [{ check: {} }]`,
      'invalid 3:11 the kernel refuses arena `a` of 16 pages: -ERANGE',
    ],
    [
      'another errno than expected',
      `${HEAD}arenas: { a: { max_entries: 0, expect: -E2BIG } }\nsteps: [{ check: {} }]`,
      'invalid 3:40 -E2BIG is expected, but the kernel says -EINVAL',
    ],
    [
      'an arena where none fits',
      `${HEAD}arenas: { a: { max_entries: 1, at: 0x1000 } }\nsteps: [{ check: {} }]`,
      /^invalid 3:36 an area of 0x100011000 bytes at 0x1000 is not in whole pages of the vmalloc range/,
    ],
    [
      'an arena that was refused',
      `${HEAD}arenas: { a: { max_entries: 0, expect: -EINVAL } }\nsteps: [{ kfunc: bpf_arena_alloc_pages, args: { map: a } }]`,
      'invalid 4:9 arena `a` does not exist now',
    ],
    [
      'too little ram',
      `${HEAD}ram: 4MiB\narenas: { a: { max_entries: 1 } }\nsteps: [{ check: {} }]`,
      'invalid 4:11 the kernel refuses arena `a` of 1 pages: -ENOMEM',
    ],
    ['hardly any ram', `${HEAD}ram: 1MiB\nsteps: [{ check: {} }]`, /^invalid 3:6 .*4 MiB/],
    [
      'a write to nowhere',
      `${HEAD}steps: [{ write: { at: 0xdead0000, u8: 1 } }]`,
      'invalid 3:24 0xdead0000 is not mapped: nothing can be written there',
    ],
    [
      'an address that is none',
      `${HEAD}steps: [{ read: { at: 0x8000000000000000 } }]`,
      'invalid 3:23 0x8000000000000000 is not mapped: nothing can be read there',
    ],
    [
      'data outside of everything',
      `${HEAD}data: [{ symbol: d, size: 1, at: 0x1000 }]\nsteps: [{ check: {} }]`,
      /^invalid 3:34 .*vmalloc range/,
    ],
    [
      'data in the middle of a page',
      `${HEAD}data: [{ symbol: d, size: 1, at: 0x1001 }]\nsteps: [{ check: {} }]`,
      'invalid 3:34 0x1001 is not the start of a page',
    ],
    [
      'user code outside of user memory',
      `${HEAD}text: [{ symbol: u, section: user, at: 0xffffffff80000000, asm: "c3 ret" }]\nsteps: [{ user: u }]`,
      /^invalid 3:40 .*no place for user memory/,
    ],
    [
      'an exception table for no instruction',
      `${HEAD}${code('here:\nc3 ret\nthere:')}    extable: [{ insn: there, type: DEFAULT, fixup: here }]\n${CALL}`,
      'invalid 9:23 no instruction of this function begins here',
    ],
    [
      'two functions at one address',
      `${HEAD}text:
  - { symbol: f, section: user, at: 0x400000, asm: "c3 ret" }
  - { symbol: g, section: user, at: 0x400000, asm: "c3 ret" }
steps: [{ user: f }]`,
      /^invalid 5:37 .* there is one at 0x400000..0x400fff$/,
    ],
    [
      'user code where the stack goes',
      `${HEAD}text: [{ symbol: u, section: user, at: 0x7fffff7000, asm: "c3 ret" }]\nsteps: [{ user: u }]`,
      /^invalid 4:9 no user stack can be had: /,
    ],
    [
      'a register that the step sets itself',
      `${HEAD}${code('c3 ret')}steps: [{ call: f, registers: { rip: 1 } }]`,
      'invalid 7:33 `rip` is where the step begins: the key call says it',
    ],
    [
      'a table that is not there',
      `${HEAD}steps: [{ pte: { va: 0xdead0000, value: 0 } }]`,
      'invalid 3:22 0xdead0000 has no entry: the tables end above it',
    ],
    [
      'a physical address of nothing',
      `${HEAD}steps: [{ read: { at: phys(0x1000) } }]`,
      'invalid 3:23 0x1000 is not mapped: it has no physical address',
    ],
  ])('%s', async (_, text, message) => {
    const [first, ...rest] = await outcomeOf(text);
    expect(rest).toEqual([]);
    if (typeof message === 'string') expect(first).toBe(message);
    else expect(first).toMatch(message);
  });
});

describe('sound fixtures whose code runs wild fail', () => {
  test.each([
    [
      'code that never returns',
      'loop:\neb fe  jmp loop',
      'limits: { instructions: 10000 }\n',
      'failed step 1 expect.outcome: budget: 10000 instructions used up',
    ],
    ['an undefined instruction', '0f 0b  ud2', '', /^failed step 1 expect.outcome: (stopped|oops)/],
    ['a halt', 'f4  hlt', '', /^failed step 1 expect.outcome: stopped/],
    ['a jump to nowhere', 'ff e0  jmp rax', '', /^failed step 1 expect.outcome: oops/],
  ])('%s', async (_, asm, more, message) => {
    const [first, ...rest] = await outcomeOf(`${HEAD}${more}${code(asm)}${CALL}`);
    expect(rest).toEqual([]);
    if (typeof message === 'string') expect(first).toBe(message);
    else expect(first).toMatch(message);
  });
});

/** Page tables that no sane kernel would have are a fixture's to make, and the machine's to survive. */
describe('bent page tables and stacks', () => {
  const LOAD = code('48 8b 07  mov rax, qword ptr [rdi]\nc3  ret');
  const bent = (pte: string): string =>
    `${HEAD}${LOAD}data: [{ symbol: d, size: 8 }]\nsteps:\n  - pte: { va: d, ${pte} }\n  - { call: f, registers: { rdi: d } }\n`;
  const ARM64 = HEAD.replace('x86-64', 'arm64');
  // Fills the root table and what lies behind it, through the direct map.
  const wreck = code(
    [
      '0f 20 d8  mov rax, cr3',
      '48 b9 00 00 00 00 80 88 ff ff  movabs rcx, 0xffff888000000000',
      '48 01 c8  add rax, rcx',
      'loop:',
      '48 89 10  mov qword ptr [rax], rdx',
      '48 83 c0 08  add rax, 8',
      'eb f7  jmp loop',
    ].join('\n'),
  );

  test.each<[string, string, RegExp]>([
    [
      'a page outside of the ram',
      bent('value: 0x800000fff0000163'),
      /outcome: stopped at .*: access to a page whose physical address is outside of the ram$/,
    ],
    [
      'garbage in the entry above the kernel stack',
      bent('level: pmd, value: 0xdeadbeefcafef00d'),
      /outcome: stopped at .*: the top of the CPU's kernel stack is not mapped$/,
    ],
    [
      'a table outside of the ram',
      bent('level: pmd, value: 0x7ffffff067'),
      /outcome: stopped at .*: the top of the CPU's kernel stack is not mapped$/,
    ],
    [
      'a table cleared by the guest',
      `${HEAD}${wreck}${CALL}`,
      /outcome: panic: Kernel panic - not syncing: /,
    ],
    [
      'a table filled with garbage by the guest',
      `${HEAD}${wreck}steps: [{ call: f, registers: { rdx: 0x5555555555555555 } }]`,
      /outcome: (panic|oops|stopped)/,
    ],
    [
      'recursion without end on x86-64',
      `${HEAD}${code('55  push rbp\n48 89 e5  mov rbp, rsp\ne8 f7 ff ff ff  call f\nc9  leave\nc3  ret')}${CALL}`,
      /outcome: panic: Kernel panic - not syncing: Fatal exception in interrupt$/,
    ],
    [
      'recursion without end on arm64',
      `${ARM64}${code('a9bf7bfd  stp x29, x30, [sp, #-16]!\n910003fd  mov x29, sp\n97fffffe  bl f\nd65f03c0  ret')}${CALL}`,
      /outcome: panic: Kernel panic - not syncing: kernel stack overflow$/,
    ],
  ])('%s', async (_, text, message) => {
    const outcomes = await outcomeOf(text);
    expect(outcomes).toEqual([expect.stringMatching(message)]);
    expect(outcomes[0]).toMatch(/^failed step \d expect\.outcome/);
  });
});

describe('what a fixture can build', () => {
  test('data, words that are labels, linear and user memory, page-table entries', async () => {
    const text = `${HEAD}
data:
  - { symbol: table, words: [f.here, table + 8], prot: ro }
  - { symbol: bytes, bytes: 01 02 03, where: linear }
  - { symbol: page, size: 2, where: user }
  - { symbol: twice, size: 1 }
ptes:
  - { va: twice, value: "mk_pte(phys(bytes), PAGE_KERNEL)" }
${code('90  nop\nhere:\nc3  ret')}
steps:
  - check:
      memory:
        - { at: table, u64: f + 1 }
        - { at: table + 8, u64: table + 8 }
        - { at: bytes, bytes: "01 02 03 00" }
        - { at: page, u16: 0 }
        - { at: twice, bytes: 01 02 03 }
  - write: { at: twice, u16: 0xbeef }
  - read: { at: bytes, size: 2 }
    expect: { value: 0xbeef }
  - pte: { va: twice, value: 0 }
    expect: { ptes: [{ va: twice, value: none }] }
`;
    expect(await outcomeOf(text)).toEqual([]);
  });

  test('user code on a stack of its own', async () => {
    const text = `${HEAD}
text:
  - symbol: u
    section: user
    asm: |
      55           push rbp
      5d           pop rbp
      48 8b 07     mov rax, qword ptr [rdi]
steps:
  - user: u
    registers: { rdi: 8 }
    expect:
      outcome: { kind: signal, signo: SIGSEGV, code: SEGV_MAPERR, address: 8 }
      faults:
        - { error_code: X86_PF_USER, pc: u + 2, resolved_by: signal }
`;
    // The stack's pages are there from the start: push does not fault.
    expect(await outcomeOf(text)).toEqual([]);
  });

  test('user code that returns, and memory that comes with the first touch', async () => {
    const text = `${HEAD}
data: [{ symbol: d, size: 8KiB, where: user, populate: false }]
text:
  - { symbol: u, section: user, asm: "c3 ret" }
  - symbol: load
    section: user
    asm: |
      48 8b 07  mov rax, qword ptr [rdi]
      c3        ret
steps:
  - { user: u, expect: { faults: [] } }
  - user: load
    registers: { rdi: d + 0x1000, rax: -1 }
    expect:
      faults: [{ error_code: X86_PF_USER, resolved_by: vm }]
      registers: { rax: 0 }
      ptes: [{ va: d, value: none }, { va: d + 0x1000, value: page }]
`;
    expect(await outcomeOf(text)).toEqual([]);
  });
});

test('fmt writes bytes, changes nothing else, and is done after one time', async () => {
  const text = `${HEAD}# a comment
text:
  - symbol: f # a function
    asm: |
      push rbp   # not needed
      here: pop rbp
      call g

      ret
  - { symbol: g, asm: "c3 ret" } # stays
${CALL}`;
  const format = async (before: string): Promise<string> => {
    const fixture = load(before);
    const { machine, images } = await buildMachine(fixture, engine);
    machine.close();
    return formatFixture(fixture, images.slice(0, 1));
  };
  const once = await format(text);
  const lines = once.split('\n');
  expect(lines.slice(6, 12)).toEqual([
    '      55              push rbp  # not needed',
    '      here:',
    '      5d              pop rbp',
    expect.stringMatching(/^ {6}e8 .. .. .. .. {2}call g$/),
    '',
    '      c3              ret',
  ]);
  expect([...lines.slice(0, 6), ...lines.slice(12)]).toEqual([
    ...text.split('\n').slice(0, 6),
    ...text.split('\n').slice(11),
  ]);
  expect(await format(once)).toBe(once);
  await expect(
    (async () => {
      const fixture = load(text);
      const { machine, images } = await buildMachine(fixture, engine);
      machine.close();
      return formatFixture(fixture, images);
    })(),
  ).rejects.toThrow('bytes go in front of the lines of a block (`|`)');
});

test('fmt mends distances when something has moved, and nothing else', async () => {
  const program = (bytes: string): string => `${HEAD}text:
  - symbol: f
    asm: |
      ${bytes}  call g
      c3              ret
  - symbol: g
    asm: |
      c3  ret
${CALL}`;
  const stale = load(program('e8 ff 00 00 00'));
  await expect(buildMachine(stale, engine)).rejects.toThrow(/not "call g", which would be e8 0b 00 00 00/);
  const { machine, images } = await buildMachine(withoutDistances(stale), engine);
  machine.close();
  expect(formatFixture(stale, images)).toBe(program('e8 0b 00 00 00'));
  const wrong = load(program('48 89 07').replace('call g', 'mov rax, rbx'));
  await expect(buildMachine(withoutDistances(wrong), engine)).rejects.toThrow(/the bytes 48 89 07 are/);
});

test('explain tells of each step, or of one', async () => {
  const text = `${HEAD}${code('48 8b 07  mov rax, qword ptr [rdi]\nc3  ret')}
steps:
  - { call: f, registers: { rdi: f } }
  - { name: a bad one, call: f, expect: { outcome: oops } }
`;
  const all = await explainFixture(load(text), engine, { step: null });
  expect(all.slice(0, 5)).toEqual([
    'x',
    'x86-64, f.yaml',
    '',
    'Step 1: call f',
    '  No fault. Outcome: returned',
  ]);
  expect(all).toContain('  Fault 1 of 1: #PF, read at 0000000000000000');
  expect(all.join('\n')).toContain('48 8b 07   mov rax, qword ptr [rdi]');
  const second = await explainFixture(load(text), engine, { step: 2 });
  expect(second[3]).toBe('Step 2: call f  (a bad one)');
  expect(second.some((line) => line.startsWith('Step 1'))).toBe(false);
  await expect(explainFixture(load(text), engine, { step: 3 })).rejects.toThrow(
    'there is no step 3: the fixture has 2 steps',
  );
});
