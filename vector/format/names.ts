/** Names that the expressions of one fixture may use, known before anything runs. */

import { BPF_FUNCTIONS } from '../../boot/bpf-functions.js';
import { parseLine } from '../../emu/assembler/source.js';
import { slabFunctionNames } from '../../mm/slab.js';
import { bpfProgramNames } from '../build/bpf-programs.js';
import { trampolineNames } from '../build/struct-ops.js';
import { CONSTANTS, PLACES, PROTECTIONS } from './constants.js';
import { ExpressionError, type Node } from './expression.js';
import { quoted } from './fixture-error.js';
import type { FixtureData, TextData } from './schema.js';
import type { Path } from './source.js';
import { didYouMean, listOf } from './suggest.js';

export const ARENA_MEMBERS = [
  'kern',
  'kern_vm',
  'guard',
  'end',
  'user',
  'user_end',
  'scratch',
  'map',
] as const;
/** Of a program in BPF text: the native code of an instruction. */
export const PROGRAM_METHODS = ['insn'] as const;
export const KFENCE_METHODS = ['page', 'slot', 'object'] as const;
export const ARENA_METHODS = ['page', 'upage'] as const;

/** Functions of expressions, by the number of their arguments. */
export const FUNCTIONS: Readonly<Record<string, number>> = {
  scratch: 1,
  mk_pte: 2,
  mk_pmd: 2,
  mk_pud: 2,
  pte: 1,
  phys: 1,
};

type Named = Extract<Node, { kind: 'name' | 'member' | 'call' }>;

/** Whether an expression says what a decision came to: a decision can come to the name of an arena. */
function isDecided(path: Path): boolean {
  return path.at(-3) === 'decisions' && path.at(-1) === 'value';
}

/** Labels of a function's text, in order; lines that cannot be read have none. */
export function labelsOf(arch: FixtureData['arch'], text: TextData): string[] {
  return text.asm.split('\n').flatMap((line, i) => {
    try {
      return parseLine(arch, { text: line, line: i }).labels;
    } catch {
      return [];
    }
  });
}

export class Names {
  readonly #arenas: ReadonlySet<string>;
  /** Labels by symbol; data symbols have none. */
  readonly #symbols: ReadonlyMap<string, ReadonlySet<string>>;
  readonly #plain: readonly string[];
  /** Symbol of the image of each program. */
  readonly #images: ReadonlyMap<string, string>;
  readonly #texts: readonly string[];
  /** Programs in BPF text. */
  readonly #programs: ReadonlySet<string>;

  readonly #kfence: boolean;

  constructor(fixture: FixtureData) {
    this.#kfence = fixture.kfence !== undefined;
    this.#arenas = new Set(Object.keys(fixture.arenas ?? {}));
    const programs = bpfProgramNames(fixture);
    this.#programs = new Set(programs);
    this.#symbols = new Map<string, ReadonlySet<string>>([
      ...[...programs, ...Object.keys(fixture.struct_ops ?? {}), ...trampolineNames(fixture)].map(
        (name): [string, ReadonlySet<string>] => [name, new Set()],
      ),
      ...(fixture.data ?? []).map((d): [string, ReadonlySet<string>] => [d.symbol, new Set()]),
      ...(fixture.text ?? []).map((t): [string, ReadonlySet<string>] => [
        t.symbol,
        new Set(labelsOf(fixture.arch, t)),
      ]),
    ]);
    this.#texts = (fixture.text ?? []).map((t) => t.symbol);
    this.#images = new Map(
      (fixture.text ?? []).flatMap((t): [string, string][] =>
        t.program === undefined ? [] : [[t.program, t.symbol]],
      ),
    );
    this.#plain = [
      ...(this.#kfence ? [...Object.keys(fixture.caches ?? {}), ...slabFunctionNames] : []),
      ...BPF_FUNCTIONS,
      ...this.#symbols.keys(),
      ...CONSTANTS[fixture.arch].keys(),
      ...PROTECTIONS,
      ...PLACES,
    ];
  }

  /**
   * What refuses, with an ExpressionError, names that will mean nothing in the expression at `path`. In a
   * function's own exception table and a program's own lines, labels stand for themselves.
   */
  checkAt(path: Path): (node: Named) => void {
    const own = this.ownerAt(path);
    const labels = own === null ? undefined : this.#symbols.get(own);
    const isArena = (name: string): boolean => isDecided(path) && this.#arenas.has(name);
    return (node) => {
      switch (node.kind) {
        case 'name':
          if (isArena(node.name)) return;
          if (labels?.has(node.name) !== true) this.#name(node.name, node.offset, labels ?? []);
          return;
        case 'member':
          this.#member(node.object, node.member, node.offset);
          return;
        case 'call':
          this.#call(node);
          return;
      }
    };
  }

  /** The function whose labels need no prefix in the expression at `path`, or null. */
  ownerAt(path: Path): string | null {
    const [part, key, list] = path;
    if (part === 'text' && list === 'extable') return this.#texts[Number(key)] ?? null;
    if (part === 'programs' && list === 'lines') return this.#images.get(String(key)) ?? null;
    return null;
  }

  #name(name: string, offset: number, labels: Iterable<string>): void {
    if (this.#plain.includes(name)) return;
    if (this.#arenas.has(name)) {
      throw new ExpressionError(
        offset,
        `arena ${quoted(name)} is no number by itself`,
        `Use ${listOf(ARENA_MEMBERS.map((m) => `${name}.${m}`))}, ${name}.page(n) or ${name}.upage(n).`,
      );
    }
    throw new ExpressionError(
      offset,
      `unknown name ${quoted(name)}${didYouMean(name, [...labels, ...this.#plain, ...this.#arenas])}`,
    );
  }

  #kfenceMember(member: string, offset: number): void {
    if (member === 'pool') return;
    if (KFENCE_METHODS.some((known) => known === member)) {
      throw new ExpressionError(offset, `${quoted(`kfence.${member}`)} wants a number: kfence.${member}(0)`);
    }
    throw new ExpressionError(
      offset,
      `KFENCE has no ${quoted(member)}${didYouMean(member, ['pool', ...KFENCE_METHODS])}`,
      `It has ${listOf(['kfence.pool', ...KFENCE_METHODS.map((method) => `kfence.${method}(n)`)])}.`,
    );
  }

  #member(object: string, member: string, offset: number): void {
    if (this.#kfence && object === 'kfence') {
      this.#kfenceMember(member, offset);
      return;
    }
    if (this.#arenas.has(object)) {
      if (ARENA_MEMBERS.some((known) => known === member)) return;
      const isMethod = ARENA_METHODS.some((known) => known === member);
      throw new ExpressionError(
        offset,
        isMethod
          ? `${quoted(`${object}.${member}`)} wants the number of a page: ${object}.${member}(0)`
          : `an arena has no ${quoted(member)}${didYouMean(member, [...ARENA_MEMBERS, ...ARENA_METHODS])}`,
        isMethod ? '' : `It has ${listOf([...ARENA_MEMBERS, 'page(n)', 'upage(n)'])}.`,
      );
    }
    const labels = this.#symbols.get(object);
    if (labels === undefined) {
      throw new ExpressionError(
        offset,
        `unknown name ${quoted(object)}${didYouMean(object, [...this.#arenas, ...this.#symbols.keys()])}`,
      );
    }
    if (!labels.has(member)) {
      throw new ExpressionError(
        offset,
        `${quoted(object)} has no label ${quoted(member)}${didYouMean(member, labels)}`,
      );
    }
  }

  #programCall(object: string, { fn, args, offset }: Extract<Node, { kind: 'call' }>): void {
    if (!PROGRAM_METHODS.some((known) => known === fn)) {
      throw new ExpressionError(
        offset,
        `a program has no ${quoted(`${fn}()`)}${didYouMean(fn, PROGRAM_METHODS)}`,
        `It has ${object}.insn(n): the native code of its instruction n.`,
      );
    }
    if (args.length !== 1)
      throw new ExpressionError(offset, `${object}.${fn}() takes the number of an instruction`);
  }

  #call(node: Extract<Node, { kind: 'call' }>): void {
    const { object, fn, args, offset } = node;
    if (this.#kfence && object === 'kfence') {
      if (!KFENCE_METHODS.some((known) => known === fn)) this.#kfenceMember(fn, offset);
      if (args.length !== 1) throw new ExpressionError(offset, `kfence.${fn}() takes one number`);
      return;
    }
    if (object !== null && this.#programs.has(object)) {
      this.#programCall(object, node);
      return;
    }
    if (object !== null) {
      if (!this.#arenas.has(object)) {
        throw new ExpressionError(
          offset,
          `unknown arena ${quoted(object)}${didYouMean(object, this.#arenas)}`,
        );
      }
      if (!ARENA_METHODS.some((known) => known === fn)) {
        throw new ExpressionError(
          offset,
          `an arena has no ${quoted(`${fn}()`)}${didYouMean(fn, ARENA_METHODS)}`,
        );
      }
      if (args.length !== 1)
        throw new ExpressionError(offset, `${object}.${fn}() takes the number of a page`);
      return;
    }
    const arity = FUNCTIONS[fn];
    if (arity === undefined || !Object.hasOwn(FUNCTIONS, fn)) {
      throw new ExpressionError(
        offset,
        `unknown function ${quoted(fn)}${didYouMean(fn, Object.keys(FUNCTIONS))}`,
      );
    }
    if (args.length !== arity) {
      throw new ExpressionError(offset, `${fn}() takes ${arity} argument${arity === 1 ? '' : 's'}`);
    }
    if (fn === 'scratch') {
      const arena = args[0];
      if (arena?.kind !== 'name' || !this.#arenas.has(arena.name)) {
        throw new ExpressionError(offset, 'scratch() takes the name of an arena');
      }
    }
  }
}
