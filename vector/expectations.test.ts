/**
 * Every expectation of a fixture that passes is changed in turn: exactly that one must fail, by its name.
 * On the real machine, on both architectures. Together the fixtures have every key that the schema knows.
 */
import { beforeAll, describe, expect, test } from '@jest/globals';
import { isScalar, isSeq, parseDocument, visit } from 'yaml';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { buildMachine } from './build-machine.js';
import { wherePath } from './checks/failure.js';
import { formatFixture } from './format-file.js';
import { parseFixture } from './load.js';
import type { FixtureResult } from './result.js';
import { runFixture } from './run-fixture.js';
import { jsonSchema } from './schema.js';
import { type Path, Source } from './source.js';

const X86 = `
name: everything at once
arch: x86-64
ram: 16MiB
limits: { refaults: 4 }
config: { PKE: true }
kfence: {}
caches: { c: { size: 32 } }
data: [{ symbol: secret, where: user, size: 4KiB, pkey: 1 }]
arenas: { a: { max_entries: 16, map_extra: 0x7f7d26200000 } }
programs: { prog: { arena: a } }
text:
  - symbol: main
    program: prog
    asm: |
      push rbp
      mov rbp, rsp
      call store
      leave
      ret
  - symbol: store
    asm: |
      push rbp
      mov rbp, rsp
      here:
      mov qword ptr [rdi], rsi
      pop rbp
      ret
  - symbol: bad
    asm: |
      mov rax, qword ptr [rdi]
      ret
  - symbol: halt
    asm: |
      hlt
  - symbol: user_load
    section: user
    asm: |
      mov rax, qword ptr [rdi]
steps:
  - call: main
    registers: { rdi: a.page(3) + 0x10, rsi: 0x4141 }
    expect:
      outcome: returned
      faults:
        - address: a.page(3) + 0x10
          error_code: X86_PF_WRITE
          access: write
          exception: "#PF"
          pc: store.here
          path: [exc_page_fault, kfence_handle_page_fault, bpf_arena_handle_page_fault]
          not: [die]
          decisions:
            - { test: "user_mode(regs)", value: false }
          resolved_by: scratch
          stream: |
            ERROR: Arena WRITE access at unmapped address 0x7f7d26203000
            ...
      registers: { rsi: 0x4141 }
      memory:
        - { at: a.page(3) + 0x10, u8: 0x41 }
        - { at: a.page(3) + 0x10, u16: 0x4141 }
        - { at: a.page(3) + 0x10, u32: 0x4141 }
        - { at: a.page(3) + 0x10, u64: 0x4141 }
        - { at: a.page(3) + 0x10, bytes: 41 41 00 }
      ptes:
        - { va: a.page(3), value: scratch(a) }
        - { va: a.page(4), value: none }
        - { va: store, value: page }
      arenas: { a: { pages: 0, scratched: 1, free: 16 } }
      taint: Not tainted
      console: []
      streams:
        prog:
          stdout: []
          stderr: |
            ERROR: Arena WRITE access at unmapped address 0x7f7d26203000
            ...
          dropped: 0
`;

const ARM64 = X86.replace('x86-64', 'arm64')
  .replace('config: { PKE: true }\n', '')
  .replace(', pkey: 1 }', ' }')
  .replace(/push rbp\n\s*mov rbp, rsp/g, 'stp x29, x30, [sp, #-16]!\n      mov x29, sp')
  .replace('call store\n      leave', 'blr x10\n      ldp x29, x30, [sp], #16')
  .replace('mov qword ptr [rdi], rsi\n      pop rbp', 'str x1, [x0]\n      ldp x29, x30, [sp], #16')
  .replaceAll('mov rax, qword ptr [rdi]', 'ldr x0, [x0]')
  .replace('hlt', 'wfi')
  .replace('rdi: a.page(3) + 0x10, rsi: 0x4141', 'x0: a.page(3) + 0x10, x1: 0x4141, x10: store')
  .replace('error_code: X86_PF_WRITE', 'esr: 0x96000047')
  .replace('"#PF"', 'Data Abort')
  .replace('exc_page_fault', 'do_mem_abort')
  .replace('rsi: 0x4141', 'x1: 0x4141');

/** What is said differently on the two sides. */
interface Words {
  /** First argument, and the second. */
  readonly argument: string;
  readonly value: string;
  /** Signal of an oops that kills the task. */
  readonly signal: string;
  readonly nullTitle: string;
  /** Distance of a CPU that waits for interrupts from the instruction, and what is said of it. */
  readonly halted: string;
  readonly why: string;
  readonly decision: string;
}

const WORDS: Readonly<Record<'x86-64' | 'arm64', Words>> = {
  'x86-64': {
    argument: 'rdi',
    value: 'rsi',
    signal: 'SIGKILL',
    nullTitle: 'BUG: kernel NULL pointer dereference, address: 0000000000000000',
    halted: 'halt + 1',
    why: 'hlt: no interrupt will ever come',
    decision: '{ fn: page_fault_oops, test: "user_mode(regs)", value: false }',
  },
  arm64: {
    argument: 'x0',
    value: 'x1',
    signal: 'SIGSEGV',
    nullTitle: 'Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000',
    halted: 'halt',
    why: 'wfi',
    decision: '{ fn: do_bad_area, test: "user_mode(regs)", value: false }',
  },
};

/** A step that only one of them has: protection keys. */
const KEYS = {
  'x86-64': `  - user: user_load
    registers: { rdi: secret }
    raise: { exception: PF, error_code: X86_PF_PROT | X86_PF_USER | X86_PF_PK, address: secret }
    expect:
      outcome: { kind: signal, signo: SIGSEGV, code: SEGV_PKUERR, address: secret, pkey: 1 }
`,
  arm64: '',
} as const;

/** The same ending for both: other kinds of steps, and the other ways in which a run can end. */
const TAIL = (
  arch: keyof typeof KEYS,
  { argument, value, signal, nullTitle, halted, why }: Words,
): string => `
  - call: main
    registers: { ${argument}: a.page(3), ${value}: 0, x10: store }
    expect: { faults: [] }
  - kfunc: bpf_arena_alloc_pages
    args: { map: a, addr: a.upage(5), page_cnt: 1 }
    expect: { ret: a.upage(5) }
  - read: { at: a.page(3) + 0x10, size: 2 }
    expect: { value: 0x4141 }
  - stream_read: { program: prog, length: 12 }
    expect: { ret: 12, text: "ERROR: Arena" }
  - check: { arenas: { a: { pages: 1 } } }
  - slab: kmem_cache_alloc
    args: { cache: c }
    allocations: [{ slot: 72, side: left }]
    expect:
      ret: kfence.slot(72)
      kfence:
        enabled: true
        allocated: 1
        allocs: 1
        frees: 0
        zombies: 0
        bugs: 0
        incompatible: 0
        capacity: 0
        covered: 0
        free: 254
        objects: { "72": { state: allocated, addr: kfence.object(72), unprotected_page: 0 } }
  - debugfs: kfence/stats
    expect:
      text: |
        enabled: 1
        ...
  - kfence: { sample_interval: 0 }
    expect: { ret: 0, console: "kfence: disabled" }
  - name: an entry that is neither none nor present is left alone, and the hook says retry
    pte: { va: a.page(9), value: 2 }
  - call: main
    registers: { ${argument}: a.page(9), x10: store }
    expect:
      outcome: { kind: livelock, address: a.page(9), pc: store.here, turns: 4 }
  - user: user_load
    registers: { ${argument}: 8 }
    expect:
      outcome: { kind: signal, signo: SIGSEGV, code: SEGV_MAPERR, address: 8 }
${KEYS[arch]}  - call: halt
    expect:
      outcome: { kind: stopped, pc: ${halted}, why: "${why}" }
  - call: bad
    registers: { ${argument}: 0x0 }
    expect:
      outcome: { kind: oops, title: "${nullTitle}", signo: ${signal} }
      faults: [{ resolved_by: oops }]
      console: |
        ${nullTitle}
        ...
expect:
  arenas: { a: { pages: 1, scratched: 1, free: 15 } }
`;

function fixtureFor(arch: 'x86-64' | 'arm64'): string {
  const words = WORDS[arch];
  const body = (arch === 'arm64' ? ARM64 : X86).replace(
    '{ test: "user_mode(regs)", value: false }',
    words.decision,
  );
  const tail = TAIL(arch, words);
  return `${body}${arch === 'arm64' ? tail : tail.replaceAll(', x10: store', '')}`;
}

/** Keys that say where to look: not expectations by themselves. */
const PLACES = new Set(['at', 'va', 'level']);

/** Paths of all values below `expect` and `check`, empty lists included. */
function expectationsOf(text: string): Path[] {
  const paths: Path[] = [];
  visit(parseDocument(text), (key, node, ancestors) => {
    if (key === 'key' || !(isScalar(node) || (isSeq(node) && node.items.length === 0))) return;
    const path = pathOf(node, ancestors);
    const below = path.findIndex((part) => part === 'expect' || part === 'check');
    if (below >= 0 && !PLACES.has(String(path.at(-1)))) paths.push(path);
  });
  return paths;
}

function pathOf(node: unknown, ancestors: readonly unknown[]): (string | number)[] {
  const path: (string | number)[] = [];
  const chain = [...ancestors, node];
  chain.forEach((each, i) => {
    const parent = chain[i - 1] as { items?: unknown[]; key?: unknown } | undefined;
    if (parent === undefined) return;
    if (isPair(parent)) path.push(String((parent.key as { value: unknown }).value));
    else if (Array.isArray(parent.items) && !isPair(each)) path.push(parent.items.indexOf(each));
  });
  return path;
}

function isPair(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'key' in value && 'value' in value;
}

/** Another value that the format allows at the same place. */
function changed(path: Path, value: unknown): unknown {
  const key = path.at(-1);
  const parent = path.at(-2);
  if (typeof value === 'boolean') return !value;
  if (Array.isArray(value)) return key === 'faults' ? [{}] : ['more'];
  if (parent === 'not') return 'bpf_arena_handle_page_fault';
  if (parent === 'path') return 'no_such_function';
  switch (key) {
    case 'outcome':
    case 'kind':
      return 'panic';
    case 'access':
      return 'fetch';
    case 'state':
      return 'freed';
    case 'resolved_by':
      return 'kfence';
    case 'exception':
    case 'fn':
    case 'test':
    case 'title':
    case 'why':
    case 'console':
    case 'stdout':
    case 'stderr':
    case 'stream':
    case 'text':
    case 'taint':
      return `${value} `;
    case 'bytes':
      return `${value} 99`;
    default:
      if (value === 'none') return 'page';
      if (value === 'page') return 'none';
      return `(${value}) ^ 1`;
  }
}

/** Where the failure is reported: a decision that is not found, whatever of it is wrong, at its test. */
function reportedAt(path: Path): string {
  return wherePath(path.at(-1) === 'fn' ? [...path.slice(0, -1), 'test'] : path);
}

/** The text with the bytes of its instructions, so that no run waits for the assembler. */
async function withBytes(text: string): Promise<string> {
  const loaded = parseFixture(new Source('all.yaml', text));
  if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
  const { machine, images } = await buildMachine(loaded.fixture, new NativeEngine());
  machine.close();
  return formatFixture(loaded.fixture, images);
}

async function run(text: string): Promise<FixtureResult> {
  const loaded = parseFixture(new Source('all.yaml', text));
  if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
  return runFixture(loaded.fixture, new NativeEngine());
}

const ARCHES = ['x86-64', 'arm64'] as const;

describe.each(ARCHES.map((arch): [string, string] => [arch, fixtureFor(arch)]))('%s', (_, source) => {
  let text = '';
  beforeAll(async () => {
    text = await withBytes(source);
  });

  test('the fixture passes', async () => {
    const result = await run(text);
    expect(result.errors.map((error) => error.format())).toEqual([]);
    expect(result.failures).toEqual([]);
  });

  test.each(expectationsOf(source).map((path): [string, Path] => [wherePath(path), path]))(
    '%s',
    async (_where, path) => {
      const document = parseDocument(text);
      const node = document.getIn(path, true);
      document.setIn(path, changed(path, isSeq(node) ? [] : isScalar(node) ? node.value : null));
      const { failures, status } = await run(String(document));
      expect(status).toBe('failed');
      expect(failures.map((failure) => failure.where)).toEqual([reportedAt(path)]);
    },
  );
});

type Json = { readonly [key: string]: unknown };

/** Parts of the schema that say what can be expected, by the names they have in it. */
const EXPECTATIONS = new Set([
  'runExpect',
  'callExpect',
  'textExpect',
  'readExpect',
  'stateExpect',
  'outcome',
  'fault',
  'decision',
  'memory',
  'entry',
  'streams',
  'arenaState',
  'kfenceState',
  'kfenceObject',
]);

/** `fault.pc` for every key of those parts; what all kinds of steps share counts once, as `expect.…`. */
function schemaKeys(): string[] {
  const parts = Object.entries(jsonSchema().$defs as Json).filter(([name]) => EXPECTATIONS.has(name));
  const keys = parts.flatMap(([name, part]) => objectsOf(part as Json).flatMap((o) => keysOf(name, o)));
  return [...new Set(keys)].filter((key) => !PLACES.has(key.split('.')[1] ?? '')).sort();
}

function objectsOf(schema: Json): Json[] {
  if ('properties' in schema) return [schema];
  return ((schema.anyOf ?? []) as Json[]).flatMap(objectsOf);
}

function keysOf(name: string, schema: Json): string[] {
  const part = name.endsWith('Expect') ? 'expect' : name;
  return Object.keys(schema.properties as Json).map((key) => `${part}.${key}`);
}

/** The same names for the keys on the way to a value: `expect.faults`, `fault.decisions`, `decision.test`. */
function keysOnTheWay(path: Path): string[] {
  const INSIDE: Readonly<Record<string, string>> = {
    outcome: 'outcome',
    faults: 'fault',
    decisions: 'decision',
    memory: 'memory',
    ptes: 'entry',
    streams: 'streams',
    arenas: 'arenaState',
    kfence: 'kfenceState',
    objects: 'kfenceObject',
  };
  const start = path.findIndex((part) => part === 'expect' || part === 'check');
  const keys: string[] = [];
  let part = 'expect';
  let named = false;
  for (const key of path.slice(start + 1)) {
    if (typeof key === 'number' || named) {
      named = false;
      continue;
    }
    keys.push(`${part}.${key}`);
    // Streams, arenas and objects of KFENCE are mappings by name.
    named = key === 'streams' || key === 'arenas' || key === 'objects';
    part = INSIDE[key] ?? part;
  }
  return keys;
}

test('no key of the schema is without an expectation that was changed', () => {
  const changedKeys = new Set(
    ARCHES.flatMap((arch) => expectationsOf(fixtureFor(arch)).flatMap(keysOnTheWay)),
  );
  expect(schemaKeys().filter((key) => !changedKeys.has(key))).toEqual([]);
  expect(schemaKeys().length).toBeGreaterThan(40);
});
