/** What breakpoints and watchpoints see of a run. What is a hit depends on the run alone, not on how it is stopped. */
import type { CpuStop, PhysicalRange } from '../emu/cpu.js';
import type { EnterEvent, Event } from '../emu/events.js';
import type { BreakpointSpec, Entry } from './breakpoints.js';
import type { At, MachineRun } from './run.js';
import type { Hit, StopReason } from './stop.js';

type Watch = Extract<BreakpointSpec, { kind: 'watch' }>;
type Word = Extract<BreakpointSpec, { kind: 'entry' }>;

/** A watched range, or table entry, with what was in it last. */
type Watched =
  | { readonly entry: Entry; readonly spec: Watch; last: Uint8Array | null }
  | { readonly entry: Entry; readonly spec: Word; last: bigint | null };

/** An access of an instruction to a watched range. */
interface Access {
  readonly watched: Extract<Watched, { spec: Watch }>;
  readonly address: bigint;
  readonly write: boolean;
}

/** The first lines of what the kernel prints when it oopses or panics. */
const OOPS = /^(Oops|Internal error|Kernel panic)\b.*$/m;

const PAGE = 4096;

/** The breakpoints of one move. */
export class Watching {
  /** Addresses of guest code. */
  readonly addresses: readonly bigint[];
  /** What is watched is looked at after each instruction. */
  readonly everyInstruction: boolean;
  readonly #enabled: readonly Entry[];
  readonly #watched: readonly Watched[];
  /** Accesses of the instruction that runs. */
  #accesses: Access[] = [];
  #told = '';

  /** @param tells the engine can tell accesses; else what is watched is looked at after each instruction */
  constructor(enabled: readonly Entry[], tells: boolean) {
    this.#enabled = enabled;
    this.addresses = enabled.flatMap(({ spec }) => (spec.kind === 'address' ? [spec.address] : []));
    this.#watched = enabled.flatMap((entry): Watched[] => {
      const { spec } = entry;
      if (spec.kind === 'watch') return [{ entry, spec, last: null }];
      return spec.kind === 'entry' ? [{ entry, spec, last: null }] : [];
    });
    // Hardware changes table entries, too: by walks, which are no accesses of instructions.
    this.everyInstruction = this.#watched.some((watched) => !isData(watched) || !tells);
  }

  /** Looks at what is watched as it is now: the run begins, or the user has changed something. */
  refresh(run: MachineRun): void {
    for (const watched of this.#watched) look(watched, run);
    this.#accesses = [];
    this.#told = '';
  }

  starting(cpu: number, run: MachineRun): void {
    this.#accesses = [];
    const watches = this.#watched.filter(isData);
    if (watches.length === 0 && this.#told === '') return;
    const places = watches.flatMap((watched) => pieces(run, cpu, watched));
    const told = `${cpu} ${places.map(({ pa, size }) => `${pa}+${size}`).join()}`;
    if (told === this.#told) return;
    this.#told = told;
    run.machine.system.here(cpu).cpu.tellAccesses?.(places, (pa, size, write) => {
      let ends = false;
      for (const place of places) {
        if (pa + size <= place.pa || pa >= place.pa + place.size) continue;
        const { va, watched } = place;
        const { access } = watched.spec;
        if (va !== null && (write ? access === 'access' : access !== 'write')) {
          this.#accesses.push({ watched, address: va + BigInt(Math.max(0, pa - place.pa)), write });
        }
        ends ||= write || (va !== null && access !== 'write');
      }
      return ends;
    });
  }

  /**
   * Instructions have run: the first access to what is watched that is told, which is the last one's. Others, and
   * what was changed, are seen by comparison.
   */
  ran(stop: CpuStop, run: MachineRun): StopReason | null {
    const [access] = stop.kind === 'count' || stop.kind === 'exit' ? this.#accesses : [];
    if (access === undefined) return null;
    const { address, write, watched } = access;
    const { id, text } = watched.entry;
    const before = watched.last;
    look(watched, run);
    const hit = { id, text, address, before, after: watched.last };
    return { kind: 'watchpoint', hit: { ...hit, access: write ? 'write' : 'read' } };
  }

  check(at: At, run: MachineRun): StopReason | null {
    return this.#changed(run) ?? this.#place(at, run);
  }

  #place(at: At, run: MachineRun): StopReason | null {
    switch (at.kind) {
      case 'code': {
        if (this.addresses.length === 0 || at.retried) return null;
        const pc = run.pcOf(at.cpu);
        return this.#first(
          'address',
          ({ address }) => address === pc,
          (hit) => ({ kind: 'breakpoint', hit, pc }),
        );
      }
      case 'step': {
        const { phase, path } = at;
        if (phase !== 'begins' || path.length !== 2) return null;
        const number = Number(path[1]) + 1;
        return this.#first(
          'fixture-step',
          (spec) => spec.number === null || spec.number === number,
          (hit) => ({ kind: 'fixture-step', phase, hit }),
        );
      }
      case 'event':
        return null;
    }
  }

  notice(event: Event, run: MachineRun): StopReason | null {
    switch (event.type) {
      case 'enter':
        return (
          this.#first(
            'function',
            ({ fn }) => fn === event.fn,
            (hit) => ({ kind: 'function', hit, event }),
          ) ?? this.#kfenceReport(event, run)
        );
      case 'fault': {
        const { address } = event;
        const hit = inPool(address, run)
          ? this.#first('kfence', yes, (hit) => ({ kind: 'kfence', hit, address }))
          : null;
        return (
          hit ??
          this.#first(
            'fault',
            ({ exception }) => exception === null || exception === event.exception,
            (hit) => ({ kind: 'fault', hit, event }),
          )
        );
      }
      case 'pte-write':
        if (!event.changed || !run.machine.isScratch(event.value) || run.machine.isScratch(event.old))
          return null;
        return this.#first('scratch', yes, (hit) => ({ kind: 'scratch', hit, entryPa: event.pa }));
      case 'console':
        return this.#console(event.text);
      default:
        return null;
    }
  }

  /** KFENCE reports something; when a fault in its pool has led there, that was the hit. */
  #kfenceReport({ fn, args }: EnterEvent, run: MachineRun): StopReason | null {
    if (fn !== 'kfence_report_error') return null;
    const { events } = run.machine;
    const last = events.findLast(({ type }) => type === 'fault' || type === 'resolved' || type === 'run');
    if (last?.type === 'fault' && inPool(last.address, run)) return null;
    const [address] = args;
    return this.#first('kfence', yes, (hit) => ({
      kind: 'kfence',
      hit,
      address: typeof address === 'bigint' ? address : 0n,
    }));
  }

  #console(text: string): StopReason | null {
    const title = OOPS.exec(text)?.[0];
    const oops =
      title === undefined ? null : this.#first('oops', yes, (hit) => ({ kind: 'oops', hit, title }));
    return (
      oops ??
      this.#first(
        'console',
        (spec) => text.includes(spec.text),
        (hit, spec) => ({
          kind: 'console',
          hit,
          line: text.split('\n').find((line) => line.includes(spec.text)) ?? text,
        }),
      )
    );
  }

  /** The reason that the first breakpoint of a kind gives that matches. */
  #first<K extends BreakpointSpec['kind']>(
    kind: K,
    matches: (spec: Extract<BreakpointSpec, { kind: K }>) => boolean,
    reason: (hit: Hit, spec: Extract<BreakpointSpec, { kind: K }>) => StopReason,
  ): StopReason | null {
    for (const entry of this.#enabled) {
      const spec = entry.spec as Extract<BreakpointSpec, { kind: K }>;
      if (entry.spec.kind === kind && matches(spec)) return reason({ id: entry.id, text: entry.text }, spec);
    }
    return null;
  }

  /** The first watched thing that is not what it was; all of them are looked at. */
  #changed(run: MachineRun): StopReason | null {
    let found: StopReason | null = null;
    for (const watched of this.#watched) {
      const { entry, spec } = watched;
      const { id, text } = entry;
      if (isData(watched)) {
        const before = watched.last;
        look(watched, run);
        const after = watched.last;
        if (watched.spec.access === 'read' || same(before, after)) continue;
        const address = spec.kind === 'watch' ? spec.address + BigInt(firstDifference(before, after)) : 0n;
        found ??= { kind: 'watchpoint', hit: { id, text, address, access: 'write', before, after } };
      } else {
        const before = watched.last;
        look(watched, run);
        const after = watched.last;
        if (before === after) continue;
        const { va, level } = watched.spec;
        found ??= { kind: 'entry', hit: { id, text, va, level: level ?? 'pte', before, after } };
      }
    }
    return found;
  }
}

function inPool(address: bigint, run: MachineRun): boolean {
  const { __kfence_pool, KFENCE_POOL_SIZE } = run.machine.system.kernel.kfence;
  const offset = address - __kfence_pool;
  return __kfence_pool !== 0n && offset >= 0n && offset < BigInt(KFENCE_POOL_SIZE);
}

const yes = (): boolean => true;

function isData(watched: Watched): watched is Extract<Watched, { spec: Watch }> {
  return watched.spec.kind === 'watch';
}

function look(watched: Watched, run: MachineRun): void {
  if (isData(watched)) {
    const { address, length } = watched.spec;
    watched.last = run.machine.readMemory(run.cpu, address, length);
  } else {
    const { va, level } = watched.spec;
    watched.last = run.machine.readEntry(run.cpu, va, level)?.value ?? null;
  }
}

function same(a: Uint8Array | null, b: Uint8Array | null): boolean {
  return a === null || b === null ? a === b : Buffer.compare(a, b) === 0;
}

function firstDifference(a: Uint8Array | null, b: Uint8Array | null): number {
  return a === null || b === null
    ? 0
    : Math.max(
        0,
        a.findIndex((byte, i) => byte !== b[i]),
      );
}

/** A stretch of memory whose accesses matter: watched bytes, or with a null address an entry on the way to them. */
interface Piece extends PhysicalRange {
  readonly va: bigint | null;
  readonly watched: Extract<Watched, { spec: Watch }>;
}

/** Where the pages of a watched range are now, and what says so. */
function pieces(run: MachineRun, cpu: number, watched: Piece['watched']): Piece[] {
  const { address, length } = watched.spec;
  const { mmu } = run.machine.system.here(cpu);
  const found: Piece[] = [];
  for (let offset = 0; offset < length; ) {
    const va = address + BigInt(offset);
    const size = Math.min(length - offset, PAGE - Number(va & 0xfffn));
    const pa = mmu.peek(va);
    if (pa >= 0) found.push({ pa, size, va, watched });
    const { levels } = mmu.translate(va, 'read', false);
    for (const { entryPa } of levels) found.push({ pa: entryPa, size: 8, va: null, watched });
    offset += size;
  }
  return found;
}
