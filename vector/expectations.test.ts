/**
 * Every expectation of a fixture that passes is changed in turn: exactly that one must fail, by its name.
 * On the real machine, on both architectures.
 */
import { beforeAll, describe, expect, test } from '@jest/globals';
import { isScalar, parseDocument, visit } from 'yaml';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { buildMachine } from './build-machine.js';
import { wherePath } from './checks/failure.js';
import { formatFixture } from './format-file.js';
import { parseFixture } from './load.js';
import type { FixtureResult } from './result.js';
import { runFixture } from './run-fixture.js';
import { type Path, Source } from './source.js';

const X86 = `
name: everything at once
arch: x86-64
ram: 16MiB
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
        - { at: a.page(3) + 0x10, u64: 0x4141 }
        - { at: a.page(3) + 0x10, bytes: 41 41 00 }
      ptes:
        - { va: a.page(3), value: scratch(a) }
        - { va: a.page(4), value: none }
        - { va: store, value: page }
      arenas: { a: { pages: 0, scratched: 1, free: 16 } }
      console: []
      streams: { prog: { stdout: [], dropped: 0 } }
`;

const ARM64 = X86.replace('x86-64', 'arm64')
  .replace(/push rbp\n\s*mov rbp, rsp/g, 'stp x29, x30, [sp, #-16]!\n      mov x29, sp')
  .replace('call store\n      leave', 'blr x10\n      ldp x29, x30, [sp], #16')
  .replace('mov qword ptr [rdi], rsi\n      pop rbp', 'str x1, [x0]\n      ldp x29, x30, [sp], #16')
  .replace('mov rax, qword ptr [rdi]', 'ldr x0, [x0]')
  .replace('rdi: a.page(3) + 0x10, rsi: 0x4141', 'x0: a.page(3) + 0x10, x1: 0x4141, x10: store')
  .replace('error_code: X86_PF_WRITE', 'esr: 0x96000047')
  .replace('"#PF"', 'Data Abort')
  .replace('exc_page_fault', 'do_mem_abort')
  .replace('rsi: 0x4141', 'x1: 0x4141');

/** The same ending for both: a kfunc, a read, a stream read, and an oops that everything shows at the end. */
const TAIL = (register: string, signal: string): string => `
  - kfunc: bpf_arena_alloc_pages
    args: { map: a, addr: a.upage(5), page_cnt: 1 }
    expect: { ret: a.upage(5) }
  - read: { at: a.page(3) + 0x10, size: 2 }
    expect: { value: 0x4141 }
  - stream_read: { program: prog, length: 12 }
    expect: { ret: 12, text: "ERROR: Arena" }
  - check: { arenas: { a: { pages: 1 } } }
  - call: bad
    registers: { ${register}: 0x0 }
    expect:
      outcome: { kind: oops, signo: ${signal} }
      faults: [{ resolved_by: oops }]
expect:
  arenas: { a: { pages: 1, scratched: 1, free: 15 } }
`;

/** Keys that say where to look: not expectations by themselves. */
const PLACES = new Set(['at', 'va', 'level', 'fn']);

/** Paths of all values below `expect` and `check`. */
function expectationsOf(text: string): Path[] {
  const paths: Path[] = [];
  visit(parseDocument(text), {
    Scalar(key, node, ancestors) {
      if (key === 'key') return;
      const path = pathOf(node, ancestors);
      const below = path.findIndex((part) => part === 'expect' || part === 'check');
      if (below >= 0 && !PLACES.has(String(path.at(-1)))) paths.push(path);
    },
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
  if (parent === 'not') return 'bpf_arena_handle_page_fault';
  if (parent === 'path') return 'no_such_function';
  switch (key) {
    case 'outcome':
    case 'kind':
      return value === 'returned' ? 'panic' : 'livelock';
    case 'access':
      return 'fetch';
    case 'resolved_by':
      return 'kfence';
    case 'exception':
    case 'test':
    case 'stream':
    case 'text':
      return `${value} `;
    case 'bytes':
      return `${value} 99`;
    default:
      if (value === 'none') return 'page';
      if (value === 'page') return 'none';
      return `(${value}) ^ 1`;
  }
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

describe.each([
  ['x86-64', X86 + TAIL('rdi', 'SIGKILL')],
  ['arm64', ARM64 + TAIL('x0', 'SIGSEGV')],
])('%s', (_, source) => {
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
    async (where, path) => {
      const document = parseDocument(text);
      const node = document.getIn(path, true);
      document.setIn(path, changed(path, isScalar(node) ? node.value : null));
      const { failures, status } = await run(String(document));
      expect(status).toBe('failed');
      expect(failures.map((failure) => failure.where)).toEqual([where]);
    },
  );
});
