/** What the schema cannot say: references between the parts of a fixture, and values in their ranges. */
import { BPF_FUNCTIONS } from '../../boot/bpf-functions.js';
import { RAM_MAX, RAM_MIN } from '../../emu/ram.js';
import { bpfProgramNames } from '../build/bpf-programs.js';
import { trampolineName } from '../build/struct-ops.js';
import { checkArenaKeys } from './check-arena-keys.js';
import { checkBpfKeys } from './check-bpf-keys.js';
import { checkKfenceKeys } from './check-kfence-keys.js';
import { type FixtureError, quoted } from './fixture-error.js';
import type { DataData, FixtureData } from './schema.js';
import type { FaultExpect, StateExpect } from './schema-expect.js';
import { type Raise, type Step, withInner } from './schema-steps.js';
import type { Path, Source } from './source.js';
import { didYouMean, listOf } from './suggest.js';

const WIDTHS = ['u8', 'u16', 'u32', 'u64', 'bytes'] as const;

/** Options that only one architecture has. */
const OPTION_OF: Readonly<Partial<Record<string, FixtureData['arch']>>> = {
  UNWINDER: 'x86-64',
  PTI: 'x86-64',
  SMAP: 'x86-64',
  SMEP: 'x86-64',
  PKE: 'x86-64',
  IBT: 'x86-64',
  BMI2: 'x86-64',
  RETHUNK: 'x86-64',
  SLS: 'x86-64',
  vsyscall: 'x86-64',
  KPTI: 'arm64',
  ARM64_CONTPTE: 'arm64',
  PAN: 'arm64',
  HA: 'arm64',
  HD: 'arm64',
  SW_TTBR0_PAN: 'arm64',
  E0PD: 'arm64',
  BTI: 'arm64',
  PAC: 'arm64',
  LSE: 'arm64',
  granule: 'arm64',
};

/** Keys of data that only user memory has. */
const USER_KEYS = ['grows_down', 'pkey', 'fault', 'write_locked'] as const;

/** All mistakes of a fixture that fits the schema. */
export function checkFixture(source: Source, fixture: FixtureData): FixtureError[] {
  return new Checker(source, fixture).run();
}

class Checker {
  readonly #errors: FixtureError[] = [];
  readonly #arenas: readonly string[];
  readonly #programs: readonly string[];

  constructor(
    readonly source: Source,
    readonly fixture: FixtureData,
  ) {
    this.#arenas = Object.keys(fixture.arenas ?? {});
    this.#programs = Object.keys(fixture.programs ?? {});
  }

  run(): FixtureError[] {
    this.#ram();
    this.#config();
    const steps = this.fixture.steps.flatMap((step, i) => withInner(step, ['steps', i]));
    this.#task(steps);
    this.#covers();
    this.#symbols();
    this.#programReferences();
    this.#text();
    this.#data();
    this.fixture.ptes?.forEach((pte, i) => {
      this.#cpu(pte.cpu, ['ptes', i]);
    });
    for (const [step, path] of steps) {
      this.#cpu(step.cpu, path);
      this.#step(step, path);
    }
    if (this.fixture.expect !== undefined) this.#state(this.fixture.expect, ['expect']);
    this.#errors.push(
      ...checkArenaKeys(this.source, this.fixture),
      ...checkBpfKeys(this.source, this.fixture, steps),
      ...checkKfenceKeys(this.source, this.fixture),
    );
    return this.#errors;
  }

  #add(path: Path, message: string, hint = ''): void {
    this.#errors.push(this.source.at(path, message, hint));
  }

  #addKey(path: Path, message: string, hint = ''): void {
    this.#errors.push(this.source.error(this.source.keyPlace(path), message, hint));
  }

  #ram(): void {
    const { ram } = this.fixture;
    if (ram === undefined) return;
    if (ram < RAM_MIN || ram > RAM_MAX || ram % 4096 !== 0) {
      this.#add(
        ['ram'],
        `ram of ${ram} bytes: a machine's ram is 1 MiB to 4 GiB, in whole pages of 4096 bytes`,
        'An arena needs about 9 MiB of it for its page tables.',
      );
    }
  }

  #config(): void {
    const { config = {}, arch } = this.fixture;
    for (const [key, of] of Object.entries(OPTION_OF)) {
      if (Object.hasOwn(config, key) && of !== arch) {
        this.#addKey(['config', key], `${quoted(key)} is an option of ${of}, and this fixture is of ${arch}`);
      }
    }
    const { granule } = config;
    if (granule !== undefined && granule !== '4KiB') {
      this.#add(['config', 'granule'], `the granule of ${granule} is not modelled: only 4KiB is`);
    }
    if (config.SW_TTBR0_PAN === true && config.PAN !== false) {
      this.#add(
        ['config', 'SW_TTBR0_PAN'],
        'the kernel uses software PAN only on a CPU without PAN',
        'Say `PAN: false` as well.',
      );
    }
    if (config.HD === true && config.HA !== true) {
      this.#add(
        ['config', 'HD'],
        'the dirty state is managed by hardware only together with the access flag',
        'Say `HA: true` as well.',
      );
    }
  }

  #task(steps: readonly (readonly [Step, Path])[]): void {
    const { task = {}, cpus = 1 } = this.fixture;
    if (Array.isArray(task.pid) && task.pid.length > cpus) {
      this.#add(
        ['task', 'pid'],
        `${task.pid.length} process ids, but the fixture has ${cpus} CPU${cpus === 1 ? '' : 's'}`,
      );
    }
    if (task.borrows_mm === true && task.kthread !== true) {
      this.#addKey(
        ['task', 'borrows_mm'],
        'only a kernel thread borrows an address space',
        'Say `kthread: true`.',
      );
    }
    if (task.kthread !== true) return;
    for (const [step, path] of steps) {
      if ('user' in step) this.#addKey([...path, 'user'], 'a kernel thread runs no user code');
    }
  }

  #covers(): void {
    const { covers = [], arch } = this.fixture;
    const other = arch === 'arm64' ? 'x86/' : 'arm64/';
    covers.forEach((row, i) => {
      if (row.startsWith(other))
        this.#add(['covers', i], `${quoted(row)} is a case of the other architecture`);
      else if (covers.indexOf(row) < i) this.#add(['covers', i], `${quoted(row)} is there twice`);
    });
  }

  /** Arenas, functions and data are all names of addresses: each name once. */
  #symbols(): void {
    const seen = new Map<string, string>(BPF_FUNCTIONS.map((name) => [name, 'a function of the kernel']));
    const add = (symbol: string, what: string, path: Path): void => {
      const before = seen.get(symbol);
      if (before !== undefined) this.#add(path, `${quoted(symbol)} is already the name of ${before}`);
      else seen.set(symbol, what);
    };
    for (const arena of this.#arenas) add(arena, 'an arena', ['arenas', arena]);
    this.fixture.text?.forEach((t, i) => {
      add(t.symbol, 'a function', ['text', i, 'symbol']);
    });
    for (const program of bpfProgramNames(this.fixture)) add(program, 'a program', ['programs', program]);
    for (const [ops, { type, members }] of Object.entries(this.fixture.struct_ops ?? {})) {
      add(ops, 'a struct_ops map', ['struct_ops', ops]);
      for (const member of Object.keys(members)) {
        const what = `the trampoline of ${quoted(ops)}`;
        add(trampolineName(type, member), what, ['struct_ops', ops, 'members', member]);
      }
    }
    for (const cache of Object.keys(this.fixture.caches ?? {})) add(cache, 'a cache', ['caches', cache]);
    this.fixture.data?.forEach((d, i) => {
      add(d.symbol, 'data', ['data', i, 'symbol']);
    });
  }

  #arena(name: string, path: Path, isKey = false): void {
    this.#known('arena', name, this.#arenas, path, isKey);
  }

  #program(name: string, path: Path, isKey = false): void {
    this.#known('program', name, this.#programs, path, isKey);
  }

  #known(what: string, name: string, known: readonly string[], path: Path, isKey: boolean): void {
    if (known.includes(name)) return;
    const message = `unknown ${what} ${quoted(name)}${didYouMean(name, known)}`;
    const hint = this.#have(`${what}s`, known);
    if (isKey) this.#addKey(path, message, hint);
    else this.#add(path, message, hint);
  }

  #have(what: string, names: readonly string[]): string {
    return names.length === 0
      ? `The fixture declares no ${what}.`
      : `The fixture's ${what}: ${listOf(names)}.`;
  }

  #programReferences(): void {
    for (const [name, program] of Object.entries(this.fixture.programs ?? {})) {
      const path: Path = ['programs', name];
      if (program.arena !== undefined) this.#arena(program.arena, [...path, 'arena']);
      const main = program.subprogram_of;
      if (main === undefined) continue;
      this.#program(main, [...path, 'subprogram_of']);
      if (main === name || this.fixture.programs?.[main]?.subprogram_of !== undefined) {
        this.#add([...path, 'subprogram_of'], `${quoted(main)} is not a main program`);
      }
      if (program.arena !== undefined) {
        this.#add(
          [...path, 'arena'],
          'a subprogram has the arena of its main program',
          'Leave this key out.',
        );
      }
    }
  }

  #text(): void {
    const images = new Map<string, string>();
    this.fixture.text?.forEach((text, i) => {
      const path: Path = ['text', i];
      if (text.asm.trim() === '') this.#add([...path, 'asm'], 'there is no instruction here');
      if (this.source.blockStyle([...path, 'asm']) === 'folded') {
        this.#add([...path, 'asm'], 'a folded block (`>`) runs the lines together: use `|`');
      }
      if (text.at !== undefined && text.section !== 'user') {
        this.#add([...path, 'at'], 'only code of section user has a place of its choice');
      }
      if (text.program === undefined) return;
      this.#program(text.program, [...path, 'program']);
      if (text.section === 'user') this.#add([...path, 'section'], 'the image of a program is kernel code');
      const before = images.get(text.program);
      if (before !== undefined) {
        this.#add([...path, 'program'], `the image of ${quoted(text.program)} is already ${quoted(before)}`);
      }
      images.set(text.program, text.symbol);
    });
    for (const [name, program] of Object.entries(this.fixture.programs ?? {})) {
      if (program.lines !== undefined && program.bpf === undefined && !images.has(name)) {
        this.#add(
          ['programs', name, 'lines'],
          `program ${quoted(name)} has no code that lines could belong to`,
        );
      }
    }
  }

  #data(): void {
    this.fixture.data?.forEach((data, i) => {
      if (data.size === undefined && data.bytes === undefined && data.words === undefined) {
        this.#add(['data', i], 'how much data? One of size, bytes and words says it');
      }
      const given = Math.max(data.bytes?.length ?? 0, 8 * (data.words?.length ?? 0));
      if (data.size !== undefined && (data.size < given || data.size === 0)) {
        this.#add(['data', i, 'size'], `${data.size} bytes are not enough for the ${given} bytes given`);
      }
      if (data.bytes !== undefined && data.words !== undefined) {
        this.#add(['data', i, 'words'], 'bytes and words at once: which is it?');
      }
      this.#userData(data, ['data', i], given);
      if (data.populate === false && data.where !== 'user') {
        this.#add(
          ['data', i, 'populate'],
          'only user memory can do without its pages until they are touched',
        );
      } else if (data.populate === false && given > 0) {
        this.#add(['data', i, 'populate'], 'pages that are not there yet hold no data: give only a size');
      }
    });
  }

  #userData(data: DataData, path: Path, given: number): void {
    if (data.where !== 'user') {
      for (const key of USER_KEYS) {
        if (data[key] !== undefined) this.#addKey([...path, key], `only user memory has ${quoted(key)}`);
      }
      if (data.prot === 'none' || data.prot === 'r') {
        this.#add([...path, 'prot'], `kernel memory cannot be ${data.prot}: it is rw, ro, rx or rwx`);
      }
      return;
    }
    if (data.prot === 'none' && given > 0) {
      this.#add([...path, 'prot'], 'nothing can be put into memory that nobody may touch: give only a size');
    }
    if (data.pkey !== undefined && this.fixture.arch !== 'x86-64') {
      this.#addKey([...path, 'pkey'], 'protection keys are modelled on x86-64 only');
    }
  }

  #cpu(cpu: number | undefined, path: Path): void {
    const cpus = this.fixture.cpus ?? 1;
    if (cpu === undefined || cpu < cpus) return;
    this.#add(
      [...path, 'cpu'],
      `there is no CPU ${cpu}: the fixture has ${cpus}`,
      'The key cpus at the top says how many there are; they count from 0.',
    );
  }

  #step(step: Step, path: Path): void {
    if ('kfunc' in step) this.#arena(step.args.map, [...path, 'args', 'map']);
    if ('destroy' in step) this.#arena(step.destroy, [...path, 'destroy']);
    if ('create' in step) this.#arena(step.create, [...path, 'create']);
    if ('mmap' in step) this.#arena(step.mmap.arena, [...path, 'mmap', 'arena']);
    if ('write' in step) this.#width(step.write, [...path, 'write']);
    if ('raise' in step && step.raise !== undefined) this.#raise(step.raise, [...path, 'raise']);
    if ('check' in step) this.#state(step.check, [...path, 'check']);
    if (!('expect' in step) || step.expect === undefined) return;
    const { expect } = step;
    this.#state(expect, [...path, 'expect']);
    if ('faults' in expect) {
      expect.faults?.forEach((fault, i) => {
        this.#fault(fault, [...path, 'expect', 'faults', i]);
      });
    }
  }

  #raise(raise: NonNullable<Raise>, path: Path): void {
    const isX86 = 'exception' in raise;
    if (isX86 && this.fixture.arch === 'arm64') {
      this.#addKey([...path, 'exception'], 'arm64 has no vectors: an exception is `esr` and `far`');
    }
    if (!isX86 && this.fixture.arch === 'x86-64') {
      this.#addKey(
        [...path, 'esr'],
        'x86-64 has no ESR: an exception is `exception`, `error_code` and `address`',
      );
    }
    if (isX86 && raise.address !== undefined && raise.exception !== 'PF') {
      this.#addKey(
        [...path, 'address'],
        `${quoted(raise.exception)} leaves CR2 as it is: only PF has an address`,
      );
    }
  }

  #state(expect: StateExpect, path: Path): void {
    for (const name of Object.keys(expect.streams ?? {})) {
      this.#program(name, [...path, 'streams', name], true);
      const main = this.fixture.programs?.[name]?.subprogram_of;
      if (main !== undefined) {
        this.#add(
          [...path, 'streams', name],
          `a subprogram has no streams: its reports go to ${quoted(main)}`,
        );
      }
    }
    for (const name of Object.keys(expect.arenas ?? {})) this.#arena(name, [...path, 'arenas', name], true);
    expect.memory?.forEach((memory, i) => {
      this.#width(memory, [...path, 'memory', i]);
    });
  }

  #width(value: Partial<Record<(typeof WIDTHS)[number], unknown>>, path: Path): void {
    const given = WIDTHS.filter((width) => value[width] !== undefined);
    if (given.length === 1) return;
    this.#add(
      path,
      given.length === 0 ? 'a value is missing here' : `one value is wanted here, not ${listOf(given)}`,
      `Give one of ${listOf(WIDTHS)}.`,
    );
  }

  #fault(fault: FaultExpect, path: Path): void {
    const { arch } = this.fixture;
    if (arch === 'arm64' && fault.error_code !== undefined) {
      this.#add([...path, 'error_code'], 'arm64 has no error code: did you mean `esr`?');
    }
    if (arch === 'x86-64' && fault.esr !== undefined) {
      this.#add([...path, 'esr'], 'x86-64 has no ESR: did you mean `error_code`?');
    }
  }
}
