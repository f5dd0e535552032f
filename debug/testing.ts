/** For tests: a fixture of each architecture with all that a session can stop at, and what a state comes to. */
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { type Fixture, loadFixture, parseFixture } from '../vector/format/load.js';
import { Source } from '../vector/format/source.js';
import type { DebugSession } from './api.js';
import { openSession } from './session.js';

export type Isa = 'x86-64' | 'arm64';
export const ISAS: readonly Isa[] = ['x86-64', 'arm64'];

/** Functions: `prog_main` calls `write_word(x, y)`; `spin(n)` counts `counter` up n times; `touch(x)` reads x. */
const TEXT: Readonly<Record<Isa, string>> = {
  'x86-64': `
  - symbol: prog_main
    program: demo
    asm: |
      push rbp
      mov rbp, rsp
      call write_word
      nop
      leave
      ret
  - symbol: write_word
    asm: |
      push rbp
      mov rbp, rsp
      mov eax, esi
      store: mov dword ptr [rdi], eax
      mov ecx, dword ptr [rdi]
      pop rbp
      ret
  - symbol: spin
    asm: |
      movabs rax, counter
      loop: inc qword ptr [rax]
      dec rdi
      jnz loop
      ret
  - symbol: touch
    asm: |
      load: mov rax, qword ptr [rdi]
      ret
  - symbol: touch_twice
    asm: |
      mov rax, qword ptr [rdi]
      mov rcx, qword ptr [rdi]
      ret
`,
  arm64: `
  - symbol: prog_main
    program: demo
    asm: |
      stp x29, x30, [sp, #-16]!
      mov x29, sp
      bl write_word
      nop
      ldp x29, x30, [sp], #16
      ret
  - symbol: write_word
    asm: |
      stp x29, x30, [sp, #-16]!
      mov x29, sp
      mov w2, w1
      store: str w2, [x0]
      ldr w3, [x0]
      ldp x29, x30, [sp], #16
      ret
  - symbol: spin
    asm: |
      loop: ldr x2, [x1]
      add x2, x2, #1
      str x2, [x1]
      subs x0, x0, #1
      b.ne loop
      ret
  - symbol: touch
    asm: |
      load: ldr x0, [x0]
      ret
  - symbol: touch_twice
    asm: |
      ldr x1, [x0]
      ldr x2, [x0]
      ret
`,
};

/** Names of argument registers, the first and the second. */
export const ARGS: Readonly<Record<Isa, readonly [string, string]>> = {
  'x86-64': ['rdi', 'rsi'],
  arm64: ['x0', 'x1'],
};

/** @param steps YAML of the list of steps; ARG0 and ARG1 stand for the argument registers */
export function makeFixture(isa: Isa, steps: string, head = ''): Fixture {
  const [first, second] = ARGS[isa];
  const text = `name: debugged
arch: ${isa}
ram: 12MiB
${head}
arenas:
  a: { max_entries: 16, map_extra: 0x7f7d26200000 }
programs:
  demo: { arena: a }
data:
  - { symbol: counter, size: 64 }
text:${TEXT[isa]}
steps:
${steps}`
    .replaceAll('ARG0', first)
    .replaceAll('ARG1', second);
  const result = parseFixture(new Source(`${isa}.yaml`, text));
  if (!result.ok) throw new Error(result.errors.map((error) => error.format()).join('\n'));
  return result.fixture;
}

/** A page that nobody allocated is written by a kernel function that a program calls; then it is once more. */
export const SCRATCH_STEPS = `
  - { name: scratched, call: prog_main, registers: { ARG0: a.page(3), ARG1: 0x1234 } }
  - { name: again, call: prog_main, registers: { ARG0: a.page(3) + 8, ARG1: 0x77 } }
`;

/** Counts, and dies. */
export const OOPS_STEPS = `
  - { call: spin, registers: { ARG0: 3, ARG1: counter } }
  - { call: touch, registers: { ARG0: 0x10 }, expect: { outcome: returned } }
`;

export const engine = new NativeEngine(undefined, { reuse: true });

export function sessionOf(isa: Isa, steps: string, head = ''): Promise<DebugSession> {
  return openSession(makeFixture(isa, steps, head), engine);
}

const FOLDER: Readonly<Record<Isa, string>> = { 'x86-64': 'x86', arm64: 'arm64' };

/** @param name of a fixture that both architectures have */
export function sessionOfFile(isa: Isa, name: string): Promise<DebugSession> {
  const loaded = loadFixture(
    fileURLToPath(new URL(`../fixtures/${FOLDER[isa]}/${name}.yaml`, import.meta.url)),
  );
  if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
  return openSession(loaded.fixture, engine);
}

const PAGE = 4096;
const ZEROES = Buffer.alloc(PAGE);

/** All that a machine's future depends on, as far as it can be seen: registers, ram, and what has happened. */
export function stateOf(session: DebugSession): string {
  const hash = createHash('sha1');
  const { base, size } = session.ram;
  const { buffer } = session.readPhysical(base, size) ?? new Uint8Array();
  const ram = Buffer.from(buffer);
  // Most of the ram is zero, which is found sooner than hashed.
  for (let at = 0; at < ram.length; at += PAGE) {
    const page = ram.subarray(at, at + PAGE);
    if (!page.equals(ZEROES)) hash.update(`${at} `).update(page);
  }
  for (let cpu = 0; cpu < session.cpus; cpu++) {
    for (const { name, value } of session.registers(cpu)) hash.update(`${name}=${value} `);
  }
  const { tick, instructions, place } = session.position;
  hash.update(
    `${tick} ${instructions} ${place} ${session.events.length} ${session.consoleLines().join('\n')}`,
  );
  return hash.digest('hex');
}
