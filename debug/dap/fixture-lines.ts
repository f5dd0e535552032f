/** What the lines of the fixture's file stand for: steps, and instructions of its functions. */
import type { Fixture } from '../../vector/format/load.js';
import type { DebugSession } from '../api.js';

export type LineMeaning =
  /** `line` is the step's first. */
  | { readonly kind: 'step'; readonly line: number; readonly number: number }
  | { readonly kind: 'code'; readonly line: number; readonly address: bigint };

interface Lines {
  readonly first: number;
  readonly last: number;
}

export class FixtureLines {
  readonly #steps: readonly Lines[];
  readonly #texts: readonly Lines[];
  readonly #addresses = new Map<number, bigint>();
  readonly #lines = new Map<bigint, number>();

  constructor(session: DebugSession) {
    const { fixture } = session;
    for (const { line, address } of session.codeLines()) {
      if (!this.#addresses.has(line)) this.#addresses.set(line, address);
      this.#lines.set(address, line);
    }
    this.#steps = stepsOf(fixture);
    const code = [...this.#addresses.keys()];
    this.#texts = (fixture.data.text ?? []).map(({ asm }, i) => {
      const path = ['text', i, 'asm'];
      const end = fixture.source.blockLine(path, asm.split('\n').length - 1);
      const first = fixture.source.blockLine(path, 0);
      return { first, last: Math.max(first, ...code.filter((line) => line >= first && line <= end)) };
    });
  }

  /** Null for a line that nothing can stop at. */
  meaning(line: number): LineMeaning | null {
    const inText = this.#texts.some(({ first, last }) => line >= first && line <= last);
    if (inText) {
      // A label or a comment stands for the instruction behind it.
      for (let at = line; ; at += 1) {
        const address = this.#addresses.get(at);
        if (address !== undefined) return { kind: 'code', line: at, address };
        if (!this.#texts.some(({ first, last }) => at >= first && at <= last)) return null;
      }
    }
    const index = this.#steps.findIndex(({ first, last }) => line >= first && line <= last);
    const step = this.#steps[index];
    return step === undefined ? null : { kind: 'step', line: step.first, number: index + 1 };
  }

  /** Lines from `first` to `last` that are places of their own. */
  places(first: number, last: number): number[] {
    const lines = [...this.#addresses.keys(), ...this.#steps.map((step) => step.first)];
    return [...new Set(lines)].filter((line) => line >= first && line <= last).sort((a, b) => a - b);
  }

  /** The line of the instruction at an address; `behind`: of the call that returns there. */
  lineOf(address: bigint, behind = false): number | null {
    if (!behind) return this.#lines.get(address) ?? null;
    for (let length = 2n; length <= 7n; length += 1n) {
      const line = this.#lines.get(address - length);
      if (line !== undefined) return line;
    }
    return null;
  }
}

function stepsOf({ source, data }: Fixture): Lines[] {
  const starts = data.steps.map((_, i) => source.valuePlace(['steps', i]).line);
  const [begin = 0] = starts;
  const keys = Object.keys(data).map((key) => source.keyPlace([key]).line);
  const end = Math.min(source.lines.length + 1, ...keys.filter((line) => line > (starts.at(-1) ?? begin)));
  return starts.map((first, i) => ({ first, last: Math.max(first, (starts[i + 1] ?? end) - 1) }));
}
