/**
 * The event stream: the only account of what happened. Printing, checks, reports and the debugger all
 * read it; nobody keeps a second one.
 */

/** What an access wants, as hardware reports it: a read-modify-write is a write on x86. */
export type AccessType = 'read' | 'write' | 'fetch';

/** Levels by the kernel's names. `p4d` is the folded level: it shows the same entry as `pgd`. */
export type LevelName = 'pgd' | 'p4d' | 'pud' | 'pmd' | 'pte';

/** One table entry that a walk read. */
export interface WalkLevel {
  readonly level: LevelName;
  /** Physical address of the entry. */
  readonly entryPa: number;
  readonly entry: bigint;
}

/** Values that events carry about arguments and results of ported functions. */
export type Primitive = bigint | number | string | boolean | null | undefined;

/** A run of guest code begins at `pc`. How it goes on behind a fault is in the `resolved` event. */
export interface RunEvent {
  readonly type: 'run';
  readonly cpu: number;
  readonly pc: bigint;
}

/** A hardware walk that ended in a fault. Walks that hit fill the TLB and are not recorded. */
export interface WalkEvent {
  readonly type: 'walk';
  readonly cpu: number;
  readonly va: bigint;
  readonly access: AccessType;
  /** True when the access counts as unprivileged (CPL 3, EL0, LDTR/STTR). */
  readonly user: boolean;
  /** The entries read, root first; empty when the address was refused before any table was read. */
  readonly levels: readonly WalkLevel[];
  /** Why the walk failed, in the terms of the architecture, e.g. `not present`, `write to read-only`. */
  readonly verdict: string;
  /** Name of the level that decided, or null when no table was read. */
  readonly at: LevelName | null;
}

/** An exception is taken. */
export interface FaultEvent {
  readonly type: 'fault';
  readonly cpu: number;
  /** The architecture's name: `#PF`, `#GP`, `#SS`, `Data Abort`, `Instruction Abort`. */
  readonly exception: string;
  /** pc of the faulting instruction. */
  readonly pc: bigint;
  /** What CR2 or FAR_EL1 holds. For #GP and #SS the address that was refused (CR2 does not change). */
  readonly address: bigint;
  /** x86: error code. arm64: ESR_EL1. */
  readonly code: bigint;
  readonly access: AccessType;
}

/**
 * A ported function is entered. `args` are its arguments after the CPU, the first of them named by
 * `argNames`; those that are not primitive are for identity only: they change as the path goes on.
 */
export interface EnterEvent {
  readonly type: 'enter';
  readonly cpu: number;
  readonly fn: string;
  readonly argNames: readonly string[];
  readonly args: readonly unknown[];
}

/** A ported function returns. A result that is not primitive is for identity only. */
export interface LeaveEvent {
  readonly type: 'leave';
  readonly cpu: number;
  readonly fn: string;
  readonly value: unknown;
}

/** True for values that events show as they are. */
export function isPrimitive(value: unknown): value is Primitive {
  return value === null || (typeof value !== 'object' && typeof value !== 'function');
}

/** The kernel decides something: `test` in the words of the source, `value` what it came to. */
export interface DecideEvent {
  readonly type: 'decide';
  readonly cpu: number;
  readonly fn: string;
  readonly test: string;
  readonly value: Primitive;
}

/** A page-table entry is stored (`changed`), or an atomic on it is tried and fails (`changed: false`). */
export interface PteWriteEvent {
  readonly type: 'pte-write';
  readonly cpu: number;
  /** The accessor: `set_pte`, `ptep_try_set`, `ptep_get_and_clear`, …, or `hardware` for A/D and AF. */
  readonly by: string;
  readonly level: LevelName;
  /** Physical address of the entry. */
  readonly pa: number;
  readonly old: bigint;
  readonly value: bigint;
  readonly changed: boolean;
}

/** Tables were built for a whole range without touching any leaf entry. */
export interface PopulateEvent {
  readonly type: 'populate';
  readonly cpu: number;
  readonly start: bigint;
  readonly end: bigint;
  /** Pages taken for tables. */
  readonly tables: number;
}

/** Translations are dropped from one CPU's TLB. `va` null means all of them. */
export interface TlbFlushEvent {
  readonly type: 'tlb-flush';
  readonly cpu: number;
  readonly va: bigint | null;
  readonly by: string;
}

/** One printk record. `text` may hold several lines; it has no trailing newline. Level 0 (EMERG) to 7. */
export interface ConsoleEvent {
  readonly type: 'console';
  readonly cpu: number;
  readonly level: number;
  readonly text: string;
  /** Microseconds since boot. */
  readonly time: number;
  /** Who printed: `T<pid>` in task context, else `C<cpu>`. */
  readonly caller: string;
}

/** A BPF stream got a report (`dropped` when the stream was full and the kernel threw it away). */
export interface StreamEvent {
  readonly type: 'stream';
  readonly cpu: number;
  readonly program: string;
  readonly stream: 'stdout' | 'stderr';
  readonly dropped: boolean;
  /** Formats the text; it is not formatted on the fault path. */
  readonly text: () => string;
}

/** How a fault ended for the instruction that raised it. */
export interface ResolvedEvent {
  readonly type: 'resolved';
  readonly cpu: number;
  /** `retry`: same pc again. `fixup`: goes on elsewhere. `dead`: the task does not go on. */
  readonly how: 'retry' | 'fixup' | 'dead';
  readonly pc: bigint;
}

/** A run of guest code is over. */
export interface OutcomeEvent {
  readonly type: 'outcome';
  readonly cpu: number;
  readonly outcome: RunOutcome;
}

/** A kernel function called from the host side (a `kfunc` step) starts or ends. */
export interface HostCallEvent {
  readonly type: 'host-call';
  readonly cpu: number;
  readonly fn: string;
  readonly phase: 'start' | 'end';
  readonly args: Readonly<Record<string, Primitive>>;
  readonly value: Primitive;
}

/** Frames of the page allocator that change hands. */
export interface PageEvent {
  readonly type: 'page';
  readonly cpu: number;
  readonly action: 'alloc' | 'free';
  readonly pa: number;
  readonly owner: string;
}

export type Event =
  | RunEvent
  | WalkEvent
  | FaultEvent
  | EnterEvent
  | LeaveEvent
  | DecideEvent
  | PteWriteEvent
  | PopulateEvent
  | TlbFlushEvent
  | ConsoleEvent
  | StreamEvent
  | ResolvedEvent
  | OutcomeEvent
  | HostCallEvent
  | PageEvent;

/** How a run of guest code ended. */
export type RunOutcome =
  /** The code returned to its caller. */
  | { readonly kind: 'returned' }
  /** The kernel printed an oops and killed the task. `title` is its first line. */
  | { readonly kind: 'oops'; readonly title: string; readonly signal: number }
  | { readonly kind: 'panic'; readonly title: string }
  /** The task gets a signal. */
  | {
      readonly kind: 'signal';
      readonly signo: number;
      /** si_code */
      readonly code: number;
      /** si_addr */
      readonly address: bigint;
      /** si_pkey, with SEGV_PKUERR only. */
      readonly pkey?: number;
    }
  /**
   * The same instruction faulted at the same address with the same entries, or a loop of the kernel went round
   * without anything changing, `turns` times in a row. `pc` is null where no instruction has led there.
   */
  | {
      readonly kind: 'livelock';
      readonly pc: bigint | null;
      readonly address: bigint;
      readonly turns: number;
    }
  /** The instruction budget is used up. */
  | { readonly kind: 'budget'; readonly instructions: number }
  /** The wall-clock limit is over. */
  | { readonly kind: 'deadline'; readonly milliseconds: number }
  /** An instruction or exception that the laboratory does not model, e.g. ud2, hlt, svc. */
  | { readonly kind: 'stopped'; readonly why: string; readonly pc: bigint };

/** Where events go. */
export interface EventSink {
  emit(event: Event): void;
}

/** A sink that keeps everything, in order. */
export class EventLog implements EventSink {
  readonly events: Event[] = [];

  emit(event: Event): void {
    this.events.push(event);
  }
}

/** A sink that forgets, for machines nobody looks at: with it, events are not even made. */
export const NO_EVENTS: EventSink = { emit: () => undefined };
