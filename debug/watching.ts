/** What breakpoints and watchpoints see of a run. What is a hit depends on the run alone, not on how it is stopped. */
import type { CpuStop, PhysicalRange } from '../emu/cpu.js';
import type { EnterEvent, Event } from '../emu/events.js';
import { RamError } from '../emu/ram.js';
import type { EntryLevel } from '../vector/machine/machine.js';
import type { BreakpointSpec, Entry } from './breakpoints.js';
import { valueHere } from './names.js';
import type { At, MachineRun } from './run.js';
import { SessionError } from './session-error.js';
import type { Hit, HitReason, StopReason } from './stop.js';

type Watch = Extract<BreakpointSpec, { kind: 'watch' }>;
type Word = Extract<BreakpointSpec, { kind: 'entry' }>;

/** A watched range, or table entry, with what was in it last, and by whose tables: see tablesOf(). */
type Watched =
  | { readonly entry: Entry; readonly spec: Watch; last: Uint8Array | null; tables: bigint }
  | { readonly entry: Entry; readonly spec: Word; last: bigint | null; tables: bigint };

/** An access of an instruction to a watched range. */
interface Access {
  readonly watched: Extract<Watched, { spec: Watch }>;
  readonly address: bigint;
  readonly write: boolean;
}

/** The first lines of what the kernel prints when it oopses or panics. */
const OOPS = /^(Oops|Internal error|Kernel panic)\b.*$/m;

const PAGE = 4096;

/** Backwards, nothing is counted, and no hit is passed over. */
type Direction = 'forwards' | 'backwards';

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
  /** Breakpoints that were hit, by their numbers, and the reasons to stop that they are. */
  #hits = new Map<number, StopReason>();
  readonly #direction: Direction;

  /** @param tells the engine can tell accesses; else what is watched is looked at after each instruction */
  constructor(enabled: readonly Entry[], tells: boolean, direction: Direction) {
    this.#direction = direction;
    this.#enabled = enabled;
    this.addresses = enabled.flatMap(({ spec }) => (spec.kind === 'address' ? [spec.address] : []));
    this.#watched = enabled.flatMap((entry): Watched[] => {
      const { spec } = entry;
      if (spec.kind === 'watch') return [{ entry, spec, last: null, tables: 0n }];
      return spec.kind === 'entry' ? [{ entry, spec, last: null, tables: 0n }] : [];
    });
    // Hardware changes table entries, too: by walks, which are no accesses of instructions.
    this.everyInstruction = this.#watched.some((watched) => !isData(watched) || !tells);
  }

  /** What was hit since this was asked last, in the order in which it was. */
  takeHits(): ReadonlyMap<number, StopReason> {
    const hits = this.#hits;
    this.#hits = new Map();
    return hits;
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
    if (stop.kind !== 'count' && stop.kind !== 'exit') return null;
    const seen = new Set<Watched>();
    let found: StopReason | null = null;
    for (const { address, write, watched } of this.#accesses) {
      if (seen.has(watched)) continue;
      seen.add(watched);
      const before = watched.last;
      look(watched, run);
      const hit = this.#hit(watched.entry, run);
      if (hit === null) continue;
      const access = write ? 'write' : 'read';
      const reason = this.#stops({
        kind: 'watchpoint',
        hit: { ...hit, address, access, before, after: watched.last },
      });
      found ??= reason;
    }
    return found;
  }

  check(at: At, run: MachineRun): StopReason | null {
    return firstOf(this.#changed(run), this.#place(at, run));
  }

  #place(at: At, run: MachineRun): StopReason | null {
    switch (at.kind) {
      case 'code': {
        if (this.addresses.length === 0 || at.retried) return null;
        const pc = run.pcOf(at.cpu);
        return this.#first(
          run,
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
          run,
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
        return firstOf(
          this.#first(
            run,
            'function',
            ({ fn }) => fn === event.fn,
            (hit) => ({ kind: 'function', hit, event }),
          ),
          this.#kfenceReport(event, run),
        );
      case 'fault': {
        const { address } = event;
        return firstOf(
          inPool(address, run)
            ? this.#first(run, 'kfence', yes, (hit) => ({ kind: 'kfence', hit, address }))
            : null,
          this.#first(
            run,
            'fault',
            ({ exception }) => exception === null || exception === event.exception,
            (hit) => ({ kind: 'fault', hit, event }),
          ),
        );
      }
      case 'pte-write':
        if (!event.changed || !run.machine.isScratch(event.value) || run.machine.isScratch(event.old))
          return null;
        return this.#first(run, 'scratch', yes, (hit) => ({ kind: 'scratch', hit, entryPa: event.pa }));
      case 'console':
        return this.#console(event.text, run);
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
    return this.#first(run, 'kfence', yes, (hit) => ({
      kind: 'kfence',
      hit,
      address: typeof address === 'bigint' ? address : 0n,
    }));
  }

  #console(text: string, run: MachineRun): StopReason | null {
    const title = OOPS.exec(text)?.[0];
    return firstOf(
      title === undefined ? null : this.#first(run, 'oops', yes, (hit) => ({ kind: 'oops', hit, title })),
      this.#first(
        run,
        'console',
        (spec) => text.includes(spec.text),
        (hit, spec) => ({
          kind: 'console',
          hit,
          line: text.split('\n').find((line) => line.includes(spec.text)) ?? text,
        }),
      ),
    );
  }

  /** The reason that the first breakpoint of a kind gives that is hit; all of them are counted. */
  #first<K extends BreakpointSpec['kind']>(
    run: MachineRun,
    kind: K,
    matches: (spec: Extract<BreakpointSpec, { kind: K }>) => boolean,
    reason: (hit: Hit, spec: Extract<BreakpointSpec, { kind: K }>) => HitReason,
  ): StopReason | null {
    let found: StopReason | null = null;
    for (const entry of this.#enabled) {
      const spec = entry.spec as Extract<BreakpointSpec, { kind: K }>;
      if (entry.spec.kind !== kind || !matches(spec)) continue;
      const hit = this.#hit(entry, run);
      if (hit === null) continue;
      const made = this.#stops(reason(hit, spec));
      found ??= made;
    }
    return found;
  }

  /** What a breakpoint has seen has happened: the hit that it is, or null where it does not stop the run. */
  #hit(entry: Entry, run: MachineRun): Hit | null {
    let problem: string | null = null;
    try {
      if (entry.condition !== null && valueHere(entry.condition.node, run) === 0n) return null;
    } catch (error) {
      if (!(error instanceof SessionError)) throw error;
      problem = error.message;
    }
    if (this.#direction === 'forwards') {
      entry.hits += 1;
      if (entry.ignore > 0 && problem === null) {
        entry.ignore -= 1;
        return null;
      }
    }
    const { id, text } = entry;
    return problem === null ? { id, text } : { id, text, problem };
  }

  #stops(reason: HitReason): StopReason {
    const id = reason.hit?.id;
    if (id !== undefined && !this.#hits.has(id)) this.#hits.set(id, reason);
    return reason;
  }

  /** The first watched thing that is not what it was; all of them are looked at. */
  #changed(run: MachineRun): StopReason | null {
    let found: StopReason | null = null;
    for (const watched of this.#watched) {
      const { entry } = watched;
      if (isData(watched)) {
        const before = watched.last;
        const isComparable = look(watched, run);
        const after = watched.last;
        if (!isComparable || watched.spec.access === 'read' || same(before, after)) continue;
        const address = watched.spec.address + BigInt(changedAt(watched.spec.length, before, after));
        const hit = this.#hit(entry, run);
        if (hit === null) continue;
        const reason = this.#stops({
          kind: 'watchpoint',
          hit: { ...hit, address, access: 'write', before, after },
        });
        found ??= reason;
      } else {
        const before = watched.last;
        const isComparable = look(watched, run);
        const after = watched.last;
        if (!isComparable || before === after) continue;
        const { va, level } = watched.spec;
        const hit = this.#hit(entry, run);
        if (hit === null) continue;
        const reason = this.#stops({
          kind: 'entry',
          hit: { ...hit, va, level: level ?? 'pte', before, after },
        });
        found ??= reason;
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

/** Of several reasons, each of which was found and counted, the first. */
function firstOf(...reasons: readonly (StopReason | null)[]): StopReason | null {
  return reasons.find((reason) => reason !== null) ?? null;
}

const yes = (): boolean => true;

function isData(watched: Watched): watched is Extract<Watched, { spec: Watch }> {
  return watched.spec.kind === 'watch';
}

/** False when another process has come to run: what it has at the address is no change of what the one before had. */
function look(watched: Watched, run: MachineRun): boolean {
  const before = watched.tables;
  if (isData(watched)) {
    const { address, length } = watched.spec;
    watched.last = run.machine.readMemory(run.cpu, address, length);
    watched.tables = tablesOf(address, run);
  } else {
    const { va, level } = watched.spec;
    watched.last = entryNow(run, va, level);
    watched.tables = tablesOf(va, run);
  }
  return watched.tables === before;
}

/** The root of the tables that translate an address of user space; 0 for the kernel's, which are everybody's. */
function tablesOf(va: bigint, { machine, cpu }: MachineRun): bigint {
  // The bit that chooses between the halves on arm64; on x86-64 a copy of the one that does.
  if (((va >> 55n) & 1n) === 1n) return 0n;
  return machine.system.here(cpu).cpu.read(machine.arch.name === 'arm64' ? 'ttbr0_el1' : 'cr3');
}

function entryNow(run: MachineRun, va: bigint, level: EntryLevel | null): bigint | null {
  try {
    return run.machine.readEntry(run.cpu, va, level)?.value ?? null;
  } catch (error) {
    // The tables lead out of the ram.
    if (error instanceof RamError) return null;
    throw error;
  }
}

function same(a: Uint8Array | null, b: Uint8Array | null): boolean {
  return a === null || b === null ? a === b : Buffer.compare(a, b) === 0;
}

/** Offset of what has changed: of a number the whole, of more its first byte. */
function changedAt(length: number, a: Uint8Array | null, b: Uint8Array | null): number {
  return length <= 8 || a === null || b === null
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
