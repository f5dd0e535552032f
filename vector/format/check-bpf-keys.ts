/** What the schema cannot say of BPF programs: native code or BPF text, main programs and subprograms, who runs what. */
import { type FixtureError, quoted } from './fixture-error.js';
import type { FixtureData } from './schema.js';
import type { ProgramData } from './schema-programs.js';
import type { Step } from './schema-steps.js';
import type { Path, Source } from './source.js';
import { didYouMean, listOf } from './suggest.js';

/** Keys of a program that only BPF text has. */
const BPF_KEYS = ['sleepable', 'args', 'expect'] as const;

/**
 * All mistakes about BPF programs in a fixture that fits the schema.
 * @param steps all of them with their places, those in the middle of others too
 */
export function checkBpfKeys(
  source: Source,
  fixture: FixtureData,
  steps: readonly (readonly [Step, Path])[],
): FixtureError[] {
  return new BpfChecker(source, fixture).run(steps);
}

class BpfChecker {
  readonly #errors: FixtureError[] = [];
  readonly #programs: Readonly<Record<string, ProgramData>>;
  /** Name of the function with the native code of a program. */
  readonly #images: ReadonlyMap<string, string>;

  constructor(
    readonly source: Source,
    readonly fixture: FixtureData,
  ) {
    this.#programs = fixture.programs ?? {};
    this.#images = new Map(
      (fixture.text ?? []).flatMap(({ program, symbol }) =>
        program === undefined ? [] : [[program, symbol]],
      ),
    );
  }

  run(steps: readonly (readonly [Step, Path])[]): FixtureError[] {
    for (const [name, program] of Object.entries(this.#programs)) this.#program(name, program);
    this.#structOps();
    for (const [step, path] of steps) this.#step(step, path);
    return this.#errors;
  }

  #at(path: Path, message: string, hint = ''): void {
    this.#errors.push(this.source.at(path, message, hint));
  }

  #atKey(path: Path, message: string, hint = ''): void {
    this.#errors.push(this.source.error(this.source.keyPlace(path), message, hint));
  }

  #program(name: string, program: ProgramData): void {
    const path: Path = ['programs', name];
    const { bpf } = program;
    if (bpf === undefined) {
      for (const key of BPF_KEYS) {
        if (program[key] !== undefined)
          this.#atKey([...path, key], `only a program in BPF text (the key bpf) has ${quoted(key)}`);
      }
      return;
    }
    if (bpf.trim() === '') this.#at([...path, 'bpf'], 'there is no instruction here');
    if (this.source.blockStyle([...path, 'bpf']) === 'folded') {
      this.#at([...path, 'bpf'], 'a folded block (`>`) runs the lines together: use `|`');
    }
    const image = this.#images.get(name);
    if (image !== undefined) {
      this.#atKey(
        [...path, 'bpf'],
        `program ${quoted(name)} has native code already, in ${quoted(image)}: it is one or the other`,
      );
    }
    if (program.lines !== undefined) {
      this.#atKey(
        [...path, 'lines'],
        'BPF text says its source lines itself',
        'Write `; text of the line @ file.c:12` in front of the instructions of the line.',
      );
    }
    this.#subprogram(name, program);
  }

  #subprogram(name: string, program: ProgramData): void {
    const path: Path = ['programs', name];
    const main = program.subprogram_of;
    if (main === undefined) return;
    if (this.#programs[main] !== undefined && this.#programs[main].bpf === undefined) {
      this.#at([...path, 'subprogram_of'], `${quoted(main)} has native code, and its subprograms have too`);
    }
    for (const key of BPF_KEYS) {
      if (program[key] !== undefined)
        this.#atKey([...path, key], `what ${quoted(key)} says, the main program says: ${quoted(main)}`);
    }
  }

  #known(name: string, path: Path): void {
    const names = Object.keys(this.#programs);
    if (names.includes(name)) return;
    this.#at(
      path,
      `unknown program ${quoted(name)}${didYouMean(name, names)}`,
      names.length === 0 ? 'The fixture declares no programs.' : `The fixture's programs: ${listOf(names)}.`,
    );
  }

  #structOps(): void {
    for (const [name, ops] of Object.entries(this.fixture.struct_ops ?? {})) {
      const path: Path = ['struct_ops', name];
      for (const [member, program] of Object.entries(ops.members)) {
        this.#known(program, [...path, 'members', member]);
        if (this.#programs[program] !== undefined && this.#programs[program].bpf === undefined) {
          this.#at(
            [...path, 'members', member],
            `program ${quoted(program)} has native code: members are programs in BPF text`,
          );
        }
      }
      const members = Object.keys(ops.members);
      const missing = (member: string): string =>
        `there is no member ${quoted(member)}${didYouMean(member, members)}`;
      for (const member of Object.keys(ops.args ?? {})) {
        if (!members.includes(member)) this.#atKey([...path, 'args', member], missing(member));
      }
      ops.returns?.forEach((member, i) => {
        if (!members.includes(member)) this.#at([...path, 'returns', i], missing(member));
      });
    }
  }

  #step(step: Step, path: Path): void {
    if ('test_run' in step) {
      this.#known(step.test_run, [...path, 'test_run']);
      const main = this.#programs[step.test_run]?.subprogram_of;
      if (main !== undefined) {
        this.#at(
          [...path, 'test_run'],
          `a subprogram is not run by itself: its main program is ${quoted(main)}`,
        );
      }
    }
    if ('stream_read' in step && step.stream_read.program !== undefined) {
      const { program } = step.stream_read;
      // A map has a file descriptor too.
      if (this.fixture.arenas?.[program] === undefined) {
        this.#known(program, [...path, 'stream_read', 'program']);
      }
    }
  }
}
