/** What differs between the architectures behind the one native CPU. */
import type { CpuStop, Privilege } from '../cpu.js';
import type { RegisterTable } from './register-table.js';

/** A register whose reading or writing means more than moving bits. */
export interface SpecialRegister {
  read?(): bigint;
  write?(value: bigint): void;
}

/** How an exception that the library reported is told on. */
export interface ExceptionStop {
  readonly stop: CpuStop;
  /** True when pc is behind an instruction that counts as executed (a trap, not a fault). */
  readonly completed: boolean;
}

/** A stop asked for by a hook of the architecture, with the pc to stop at. */
export interface HookStop {
  readonly stop: CpuStop;
  readonly pc: bigint | null;
  readonly completed: boolean;
}

/** Stops the run from a hook, at the instruction that called it. */
export type Raise = (stop: HookStop) => void;

export interface IsaPart {
  readonly registers: RegisterTable;
  readonly special: ReadonlyMap<string, SpecialRegister>;
  /** Bytes from the sentinel to the pc at which the engine stops there. */
  readonly sentinelStep: bigint;
  /** Bytes of the halting instruction that the sentinel's page is full of. */
  readonly haltStep: bigint;
  privilege(): Privilege;
  setPrivilege(privilege: Privilege): void;
  describeException(number: number): ExceptionStop;
  /** The exception that comes before a fetch at `pc` is translated, or null. */
  describeFetchAt(pc: bigint): CpuStop | null;
  /**
   * Puts right what the engine breaks when an instruction faults, or a translation is answered in the
   * middle of one, that is not the first of a start. Null when nothing is broken.
   */
  readonly repair: (() => void) | null;
  /** Clears what an exception leaves behind in the engine. */
  afterException(): void;
  /** Puts the CPU into a privileged state, with `va` where the flush instruction looks for it. */
  prepareFlushPage(va: bigint): void;
}

/** Where things are in the sentinel's page. */
export interface SentinelPage {
  readonly bytes: Uint8Array;
  /** Offset of the instruction that flushes one page. */
  readonly flush: number;
  /** Offset that nothing executes: the library wants a stop address. */
  readonly until: number;
}

/** Room for the flush instruction and the stop address, away from the sentinel. */
export function sentinelLayout(sentinelOffset: number): { readonly flush: number; readonly until: number } {
  return sentinelOffset < 0x800 ? { flush: 0xc00, until: 0xc80 } : { flush: 0x400, until: 0x480 };
}
