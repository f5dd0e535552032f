/** A step back in a debugging session: the machine is built anew and run to the instruction before. */

import type { DebugSession } from '../debug/api.js';
import { openSession } from '../debug/session.js';
import type { Engine } from '../emu/cpu.js';
import { parseFixture } from '../vector/format/load.js';
import { Source } from '../vector/format/source.js';
import type { ArchName } from './guest-code.js';
import type { Subject } from './subject.js';

/** A loop that counts in memory: four instructions a turn on both architectures. */
const LOOP: Readonly<Record<ArchName, string>> = {
  'x86-64': `
      loop: mov rax, qword ptr [rsi]
      inc qword ptr [rsi]
      dec rdi
      jnz loop
      ret`,
  arm64: `
      loop: ldr x2, [x1]
      str x2, [x1]
      subs x0, x0, #1
      b.ne loop
      ret`,
};
const TURN = 4;

function fixtureText(arch: ArchName, instructions: number): string {
  const [count, place] = arch === 'x86-64' ? ['rdi', 'rsi'] : ['x0', 'x1'];
  return `name: a long loop
arch: ${arch}
data: [{ symbol: counter, size: 8 }]
text:
  - symbol: spin
    asm: |${LOOP[arch]}
steps:
  - { call: spin, registers: { ${count}: ${Math.ceil(instructions / TURN) + TURN}, ${place}: counter } }
`;
}

export class StepBack implements Subject {
  readonly rounds = 1;
  readonly #engine: Engine;
  readonly #arch: ArchName;
  readonly #instructions: number;
  #session: DebugSession | null = null;

  /** @param instructions where in the run the first step back begins */
  constructor(engine: Engine, arch: ArchName, instructions: number) {
    this.#engine = engine;
    this.#arch = arch;
    this.#instructions = instructions;
  }

  async run(): Promise<void> {
    this.#session ??= await this.#open();
    await this.#session.stepInstructionBack();
  }

  async #open(): Promise<DebugSession> {
    const loaded = parseFixture(new Source('loop.yaml', fixtureText(this.#arch, this.#instructions)));
    if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
    const session = await openSession(loaded.fixture, this.#engine);
    // The step of the fixture and its code each begin with a tick of their own.
    await session.toTick(this.#instructions + 2);
    return session;
  }

  reset(): void {
    // Each run goes back from where the one before it has ended: one instruction less to come past.
  }

  close(): void {
    this.#session?.close();
  }
}
