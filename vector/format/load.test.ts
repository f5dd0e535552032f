import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { discoverFixtures } from './discover.js';
import { loadFixture, parseFixture } from './load.js';
import { Source } from './source.js';

const folder = mkdtempSync(join(tmpdir(), 'kfault-load-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const HEAD = 'name: x\narch: x86-64\n';
const CALL = `${HEAD}steps: [{call: 0}]\n`;

/** Every error of a text as `line:column message`, with hints behind `|`. */
function errorsOf(text: string): string[] {
  const result = parseFixture(new Source('f.yaml', text));
  if (result.ok) return [];
  return result.errors.map((e) => `${e.line}:${e.column} ${e.message}${e.hint === '' ? '' : ` | ${e.hint}`}`);
}

test('a fixture of three lines loads', () => {
  expect(errorsOf('name: x\narch: arm64\nsteps: [{call: 0}]')).toEqual([]);
});

describe('what YAML allows and a fixture does not', () => {
  test.each([
    ['a mistake in YAML', 'name: "x', '1:9 YAML: missing closing "quote'],
    [
      'a colon in text',
      'name: a: b',
      '1:7 YAML: nested mappings are not allowed in compact mappings | Text with a colon and a blank in it needs quotes around it.',
    ],
    ['a tab', 'name: x\nsteps:\n\t- call: 0', '3:1 YAML: a tab cannot indent; use blanks'],
    ['no mapping', '- a', '1:1 a fixture is a mapping: name, arch, steps and so on'],
    ['several documents', `${CALL}---\na: 1`, '4:1 several YAML documents: a fixture is one document'],
    ['a directive', `%YAML 1.1\n---\n${CALL}`, '1:1 a fixture has no YAML directives'],
    ['a tag', `${CALL}description: !!str 1`, '4:20 tag `tag:yaml.org,2002:str`: a fixture has no YAML tags'],
    ['a merge key', `${CALL}<<: {a: 1}`, '4:1 merge key `<<`: a fixture has no merge keys'],
    ['a prototype', `${CALL}__proto__: {a: 1}`, '4:1 this key is not a word'],
    ['a key twice', `${CALL}name: y`, '4:1 key `name` stands here a second time'],
    ['a key that is a list', `${CALL}? [a]\n: b`, '4:3 this key is not a word'],
  ])('%s', (_, text, message) => {
    expect(errorsOf(text)).toEqual([message]);
  });

  test('anchors and aliases', () => {
    expect(errorsOf(`${HEAD}steps: [{call: &a 0}, {call: *a}]`)).toEqual([
      '3:19 anchor `&a`: a fixture has no anchors and aliases | Write the value out where it is used.',
      '3:30 alias `*a`: a fixture has no anchors and aliases | Write the value out where it is used.',
    ]);
  });

  test('an alias bomb does not go off', () => {
    const levels = Array.from({ length: 20 }, (_, i) => `l${i}: &l${i} [${`*l${i - 1}, `.repeat(9)}]`);
    expect(errorsOf(levels.slice(1).join('\n'))[0]).toMatch(/^1:\d+ (anchor|alias) /);
  });

  test.each([
    ['[', 25],
    ['{a: ', 25 * 4 - 3],
  ])('nesting of %s without end', (open, column) => {
    expect(errorsOf(open.repeat(200_000))).toEqual([
      `1:${column} nested more than 24 deep: no fixture needs that`,
    ]);
  });

  test('nesting by dashes and by indentation', () => {
    expect(errorsOf('- '.repeat(100_000))[0]).toMatch(/nested more than 24 deep/);
    const steps = Array.from({ length: 1200 }, (_, i) => `${' '.repeat(i)}a:`).join('\n');
    expect(errorsOf(steps)[0]).toMatch(/nested more than 24 deep/);
  });
});

describe('what does not fit the format', () => {
  test.each([
    [
      'no name',
      'arch: arm64\nsteps: [{call: 0}]',
      '1:1 key `name` is missing | name: The behaviour, in one sentence.',
    ],
    [
      'no such architecture',
      'name: x\narch: x86\nsteps: [{call: 0}]',
      '2:7 `x86` is not known here | It must be one of x86-64 and arm64.',
    ],
    ['an unknown key', `${CALL}arenaz: {}`, '4:1 unknown key `arenaz`: did you mean `arenas`?'],
    [
      'a key misspelt in a step',
      `${HEAD}steps:\n  - call: 0\n    registes: {rax: 1}`,
      '5:5 unknown key `registes`: did you mean `registers`?',
    ],
    ['a step misspelt', `${HEAD}steps:\n  - cal: 0`, '4:5 unknown key `cal`: did you mean `call`?'],
    [
      'a step that is two',
      `${HEAD}steps:\n  - call: 0\n    user: 0`,
      '5:5 one step cannot be `call` and `user` at once: make it two steps',
    ],
    ['no step', `${HEAD}steps: []`, '3:8 a fixture has at least one step'],
    ['steps as a mapping', `${HEAD}steps: {call: 0}`, '3:8 a list is wanted here, not a mapping'],
    ['nothing where text should be', `${CALL}text:`, '4:6 a list is wanted here, not nothing'],
    ['a fraction', `${HEAD}steps: [{call: 1.5}]`, '3:16 a number or an expression is wanted here'],
    [
      'a kernel switch that is none',
      `${CALL}config: {KFENCE: maybe}`,
      '4:18 true or false is wanted here, not text (`maybe`)',
    ],
    [
      'an arena with a bad name',
      `${CALL}arenas: {1a: {max_entries: 1}}`,
      '4:10 `1a`: a name is letters, digits and _, and does not begin with a digit',
    ],
    [
      'an unknown kfunc',
      `${HEAD}arenas: {a: {max_entries: 1}}\nsteps: [{kfunc: bpf_arena_alloc_page, args: {map: a}}]`,
      '4:17 `bpf_arena_alloc_page` is not known here: did you mean `bpf_arena_alloc_pages`? | It must be one of bpf_arena_alloc_pages, bpf_arena_alloc_pages_non_sleepable, bpf_arena_alloc_pages_sleepable, bpf_arena_free_pages, bpf_arena_free_pages_non_sleepable and bpf_arena_reserve_pages.',
    ],
    [
      'an unknown outcome',
      `${HEAD}steps: [{call: 0, expect: {outcome: retrned}}]`,
      '3:37 `retrned` is not known here: did you mean `returned`? | It must be one of returned, oops, panic, signal, livelock, budget, deadline and stopped.',
    ],
    [
      'bytes that are a number',
      `${HEAD}steps: [{write: {at: 0, bytes: 12}}]`,
      '3:32 text is wanted here, not a number (12)',
    ],
    [
      'ram that is no size',
      `${CALL}ram: lots`,
      '4:6 `lots`: a size is a number of bytes, or a number with KiB, MiB or GiB',
    ],
    [
      'an unwinder that is not modelled',
      `${CALL}config: {UNWINDER: guess}`,
      '4:20 `guess` is not known here | It must be one of orc and frame_pointer.',
    ],
    ['a row that is none', `${CALL}covers: [13]`, '4:10 text is wanted here, not a number (13)'],
    ['a clock that runs backwards', `${CALL}clock: -1`, '4:8 -1: it must be at least 0'],
    [
      'a taint that no flag has',
      `${CALL}config: {taint: Q}`,
      '4:17 `Q`: taint is letters of the flags, e.g. "OE"',
    ],
    [
      'a number that is not exact any more',
      `${HEAD}steps: [{call: 0, cpu: 1e99}]`,
      '3:24 1e+99: it must be at most 7',
    ],
    [
      'a time that is none',
      `${HEAD}clock: soon\nsteps: [{call: 0}]`,
      '3:8 a number is wanted here, not text (`soon`)',
    ],
    [
      'a member that a struct does not have',
      `${HEAD}programs: { p: { bpf: exit } }\nstruct_ops: { o: { type: t, members: { enqueue: p }, args: { enqeue: 1 } } }\nsteps: [{test_run: p}]`,
      '4:62 there is no member `enqeue`: did you mean `enqueue`?',
    ],
    ['a CPU beyond all', `${HEAD}steps: [{call: 0, cpu: 9}]`, '3:24 9: it must be at most 7'],
  ])('%s', (_, text, message) => {
    expect(errorsOf(text)).toEqual([message]);
  });

  test('an option that is not modelled is told with those that are', () => {
    const [message = ''] = errorsOf(`${CALL}config: {NUMA: true}`);
    expect(message).toMatch(
      /^4:10 the option `NUMA` is not modelled \| Modelled: KFENCE, .*UNWINDER, .* and preempt\.$/s,
    );
  });

  test('several mistakes are reported at once, in the order of the text', () => {
    expect(errorsOf(`${HEAD}ramm: 1\nsteps:\n  - call: 0\n    expct: {}\n  - user: 0\n    exp: {}`)).toEqual([
      '3:1 unknown key `ramm`: did you mean `ram`?',
      '6:5 unknown key `expct`: did you mean `expect`?',
      '8:5 unknown key `exp` | Known here: user, name, cpu, advance, inject, meanwhile, process, registers, raise and expect.',
    ]);
  });
});

describe('what fits the format and makes no sense', () => {
  const ARENA = 'arenas: {a: {max_entries: 1}}\n';
  const ARM = CALL.replace('x86-64', 'arm64');
  test.each<[string, string, ...string[]]>([
    [
      'the name of a function of the kernel',
      `${HEAD}text: [{ symbol: bpf_arena_reserve_pages, asm: ret }]\ndata: [{ symbol: scx_arena_alloc, size: 8 }]\nsteps: [{call: 0}]`,
      '3:18 `bpf_arena_reserve_pages` is already the name of a function of the kernel',
      '4:18 `scx_arena_alloc` is already the name of a function of the kernel',
    ],
    [
      'two trampolines of one name',
      `${CALL}programs: { s: { bpf: exit } }\nstruct_ops:\n  ops: { type: t, members: { m: s } }\n  ops2: { type: t, members: { m: s, n: s } }`,
      '7:34 `bpf__t_m` is already the name of the trampoline of `ops`',
    ],
    [
      'a member with native code',
      `${HEAD}programs: { s: {} }\ntext: [{ symbol: ss, program: s, asm: ret }]\nstruct_ops:\n  ops: { type: t, members: { m: s } }\nsteps: [{call: bpf__t_m}]`,
      '6:33 program `s` has native code: members are programs in BPF text',
    ],
    [
      'ram of 0',
      `${CALL}ram: 0`,
      "4:6 ram of 0 bytes: a machine's ram is 1 MiB to 4 GiB, in whole pages of 4096 bytes | An arena needs about 9 MiB of it for its page tables.",
    ],
    [
      'ram of 1 TiB',
      `${CALL}ram: 1TiB`,
      "4:6 ram of 1099511627776 bytes: a machine's ram is 1 MiB to 4 GiB, in whole pages of 4096 bytes | An arena needs about 9 MiB of it for its page tables.",
    ],
    [
      'an unknown arena',
      `${HEAD}${ARENA}steps: [{destroy: b}]`,
      "4:19 unknown arena `b`: did you mean `a`? | The fixture's arenas: a.",
    ],
    [
      'an unknown program',
      `${CALL}expect: {streams: {q: {stderr: x}}}`,
      '4:20 unknown program `q` | The fixture declares no programs.',
    ],
    [
      'two things of one name',
      `${CALL}${ARENA}data: [{symbol: a, size: 1}]`,
      '5:17 `a` is already the name of an arena',
    ],
    [
      'a function twice',
      `${CALL}text: [{symbol: f, asm: ret}, {symbol: f, asm: ret}]`,
      '4:40 `f` is already the name of a function',
    ],
    [
      'a number of 65 bits',
      `${HEAD}steps: [{call: 0, registers: {rax: 0x10000000000000000}}]`,
      '3:36 `18446744073709551616` does not fit 64 bits',
    ],
    [
      'kernel memory without its pages',
      `${CALL}data: [{symbol: d, size: 1, populate: false}]`,
      '4:39 only user memory can do without its pages until they are touched',
    ],
    [
      'data in pages that are not there',
      `${CALL}data: [{symbol: d, words: [1], where: user, populate: false}]`,
      '4:55 pages that are not there yet hold no data: give only a size',
    ],
    [
      'an option of the other architecture',
      `${CALL}config: {KPTI: true}`,
      '4:10 `KPTI` is an option of arm64, and this fixture is of x86-64',
    ],
    [
      'a granule that is not modelled',
      `${ARM}config: {granule: 64KiB}`,
      '4:19 the granule of 64KiB is not modelled: only 4KiB is',
    ],
    [
      'software PAN beside hardware PAN',
      `${ARM}config: {SW_TTBR0_PAN: true}`,
      '4:24 the kernel uses software PAN only on a CPU without PAN | Say `PAN: false` as well.',
    ],
    [
      'the dirty state without the access flag',
      `${ARM}config: {HD: true}`,
      '4:14 the dirty state is managed by hardware only together with the access flag | Say `HA: true` as well.',
    ],
    [
      'a task that borrows what it has',
      `${CALL}task: {borrows_mm: true}`,
      '4:8 only a kernel thread borrows an address space | Say `kthread: true`.',
    ],
    [
      'user code in a kernel thread',
      `${HEAD}task: {kthread: true}\nsteps: [{user: 0}]`,
      '4:10 a kernel thread runs no user code',
    ],
    [
      'user code in a kernel thread, in the middle of something else',
      `${HEAD}task: {kthread: true}\nsteps: [{call: 0, meanwhile: [{at: {fn: f, test: t}, steps: [{user: 0}]}]}]`,
      '4:63 a kernel thread runs no user code',
    ],
    [
      'a case of the other architecture',
      `${CALL}covers: [x86/1, arm64/1, x86/1]`,
      '4:17 `arm64/1` is a case of the other architecture',
      '4:26 `x86/1` is there twice',
    ],
    [
      'keys of user memory in kernel memory',
      `${CALL}data: [{symbol: d, size: 1, fault: oom}, {symbol: e, size: 1, prot: none}]`,
      '4:29 only user memory has `fault`',
      '4:69 kernel memory cannot be none: it is rw, ro, rx or rwx',
    ],
    [
      'something in memory that nobody may touch',
      `${CALL}data: [{symbol: d, words: [1], where: user, prot: none}]`,
      '4:51 nothing can be put into memory that nobody may touch: give only a size',
    ],
    [
      'a protection key on arm64',
      `${ARM}data: [{symbol: d, size: 1, where: user, pkey: 1}]`,
      '4:42 protection keys are modelled on x86-64 only',
    ],
    [
      'an ESR that x86-64 raises',
      `${HEAD}steps: [{call: 0, raise: {esr: 1}}]`,
      '3:27 x86-64 has no ESR: an exception is `exception`, `error_code` and `address`',
    ],
    [
      'a vector that arm64 raises',
      'name: x\narch: arm64\nsteps: [{call: 0, raise: {exception: PF}}]',
      '3:27 arm64 has no vectors: an exception is `esr` and `far`',
    ],
    [
      'an address that no exception has',
      `${HEAD}steps: [{call: 0, raise: {exception: GP, address: 1}}]`,
      '3:42 `GP` leaves CR2 as it is: only PF has an address',
    ],
    [
      'a CPU that is not there',
      `${HEAD}steps: [{call: 0, cpu: 1}]`,
      '3:24 there is no CPU 1: the fixture has 1 | The key cpus at the top says how many there are; they count from 0.',
    ],
    [
      'a pool that is nowhere',
      `${HEAD}kfence: {pool: here}\nsteps: [{call: 0}]`,
      '3:16 `here`: the address of the pool is a number like 0xffff8c3f2e200000',
    ],
    [
      'a pool that begins inside a page',
      `${HEAD}kfence: {pool: 0xffff8c3f2e200800}\nsteps: [{call: 0}]`,
      '3:16 the pool begins with a page',
    ],
    [
      'more process ids than CPUs',
      `${HEAD}task: {pid: [1, 2]}\nsteps: [{call: 0}]`,
      '3:13 2 process ids, but the fixture has 1 CPU',
    ],
    [
      'a process id that is none',
      `${HEAD}task: {pid: [x]}\nsteps: [{call: 0}]`,
      '3:13 a process id is wanted here, or a list of them, one for each CPU',
    ],
    [
      'an ESR on x86-64',
      `${HEAD}steps: [{call: 0, expect: {faults: [{esr: 1}]}}]`,
      '3:43 x86-64 has no ESR: did you mean `error_code`?',
    ],
    [
      'two widths',
      `${HEAD}steps: [{write: {at: 0, u8: 1, u64: 2}}]`,
      '3:17 one value is wanted here, not u8 and u64 | Give one of u8, u16, u32, u64 and bytes.',
    ],
    ['code without code', `${CALL}text: [{symbol: f, asm: ""}]`, '4:26 there is no instruction here'],
    [
      'folded code',
      `${CALL}text:\n  - symbol: f\n    asm: >\n      ret\n      ret`,
      '6:10 a folded block (`>`) runs the lines together: use `|`',
    ],
    [
      'a subprogram of a subprogram',
      `${CALL}programs: {p: {}, q: {subprogram_of: p}, r: {subprogram_of: q}}`,
      '4:61 `q` is not a main program',
    ],
    [
      'an unknown name',
      `${HEAD}steps: [{call: write_cmsk}]\ntext: [{symbol: write_cmask, asm: ret}]`,
      '3:16 unknown name `write_cmsk`: did you mean `write_cmask`?',
    ],
    [
      'an unknown label',
      `${HEAD}steps: [{call: "4 + f.lop"}]\ntext: [{symbol: f, asm: "loop: ret"}]`,
      '3:21 `f` has no label `lop`: did you mean `loop`?',
    ],
    [
      'an arena as a number',
      `${HEAD}${ARENA}steps: [{call: a}]`,
      '4:16 arena `a` is no number by itself | Use a.kern, a.kern_vm, a.guard, a.end, a.user, a.user_end, a.scratch and a.map, a.page(n) or a.upage(n).',
    ],
    [
      'an arena without such a member',
      `${HEAD}${ARENA}steps: [{call: 1 + a.kernn}]`,
      '4:20 an arena has no `kernn`: did you mean `kern`? | It has kern, kern_vm, guard, end, user, user_end, scratch, map, page(n) and upage(n).',
    ],
    [
      'an unfinished expression',
      `${HEAD}steps:\n  - call: 1 + `,
      '4:14 a number, a name or ( is missing here',
    ],
  ])('%s', (_, text, ...messages) => {
    expect(errorsOf(text)).toEqual(messages);
  });
});

describe('files', () => {
  const write = (name: string, data: string | Uint8Array): string => {
    const path = join(folder, name);
    writeFileSync(path, data);
    return path;
  };
  const messageOf = (file: string): string => {
    const result = loadFixture(file);
    return result.ok ? 'ok' : result.errors.map((e) => e.format().replace(folder, '')).join('\n');
  };

  test.each([
    ['empty', '', '/empty: the file is empty: a fixture has at least name, arch and steps'],
    ['blank', ' \n\n', '/blank: the file is empty: a fixture has at least name, arch and steps'],
    ['zeros', Uint8Array.of(0, 1, 2), '/zeros: this is a binary file: a fixture is YAML text in UTF-8'],
    [
      'latin1',
      Uint8Array.of(97, 58, 10, 98, 0xe9, 10),
      '/latin1:2:2: this byte is not UTF-8: a fixture is YAML text in UTF-8',
    ],
    [
      'large',
      'x'.repeat((1 << 20) + 1),
      '/large: 1048577 bytes: a fixture has at most 1048576 bytes (1 MiB)',
    ],
  ])('%s', (name, data, message) => {
    expect(messageOf(write(name, data))).toBe(message);
  });

  test('random bytes give a message and nothing else', () => {
    for (let seed = 1; seed <= 30; seed += 1) {
      let state = seed;
      const bytes = Uint8Array.from({ length: 400 }, () => {
        state = (Math.imul(state, 1103515245) + 12345) >>> 0;
        return seed % 2 === 0 ? state >>> 24 : 32 + ((state >>> 16) % 95);
      });
      expect(messageOf(write('random', bytes))).toMatch(/^\/random(:\d+:\d+)?: /);
    }
  });

  test('missing, a folder, no permission', () => {
    expect(messageOf(join(folder, 'nowhere'))).toBe('/nowhere: there is no such file or folder');
    mkdirSync(join(folder, 'sub'));
    expect(messageOf(join(folder, 'sub'))).toBe('/sub: this is not a file');
    const secret = write('secret', CALL);
    chmodSync(secret, 0);
    // Root reads everything.
    if (process.getuid?.() !== 0) expect(messageOf(secret)).toBe('/secret: no permission to read it');
  });

  test('what never ends is not read', async () => {
    const path = (name: string): string => join(folder, name);
    symlinkSync('/dev/zero', path('zero.yaml'));
    symlinkSync(path('loop.yaml'), path('loop.yaml'));
    expect(spawnSync('mkfifo', [path('fifo.yaml')]).status).toBe(0);
    const server = createServer();
    await new Promise<void>((resolve) => {
      server.listen(path('socket.yaml'), resolve);
    });
    for (const name of ['zero', 'fifo', 'socket']) {
      expect(messageOf(path(`${name}.yaml`))).toBe(`/${name}.yaml: this is not a file`);
    }
    expect(messageOf(path('loop.yaml'))).toBe('/loop.yaml: its symbolic links go round in circles');
    await new Promise((resolve) => server.close(resolve));
  });

  test('the message shows the line and points at the mistake', () => {
    const file = write('caret', `${HEAD}steps:\n  - call: 0\n    registes: {}\n`);
    expect(messageOf(file)).toBe(
      [
        '/caret:5:5: unknown key `registes`: did you mean `registers`?',
        '    5 |     registes: {}',
        '      |     ^',
      ].join('\n'),
    );
  });

  test('folders are searched in order; what holds no fixture is an error', () => {
    const tree = join(folder, 'tree');
    mkdirSync(join(tree, 'b'), { recursive: true });
    mkdirSync(join(tree, '.hidden'));
    for (const name of ['z.yaml', 'b/a.yml', 'b/note.txt', '.hidden/h.yaml'])
      writeFileSync(join(tree, name), '');
    symlinkSync(tree, join(tree, 'b', 'loop'));
    mkdirSync(join(folder, 'bare'));
    const found = discoverFixtures([tree, join(tree, 'z.yaml'), join(folder, 'bare'), join(folder, 'gone')]);
    expect(found.files.map((file) => file.replace(tree, ''))).toEqual(['/b/a.yml', '/z.yaml']);
    expect(found.errors.map((error) => error.format().replaceAll(folder, ''))).toEqual([
      '/bare: no fixtures in this folder\n  Fixtures are files named *.yaml.',
      '/gone: there is no such file or folder',
    ]);
  });
});

test('labels stand for themselves in the exception table and the lines of their own code', () => {
  const text = [
    'name: x',
    'arch: x86-64',
    'programs: { p: { lines: [{ at: load, file: p.c, line: 1, text: x }] } }',
    'text:',
    '  - { symbol: f, program: p, asm: "load: ret", extable: [{ insn: load, type: BPF }] }',
    '  - { symbol: g, asm: ret, extable: [{ insn: load, type: BPF }] }',
    'steps: [{ call: load }]',
  ].join('\n');
  expect(errorsOf(text)).toEqual(['6:46 unknown name `load`', '7:17 unknown name `load`']);
});

test('the name of an arena can be what a decision came to', () => {
  const text = (value: string): string =>
    `${HEAD}arenas: {a: {max_entries: 4}}\nsteps: [{call: 0, expect: {decisions: [{test: t, value: ${value}}]}}]`;
  expect(errorsOf(text('a'))).toEqual([]);
  expect(errorsOf(text('b'))).toEqual(['4:57 unknown name `b`: did you mean `a`?']);
});
