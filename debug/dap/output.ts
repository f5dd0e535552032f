/** What the kernel and programs have printed since it was told last, as output events. */
import { OutputEvent } from '@vscode/debugadapter';
import type { DebugSession } from '../api.js';
import { plainText } from '../terminal/lines.js';
import { resultLines } from '../terminal/views/steps.js';

export class Output {
  #lines: number;
  #streams: ReadonlyMap<string, string>;

  constructor(readonly session: DebugSession) {
    this.#lines = session.consoleLines().length;
    this.#streams = this.#texts();
  }

  #texts(): Map<string, string> {
    return new Map(
      this.session.streams().map(({ program, stream, text }) => [`${program} ${stream}`, text] as const),
    );
  }

  /** What is new. Behind a move back there is nothing new: it is told once more when the run comes past it. */
  news(): OutputEvent[] {
    const lines = this.session.consoleLines();
    const found: OutputEvent[] = [];
    const fresh = lines.slice(Math.min(this.#lines, lines.length));
    if (fresh.length > 0) found.push(new OutputEvent(`${fresh.join('\n')}\n`, 'console'));
    this.#lines = lines.length;
    const texts = this.#texts();
    for (const { program, stream, text } of this.session.streams()) {
      const old = this.#streams.get(`${program} ${stream}`) ?? '';
      if (text.length > old.length && text.startsWith(old)) {
        found.push(new OutputEvent(text.slice(old.length), stream));
      }
    }
    this.#streams = texts;
    return found;
  }
}

/** What the fixture came to, at the end. */
export function resultOutput({ result, fixture }: DebugSession): OutputEvent | null {
  if (result === null) return null;
  const passed = result.status === 'passed';
  const rows = resultLines(result).map(plainText);
  const text = [`${fixture.data.name}: ${result.status}`, ...rows].join('\n');
  return new OutputEvent(`${text}\n`, passed ? 'console' : 'stderr');
}
