/** Names of the functions that BPF programs call, as fixtures know them before there is a machine. */
import { BPF_FUNCTIONS } from '../../boot/bpf-functions.js';
import { Expression } from './bound-expression.js';
import type { FixtureData } from './schema.js';

const KNOWN: ReadonlySet<string> = new Set(BPF_FUNCTIONS);

/** True when a fixture has to do with one of the functions: its code names it, or an expression does. */
export function needsBpfFunctions(fixture: FixtureData): boolean {
  const { programs = {}, text = [], struct_ops } = fixture;
  if (struct_ops !== undefined || Object.values(programs).some(({ bpf }) => bpf !== undefined)) return true;
  const own = new Set(text.map(({ symbol }) => symbol));
  const names = (words: string): boolean =>
    (words.match(/[A-Za-z_][A-Za-z0-9_]*/g) ?? []).some((word) => KNOWN.has(word) && !own.has(word));
  return text.some(({ asm }) => names(asm)) || someExpression(fixture, ({ text: words }) => names(words));
}

function someExpression(value: unknown, test: (expression: Expression) => boolean): boolean {
  if (value instanceof Expression) return test(value);
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value)) return false;
  return Object.values(value).some((item) => someExpression(item, test));
}
