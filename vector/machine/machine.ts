/** What running and checking a fixture asks of a machine. The one implementation is system-machine.ts. */

import type { Arch, Pgtable } from '../../arch/arch.js';
import type { Event, LevelName, RunOutcome } from '../../emu/events.js';
import type { Delegate } from '../../emu/path.js';
import type { RaisedStop } from '../../emu/run.js';
import type { Scope } from '../format/expression.js';
import type {
  COUNTERS,
  CounterKey,
  DEBUGFS_FILES,
  ObjectState,
  PlacementData,
  SlabCallName,
} from '../format/schema-kfence.js';
import type { KFUNCS } from '../format/schema-steps.js';
import type { ArenaMachine, ArenaView } from './machine-arena.js';
import type { BpfMachine } from './machine-bpf.js';

/** Levels that can be named in a fixture. */
export type EntryLevel = Exclude<LevelName, 'p4d'>;

export interface EntryView {
  readonly level: LevelName;
  readonly value: bigint;
}

/** State of the task while a `call` runs. */
export interface CallContext {
  readonly in_interrupt: number;
  readonly pagefault_disabled: number;
  readonly preempt_count: number;
  readonly irqs_disabled: boolean;
}

export interface PagesCall {
  readonly fn: (typeof KFUNCS)[number];
  readonly arena: string;
  readonly address: bigint;
  readonly page_cnt: bigint;
  readonly node_id: bigint;
  readonly flags: bigint;
}

/** A call of an allocator from outside guest code. What the function does not take is null. */
export interface SlabCall {
  readonly fn: SlabCallName;
  readonly cache: string | null;
  readonly size: bigint | null;
  readonly gfp: number;
  readonly ptr: bigint | null;
}

/** State of KFENCE. */
export interface KfenceView {
  readonly enabled: boolean;
  counter(name: (typeof COUNTERS)[CounterKey]): number;
  /** Objects on the freelist. */
  readonly free: number;
  /** Throws a StepRefusal when there is no such object. */
  object(slot: number): {
    readonly state: ObjectState;
    readonly addr: bigint;
    readonly unprotected_page: bigint;
  };
}

/** KFENCE and the allocators. */
export interface KfenceMachine {
  /** Address of the pool, 0n where there is none. */
  readonly pool: bigint;
  /** Where object `slot` begins. */
  addressOf(slot: number): bigint;
  /**
   * Does something in which these allocations happen, for these callers. Throws a StepRefusal for what the
   * kernel cannot do, and when some of the allocations did not happen.
   */
  during<T>(
    allocations: readonly PlacementData[],
    callers: readonly bigint[],
    work: () => Delegate<T>,
  ): Delegate<T>;
  slabCall(cpu: number, call: SlabCall): Delegate<bigint>;
  /** A write to kfence.sample_interval: 0 or a negative errno. */
  setSampleInterval(cpu: number, milliseconds: number): number;
  debugfs(cpu: number, file: (typeof DEBUGFS_FILES)[number]): string;
  view(): KfenceView;
}

/** A step asks for what the machine cannot give: the fixture's mistake. */
export class StepRefusal extends Error {
  override name = 'StepRefusal';
}

/** A step needs an arena that was refused or destroyed. */
export class MissingArena extends StepRefusal {
  override name = 'MissingArena';
  constructor(readonly arena: string) {
    super(`arena \`${arena}\` does not exist now`);
  }
}

/**
 * A machine made from a fixture. Addresses and register values are unsigned 64-bit. What runs code, the guest's or
 * the kernel's, is a path: whoever delegates to it can stop in it.
 */
export interface Machine {
  readonly arch: Arch;
  readonly pgtable: Pgtable;
  /** Everything that has happened so far. */
  readonly events: readonly Event[];
  /** What names in expressions mean. */
  readonly scope: Scope;
  /** Name of an address as a person would write it, e.g. `write_cmask+0x4`, `a.page(3)`; null if none. */
  nameOf(address: bigint): string | null;

  readonly registerNames: readonly string[];
  readRegister(cpu: number, name: string): bigint;
  /** @param raised an exception that is reported at `pc` before anything runs, or null */
  call(
    cpu: number,
    pc: bigint,
    registers: ReadonlyMap<string, bigint>,
    context: CallContext,
    raised: RaisedStop | null,
  ): Delegate<RunOutcome>;
  /** @param process whose code it is; the CPU's own task with null */
  user(
    cpu: number,
    pc: bigint,
    registers: ReadonlyMap<string, bigint>,
    raised: RaisedStop | null,
    process: string | null,
  ): Delegate<RunOutcome>;
  /**
   * Has each decision of the paths on a CPU told from now on, until the function returned is called; null: to
   * nobody. Whoever listens may let the machine do something else before the path goes on.
   */
  watch(cpu: number, decided: ((fn: string, test: string) => Delegate<void> | undefined) | null): () => void;
  /** Lets time pass. */
  advance(microseconds: number): void;
  /** print_tainted() */
  taint(): string;

  /** Null when a byte of it is not mapped. */
  readMemory(cpu: number, va: bigint, length: number): Uint8Array | null;
  /** False when a byte of it is not mapped; then nothing is stored. */
  writeMemory(cpu: number, va: bigint, bytes: Uint8Array): boolean;
  /** The entry of `level`, or the last one that a walk reaches; null when the walk does not get to `level`. */
  readEntry(cpu: number, va: bigint, level: EntryLevel | null): EntryView | null;
  /** False when the walk does not get to `level`. */
  writeEntry(cpu: number, va: bigint, level: EntryLevel | null, value: bigint): boolean;

  flushTlb(cpu: number, va: bigint | null): void;
  /** False when the page does not translate now. */
  keepTlb(cpu: number, va: bigint): boolean;

  /** Return value of a function on the pages of an arena: user address, errno or 0. */
  pagesCall(cpu: number, call: PagesCall): Delegate<bigint>;
  /** Runs queued irq_work and work items. */
  runDeferred(cpu: number): Delegate<void>;
  destroyArena(cpu: number, name: string): Delegate<void>;
  /** Runs of programs, reads from their streams. */
  readonly bpf: BpfMachine;
  /** Creation, user mappings, failures, pages. */
  readonly arenas: ArenaMachine;

  /** Null where the fixture has no key kfence. */
  readonly kfence: KfenceMachine | null;

  arena(name: string): ArenaView;
  /** True when an entry maps the scratch page of any arena. */
  isScratch(entry: bigint): boolean;

  /** Frees the engine. Idempotent. */
  close(): void;
}
