/** What a session shows of its machine while it stands still. All of it is read without side effects. */
import type { AccessType, FaultEvent, LevelName, Primitive, WalkLevel } from '../emu/events.js';
import type { Failure } from '../vector/checks/failure.js';

export interface RegisterView {
  readonly name: string;
  readonly value: bigint;
  /** `general`: general registers, pc, flags; `system`: control registers; `other`: the rest. */
  readonly group: 'general' | 'system' | 'other';
  /** Not what it was at the stop before. */
  readonly changed: boolean;
  /** What it points to, e.g. `write_cmask+0x4`, `a.page(3)`; null if nothing that has a name. */
  readonly symbol: string | null;
}

export interface InstructionView {
  readonly address: bigint;
  readonly bytes: Uint8Array;
  /** Mnemonic and operands; `(bad)` for what is no instruction. */
  readonly text: string;
  /** `write_cmask+0x4`, or null. */
  readonly symbol: string | null;
  /** The next one to be executed. */
  readonly current: boolean;
  /** A breakpoint is set on it. */
  readonly breakpoint: boolean;
  /** The BPF instruction that it was made of; null if none. */
  readonly bpf: string | null;
}

/** An instruction of the fixture's assembly text. */
export interface CodeLineView {
  readonly address: bigint;
  /** Line of the fixture's file, from 1. */
  readonly line: number;
}

/** A frame of the call stack, innermost first. */
export interface FrameView {
  readonly level: number;
  /** `path`: a ported function, which has no code of its own; `code`: guest code. */
  readonly kind: 'path' | 'code';
  /** Of code: pc, or the return address. Null for ported functions. */
  readonly pc: bigint | null;
  readonly sp: bigint | null;
  /** `prog+0x14`, name of a ported function, or the address in hexadecimal. */
  readonly name: string;
}

export interface WalkView {
  readonly va: bigint;
  readonly access: AccessType;
  readonly user: boolean;
  readonly ok: boolean;
  /** Physical address when ok. */
  readonly pa: number | null;
  /** Any of `r`, `w`, `x`, when ok. */
  readonly rights: string;
  readonly levels: readonly WalkLevel[];
  readonly verdict: string;
  readonly at: LevelName | null;
  /** A line for each level and one for what decided, as `kfault explain` prints them. */
  readonly lines: readonly string[];
  /** What the page allocator says the frame is for; null if it is none of its. */
  readonly owner: string | null;
}

export interface PathDecision {
  readonly kind: 'decision';
  readonly test: string;
  readonly value: Primitive;
}

/** A ported function that was entered. */
export interface PathCall {
  readonly kind: 'call';
  readonly fn: string;
  readonly args: readonly { readonly name: string; readonly value: string }[];
  /** Decisions and calls so far, in order. */
  readonly items: readonly (PathDecision | PathCall)[];
  /** It has not returned yet. */
  readonly open: boolean;
  /** What it returned, for people; null as long as it is open, and where it returns nothing. */
  readonly result: string | null;
}

export interface PathView {
  /** The fault that is handled; null when the kernel is in a path for another reason, or in none. */
  readonly fault: FaultEvent | null;
  /** What the kernel has called since the path began, in order; the last one may be open. */
  readonly calls: readonly PathCall[];
  /** Open calls, outermost first. Empty outside of a path. */
  readonly stack: readonly PathCall[];
  /** The path is over: this is how the last one went. */
  readonly over: boolean;
}

export interface VmaView {
  readonly start: bigint;
  readonly end: bigint;
  /** `rwxs` as in /proc/PID/maps: `p` for private. */
  readonly flags: string;
  /** What is mapped: `arena a`, a symbol of the fixture, or ``. */
  readonly what: string;
}

export interface RangeView {
  readonly name: string;
  readonly start: bigint;
  /** Exclusive. */
  readonly end: bigint;
}

/**
 * `free` in the range tree; `allocated` holds a page of its own; `scratch` holds the scratch page; `reserved`
 * neither free nor mapped; `deferred` freed, but the freeing is put off.
 */
export type ArenaPageState = 'free' | 'allocated' | 'scratch' | 'reserved' | 'deferred';

export interface ArenaPagesView {
  readonly name: string;
  /** Kernel address of page 0, user address of page 0. */
  readonly kernel: bigint;
  readonly user: bigint;
  readonly pages: number;
  /** Ascending, without gaps; `first` and `last` are page numbers. */
  readonly ranges: readonly {
    readonly first: number;
    readonly last: number;
    readonly state: ArenaPageState;
  }[];
}

export interface KfenceObjectView {
  readonly slot: number;
  readonly state: 'unused' | 'allocated' | 'rcu_freeing' | 'freed';
  readonly address: bigint;
  readonly size: number;
  readonly cache: string | null;
  /** Its page does not translate: any access faults. */
  readonly protected: boolean;
}

export interface KfencePoolView {
  readonly enabled: boolean;
  readonly start: bigint;
  readonly end: bigint;
  readonly objects: readonly KfenceObjectView[];
}

export interface StreamView {
  readonly program: string;
  readonly stream: 'stdout' | 'stderr';
  readonly text: string;
}

export interface SymbolView {
  readonly name: string;
  readonly start: bigint;
  readonly size: number;
  /** `code` can be broken on; `label` is inside of code. */
  readonly kind: 'code' | 'data' | 'label';
}

/** A step of the fixture. */
export interface StepView {
  /** `step 1`, `step 2 meanwhile[0].steps[0]`. */
  readonly where: string;
  /** What it does, e.g. `call write_cmask`. */
  readonly text: string;
  /** The decision behind which it runs; null for a step of the fixture's own list. */
  readonly behind: string | null;
  /** Line of the fixture's file, from 1. */
  readonly line: number;
  readonly state: 'waiting' | 'running' | 'passed' | 'failed';
  readonly failures: readonly Failure[];
}
