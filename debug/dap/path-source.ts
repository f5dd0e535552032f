/** The path of a fault as a text to step through: a line for each call, decision and return. */
import { hex } from '../../emu/address.js';
import { resultText, valueText } from '../stop.js';
import type { PathCall, PathView } from '../views.js';

export interface PathText {
  readonly text: string;
  /** Lines, from 1, of calls and decisions. */
  readonly lines: ReadonlyMap<unknown, number>;
}

export function pathText(path: PathView, nameOf: (address: bigint) => string | null): PathText {
  const rows: string[] = [];
  const lines = new Map<unknown, number>();
  const at = (address: bigint): string => {
    const name = nameOf(address);
    return name === null ? hex(address) : `${hex(address)} <${name}>`;
  };
  const { fault } = path;
  if (fault !== null) {
    const { exception, access, address, code, pc } = fault;
    rows.push(`${exception}: ${access} of ${at(address)}, code ${hex(code)}, at ${at(pc)}`);
  }
  const add = (call: PathCall, depth: number): void => {
    const indent = '  '.repeat(depth);
    const args = call.args.map(({ name, value }) => `${name}=${value}`).join(', ');
    lines.set(call, rows.push(`${indent}${call.fn}(${args})`));
    for (const item of call.items) {
      if (item.kind === 'call') add(item, depth + 1);
      else lines.set(item, rows.push(`${indent}  ${item.test} → ${resultText(valueText(item.value))}`));
    }
    if (!call.open && call.result !== null) rows.push(`${indent}  return ${call.result}`);
  };
  for (const call of path.calls) add(call, 0);
  return { text: `${rows.join('\n')}\n`, lines };
}

/** Where each open call stands, outermost first: at the call of the next one, the innermost at its last decision. */
export function currentLines({ stack }: PathView, { lines }: PathText): number[] {
  return stack.map((call) => lines.get(call.items.at(-1)) ?? lines.get(call) ?? 1);
}

/** Texts that have no file, by the numbers under which the client knows them. */
export class VirtualSources {
  readonly #texts = new Map<number, string>();
  readonly #numbers = new Map<string, number>();
  #last = 0;

  /** The number of a text: the same for the same text. */
  numberOf(text: string): number {
    const known = this.#numbers.get(text);
    if (known !== undefined) return known;
    this.#last += 1;
    this.#texts.set(this.#last, text);
    this.#numbers.set(text, this.#last);
    for (const [number, old] of this.#texts) {
      if (this.#texts.size <= KEPT) break;
      this.#texts.delete(number);
      this.#numbers.delete(old);
    }
    return this.#last;
  }

  text(number: number): string | null {
    return this.#texts.get(number) ?? null;
  }
}

/** Texts that are kept: a client asks for those of the last few stops. */
const KEPT = 64;
