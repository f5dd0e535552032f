/** Programs of a fixture that are given as BPF text: assembled, verified, compiled and loaded. */

import type { LoadedBpf } from '../../boot/load-bpf.js';
import { JitError } from '../../bpf/jit/jit.js';
import { assembleBpf, BpfAsmError, type BpfSymbols, type BpfText } from '../../bpf/text/asm.js';
import { type LinkSymbol, VerifierError } from '../../bpf/verifier/link.js';
import { GuestRefusal } from '../../kernel/guest-refusal.js';
import { errnoOf, errnoText } from '../format/errno-text.js';
import { ExpressionError, evaluate, parseExpression } from '../format/expression.js';
import { type FixtureError, FixtureErrors, quoted } from '../format/fixture-error.js';
import type { Fixture } from '../format/load.js';
import type { ProgramData } from '../format/schema-programs.js';
import type { Path } from '../format/source.js';
import type { SystemMachine } from '../machine/system-machine.js';
import { isRefusal } from './data-pages.js';

/** Names of the programs that are given as BPF text, in the order of the fixture. */
export function bpfProgramNames({ programs = {} }: Pick<Fixture['data'], 'programs'>): string[] {
  return Object.entries(programs).flatMap(([name, { bpf }]) => (bpf === undefined ? [] : [name]));
}

/** A function of a program, assembled. */
interface Assembled {
  readonly name: string;
  readonly data: ProgramData;
  readonly text: BpfText;
}

/**
 * Loads all programs in BPF text; their names become symbols of the machine. Throws FixtureErrors at the places of
 * the text that the assembler, the verifier or the JIT refuses.
 * @param functions of kernel text, by name
 */
export function loadBpfPrograms(
  fixture: Fixture,
  machine: SystemMachine,
  functions: ReadonlyMap<string, bigint>,
): void {
  const loader = new BpfProgramLoader(fixture, machine, functions);
  loader.run();
}

class BpfProgramLoader {
  readonly #symbols: ReadonlyMap<string, LinkSymbol>;

  constructor(
    readonly fixture: Fixture,
    readonly machine: SystemMachine,
    readonly functions: ReadonlyMap<string, bigint>,
  ) {
    this.#symbols = this.#linkSymbols();
  }

  run(): void {
    const programs = this.#assemble();
    for (const main of programs.values()) {
      if (main.data.subprogram_of !== undefined) continue;
      const subs = [...programs.values()].filter(({ data }) => data.subprogram_of === main.name);
      this.#load([main, ...subs]);
    }
  }

  #assemble(): Map<string, Assembled> {
    const { fixture } = this;
    const assembled = new Map<string, Assembled>();
    const errors: FixtureError[] = [];
    for (const [name, data] of Object.entries(fixture.data.programs ?? {})) {
      if (data.bpf === undefined) continue;
      try {
        assembled.set(name, { name, data, text: assembleBpf(data.bpf, this.#constants()) });
      } catch (error) {
        if (!(error instanceof BpfAsmError)) throw error;
        errors.push(this.#textError(name, error.line, error.column, error.message));
      }
    }
    if (errors.length > 0) throw new FixtureErrors(errors);
    return assembled;
  }

  /** Constants and expressions over them; a name of something in memory is a symbol. */
  #constants(): BpfSymbols {
    const { machine } = this;
    return {
      constant: (text) => {
        try {
          const node = parseExpression(text);
          if (node.kind === 'name' && machine.symbols.has(node.name)) return null;
          return BigInt.asIntN(64, evaluate(node, machine.scope));
        } catch (error) {
          if (error instanceof ExpressionError) return null;
          throw error;
        }
      },
    };
  }

  #linkSymbols(): Map<string, LinkSymbol> {
    const { data = [] } = this.fixture.data;
    const symbols = new Map<string, LinkSymbol>();
    for (const { symbol, where } of data) {
      const address = this.machine.symbols.get(symbol);
      if (address !== undefined) symbols.set(symbol, { address, kind: where === 'user' ? 'scalar' : 'mem' });
    }
    for (const [name, address] of this.functions) symbols.set(name, { address, kind: 'scalar' });
    return symbols;
  }

  #load(functions: readonly Assembled[]): void {
    const { machine, fixture } = this;
    const [main] = functions;
    if (main === undefined) return;
    const { expect } = main.data;
    const errno = expect?.errno === undefined ? null : errnoOf(expect.errno, machine.scope);
    let loaded: LoadedBpf;
    try {
      loaded = this.#loaded(main, functions);
    } catch (error) {
      const refusal = asRefusal(error);
      if (refusal === null) throw this.#ownError(main.name, error);
      if (expect === undefined) throw this.#refused(main, functions, refusal);
      this.#compare(main, functions, refusal, errno);
      return;
    }
    if (expect !== undefined) {
      throw fixture.source.at(
        ['programs', main.name, 'expect'],
        `the verifier is to refuse program ${quoted(main.name)}, but it loads`,
      );
    }
    for (const fn of loaded.functions) {
      const { linked, prog } = fn;
      machine.programs.set(linked.name, prog);
      machine.addSymbol(linked.name, prog.bpf_func, prog.jited_len);
      machine.loadedBpf.set(linked.name, fn);
      if (main.data.sleepable === false) machine.nonSleepable.add(linked.name);
    }
  }

  #loaded(main: Assembled, functions: readonly Assembled[]): LoadedBpf {
    const { machine } = this;
    const maps = new Map(
      [...machine.maps].flatMap(([name, map]) => (map === null ? [] : [[name, map] as const])),
    );
    return machine.system.loadBpf({
      functions: functions.map(({ name, text, data }) => ({ name, text, tag: data.tag })),
      maps,
      arena: main.data.arena ?? null,
      functionsOfText: this.functions,
      symbols: this.#symbols,
      sleepable: main.data.sleepable ?? true,
      context: (main.data.args ?? []).map((kind, i) => ({ offset: i * 8, kind })),
    });
  }

  /** What an unexpected refusal looks like. */
  #refused(main: Assembled, functions: readonly Assembled[], refusal: Refusal): FixtureError {
    const { message, errno } = refusal;
    return this.#atSlot(
      main,
      functions,
      refusal,
      `the kernel refuses program ${quoted(main.name)}: ${message} (${errnoText(errno)})`,
    );
  }

  #compare(main: Assembled, functions: readonly Assembled[], refusal: Refusal, wanted: number | null): void {
    const { source } = this.fixture;
    const path: Path = ['programs', main.name, 'expect'];
    const { log } = main.data.expect ?? {};
    const said = `the kernel says ${errnoText(refusal.errno)}: ${refusal.message}`;
    if (wanted !== null && wanted !== refusal.errno) {
      throw source.at([...path, 'errno'], `${errnoText(wanted)} is expected, but ${said}`);
    }
    if (log !== undefined && !refusal.message.includes(log)) {
      const at = this.#atSlot(main, functions, refusal, '').line;
      throw source.at([...path, 'log'], `this text is expected in the log, but ${said} (line ${at})`);
    }
  }

  #atSlot(main: Assembled, functions: readonly Assembled[], refusal: Refusal, message: string): FixtureError {
    const fn = functions.find(({ name }) => name === refusal.func) ?? main;
    const line = refusal.slot === null ? undefined : fn.text.places.get(refusal.slot);
    const { source } = this.fixture;
    const path: Path = ['programs', fn.name, 'bpf'];
    const place = line === undefined ? source.keyPlace(path) : source.textPlace(path, line - 1);
    return source.error(place, message);
  }

  /** A mistake in line `line`, column `column` (from 1) of a program's text. */
  #textError(name: string, line: number, column: number, message: string): FixtureError {
    const { source } = this.fixture;
    const path: Path = ['programs', name, 'bpf'];
    if (source.blockStyle(path) === null) return source.at(path, message);
    const text = this.fixture.data.programs?.[name]?.bpf?.split('\n')[line - 1] ?? '';
    const at = source.blockLine(path, line - 1);
    const indent = Math.max(0, (source.lines[at - 1] ?? '').length - text.length);
    return source.error({ line: at, column: indent + column }, message);
  }

  /** What is no refusal of the kernel: no room for the program, or a defect. */
  #ownError(name: string, error: unknown): unknown {
    if (!isRefusal(error) && !(error instanceof GuestRefusal)) return error;
    return this.fixture.source.error(this.fixture.source.keyPlace(['programs', name]), error.message);
  }
}

/** BPF_PROG_LOAD has failed. */
interface Refusal {
  readonly message: string;
  /** Negative. */
  readonly errno: number;
  readonly func: string | null;
  readonly slot: number | null;
}

function asRefusal(error: unknown): Refusal | null {
  if (error instanceof VerifierError) {
    const { message, errno, func, slot } = error;
    return { message, errno, func, slot };
  }
  if (error instanceof JitError) {
    const { message, errno, func, insn } = error;
    return { message, errno, func, slot: insn };
  }
  return null;
}
