/** Names of a machine, and expressions with them as people type them. */
import { hex } from '../emu/address.js';
import { RamError } from '../emu/ram.js';
import {
  ExpressionError,
  evaluate,
  type Node,
  parseExpression,
  type Scope,
  walkNames,
} from '../vector/format/expression.js';
import { didYouMean } from '../vector/format/suggest.js';
import { StepRefusal } from '../vector/machine/machine.js';
import type { MachineRun } from './run.js';
import { SessionError } from './session-error.js';
import { typeSize } from './types.js';
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

/**
 * Takes an expression apart. Throws a SessionError for what is none, and for names and registers that there are not. A
 * name of the fixture that means nothing yet may mean something further on.
 */
export function parseTyped(text: string, run: MachineRun): Node {
  return said(() => {
    const node = parseExpression(text, typeSize);
    const check = run.names.checkAt([]);
    const scope = scopeOf(run);
    walkNames(
      node,
      (named) => {
        if (named.kind === 'name') checkName(named, scope, check);
        else check(named);
      },
      ({ name }) => registerName(run, name),
    );
    return node;
  });
}

type Named = Extract<Node, { kind: 'name' }>;

function checkName(node: Named, scope: Scope, declared: (node: Named) => void): void {
  try {
    scope.name(node.name, node.offset);
  } catch (unknown) {
    try {
      declared(node);
    } catch (undeclared) {
      // Of the name of an arena it says what can be asked for.
      throw undeclared instanceof ExpressionError && undeclared.hint !== '' ? undeclared : unknown;
    }
  }
}

/** The value of an expression where the run stands. Throws a SessionError for what has none. */
export function valueHere(node: Node, run: MachineRun): bigint {
  return said(() => evaluate(node, scopeOf(run)));
}

/** See SessionViews.evaluate(). */
export function evaluateText(text: string, run: MachineRun): bigint {
  return valueHere(parseTyped(text, run), run);
}

function scopeOf(run: MachineRun): Scope {
  const { machine, cpu } = run;
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
    member: (object, member, offset) => {
      const map = member === 'map' ? (machine.maps.get(object) ?? null) : null;
      if (map === null || machine.labels.get(object)?.has(member) === true) {
        return machine.scope.member(object, member, offset);
      }
      // Asking the machine's own scope would take a page for it: a look would change the run.
      const pointer = machine.system.maps.known(map);
      if (pointer !== null) return pointer;
      throw new ExpressionError(
        offset,
        `\`${object}.map\` has no address here: nothing in the run has asked for it so far`,
      );
    },
    call: (object, fn, args, offset) => {
      // The argument of scratch() is the name of an arena.
      const values = fn === 'scratch' ? args : args.map((arg) => known(arg, scope));
      return machine.scope.call(object, fn, values, offset);
    },
    register: (name) => registerNamed(run, name, cpu),
    load: (address, size, offset) => {
      const bytes = machine.readMemory(cpu, address, size);
      if (bytes === null)
        throw new ExpressionError(offset, `Cannot access memory at address ${hex(address)}`);
      return bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    },
  };
  return scope;
}

/** An argument as its value: the machine's own scope knows no registers. */
function known(arg: Node, scope: Scope): Node {
  return { kind: 'number', offset: arg.offset, value: evaluate(arg, scope) };
}

/** What is wrong with an expression, as a session says it. */
function said<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    const isUsers =
      error instanceof ExpressionError || error instanceof StepRefusal || error instanceof RamError;
    if (!isUsers) throw error;
    const hint = error instanceof ExpressionError && error.hint !== '' ? `. ${error.hint}` : '';
    throw new SessionError(`${error.message}${hint}`);
  }
}

/** A register by the CPU's name, or pc or sp. */
export function registerNamed(run: MachineRun, name: string, cpu: number): bigint {
  const known = registerName(run, name);
  return run.register(cpu, known);
}

/** Names of gdb's for registers that the CPU calls otherwise. */
const GDB_NAMES: ReadonlyMap<string, string> = new Map([
  ['fp', 'rbp'],
  ['eflags', 'rflags'],
  ['cpsr', 'pstate'],
]);

/** The CPU's name for what a user calls a register. Throws a SessionError for what it has not. */
export function registerName({ machine }: MachineRun, name: string): string {
  const lower = name.toLowerCase();
  const { registerNames, arch } = machine;
  if (registerNames.includes(lower)) return lower;
  if (lower === 'pc') return arch.pcRegister;
  if (lower === 'sp') return registerNames.includes('rsp') ? 'rsp' : 'sp';
  const same = GDB_NAMES.get(lower);
  if (same !== undefined && registerNames.includes(same)) return same;
  throw new SessionError(
    `there is no register \`${name}\` on ${arch.name}${didYouMean(lower, [...registerNames])}`,
  );
}
