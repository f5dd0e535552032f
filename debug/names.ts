/** Names of a machine, and expressions with them as people type them. */
import { hex } from '../emu/address.js';
import { ExpressionError, evaluate, parseExpression, type Scope } from '../vector/format/expression.js';
import { didYouMean } from '../vector/format/suggest.js';
import { StepRefusal } from '../vector/machine/machine.js';
import type { MachineRun } from './run.js';
import { SessionError } from './session-error.js';
import type { SymbolView } from './views.js';

/** Everything that has a name and an address, ascending. */
export function symbolViews({ machine, fixture }: MachineRun): SymbolView[] {
  const { kallsyms } = machine.system.kernel;
  const { text, bpf, modules } = machine.arch.layout;
  const found: SymbolView[] = kallsyms.all.map(({ name, start, size }) => ({
    name,
    start,
    size,
    kind: 'code',
  }));
  const known = new Set(found.map(({ name }) => name));
  const own = new Set(fixture.data.text?.map(({ symbol }) => symbol));
  const isText = (at: bigint): boolean =>
    [text, bpf, modules].some(({ start, end }) => at >= start && at < end);
  for (const [name, start] of machine.symbols) {
    if (known.has(name)) continue;
    const code = own.has(name) || isText(start);
    const size = machine.sizeOf(name);
    // Functions that nothing calls have a place but no code.
    if (code && size === 0 && kallsyms.lookup(start) === null) continue;
    found.push({ name, start, size, kind: code ? 'code' : 'data' });
  }
  for (const [symbol, places] of machine.labels) {
    for (const [label, start] of places) {
      found.push({ name: `${symbol}.${label}`, start, size: 0, kind: 'label' });
    }
  }
  return found.sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
}

/** See SessionViews.evaluate(). */
export function evaluateText(text: string, run: MachineRun): bigint {
  const { machine, cpu } = run;
  const replaced = text.replace(/\$([a-z_][a-z0-9_]*)/gi, (_, name: string) =>
    hex(registerNamed(run, name, cpu)),
  );
  const { kallsyms } = machine.system.kernel;
  const scope: Scope = {
    name: (name, offset) => {
      try {
        return machine.scope.name(name, offset);
      } catch (error) {
        const start = kallsyms.all.find((symbol) => symbol.name === name)?.start;
        if (start !== undefined) return start;
        const known = symbolViews(run).map((symbol) => symbol.name);
        const hint = didYouMean(name, known);
        throw hint === '' ? error : new ExpressionError(offset, `there is no symbol \`${name}\`${hint}`);
      }
    },
    member: (object, member, offset) => machine.scope.member(object, member, offset),
    call: (object, fn, args, offset) => machine.scope.call(object, fn, args, offset),
  };
  try {
    return evaluate(parseExpression(replaced), scope);
  } catch (error) {
    if (!(error instanceof ExpressionError || error instanceof StepRefusal)) throw error;
    throw new SessionError(error.message);
  }
}

/** A register by the CPU's name, or pc or sp. */
export function registerNamed(run: MachineRun, name: string, cpu: number): bigint {
  const known = registerName(run, name);
  return run.register(cpu, known);
}

/** The CPU's name for what a user calls a register. Throws a SessionError for what it has not. */
export function registerName({ machine }: MachineRun, name: string): string {
  const lower = name.toLowerCase();
  const { registerNames, arch } = machine;
  if (registerNames.includes(lower)) return lower;
  if (lower === 'pc') return arch.pcRegister;
  if (lower === 'sp') return registerNames.includes('rsp') ? 'rsp' : 'sp';
  throw new SessionError(
    `there is no register \`${name}\` on ${arch.name}${didYouMean(lower, [...registerNames])}`,
  );
}
