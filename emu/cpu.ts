/**
 * What an engine offers: one CPU. No pointer and no type of a foreign-function library appears here, so
 * that a WebAssembly engine can stand in for the native one.
 */
import type { AccessType } from './events.js';
import type { Ram } from './ram.js';

/** Rights of a filled TLB entry, OR-ed. */
export const PERM_READ = 1;
export const PERM_WRITE = 2;
export const PERM_EXEC = 4;

/** The kinds of access with which an engine asks for a translation. */
export const ACCESS_READ = 16;
export const ACCESS_WRITE = 17;
export const ACCESS_FETCH = 18;
export type AccessCode = typeof ACCESS_READ | typeof ACCESS_WRITE | typeof ACCESS_FETCH;

export function accessType(code: AccessCode): AccessType {
  switch (code) {
    case ACCESS_READ:
      return 'read';
    case ACCESS_WRITE:
      return 'write';
    case ACCESS_FETCH:
      return 'fetch';
  }
}

/** The PERM_* bit that an access needs. */
export function permFor(access: AccessCode): number {
  switch (access) {
    case ACCESS_READ:
      return PERM_READ;
    case ACCESS_WRITE:
      return PERM_WRITE;
    case ACCESS_FETCH:
      return PERM_EXEC;
  }
}

/**
 * Answers the engine's question for a translation that its TLB does not hold. Called in the hot path
 * and possibly more than once for one access: must be idempotent, must not throw, must not allocate.
 */
export interface TlbFiller {
  /** Physical address of the page, valid after `fill` returned rights. */
  pa: number;
  /**
   * @param va page-aligned address: a signed number (see address.ts), or a signed bigint when it does
   *   not fit one (never canonical; on arm64 possibly tagged)
   * @returns the rights that may be used without asking again (PERM_*), or 0 to refuse
   */
  fill(va: number | bigint, access: AccessCode): number;
}

/** x86 `syscall`: the engine does not enter the kernel. Above every vector. */
export const EXCEPTION_SYSCALL = 0x100;
/** x86 `sysenter`. */
export const EXCEPTION_SYSENTER = 0x101;
/** arm64: pc is not a multiple of 4. */
export const EXCEPTION_PC_ALIGNMENT = 0x102;
/** A translation led to a physical address outside the ram (an external abort, a machine check). */
export const EXCEPTION_BUS = 0x103;

/** Why the engine came back. Registers are as before the instruction at pc, unless said otherwise. */
export type CpuStop =
  /** A translation was refused. `va` is exact: the first byte that does not translate (unsigned). */
  | { readonly kind: 'miss'; readonly va: bigint; readonly access: AccessCode }
  /** pc reached the sentinel. */
  | { readonly kind: 'exit' }
  /** The instruction budget of this start is used up; pc is the next instruction. */
  | { readonly kind: 'count' }
  /**
   * The engine raised an exception of its own. `number`: on x86 the vector; on arm64 2 svc, 7 brk, 13 smc;
   * on both the EXCEPTION_* constants. As hardware saves it, pc is behind svc, smc, syscall, sysenter,
   * int3, int n and the instruction stepped by TF, and at the instruction for everything else.
   */
  | { readonly kind: 'exception'; readonly number: number }
  /** Cache maintenance by address on arm64 (DC, IC), not yet executed; asks for `va` (unsigned). */
  | { readonly kind: 'cache-op'; readonly va: bigint; readonly write: boolean }
  /** The engine does not know the instruction at pc. */
  | { readonly kind: 'invalid-instruction' }
  /**
   * An exception that the host asks for at pc, as hardware would report it: the engine never stops so.
   * x86: `number` is the vector, `syndrome` the error code, `address` CR2 (vector 14 only). arm64: `syndrome`
   * is ESR_EL1, `address` FAR_EL1; `number` is not used.
   */
  | {
      readonly kind: 'raised';
      readonly number: number;
      readonly syndrome: bigint;
      readonly address: bigint;
    }
  /** hlt, wfi. pc is behind it. */
  | { readonly kind: 'halt' };

/** The engine failed in a way that no guest code should cause, or was used wrongly. */
export class EngineError extends Error {
  override name = 'EngineError';
}

/** Privilege of the code that runs: x86 CPL 0 or 3, arm64 EL1 or EL0. */
export type Privilege = 'kernel' | 'user';

export interface CpuOptions {
  readonly id: number;
  readonly filler: TlbFiller;
  /** Address at which guest code returns to the host; its page always translates for fetches. */
  readonly sentinel: bigint;
}

/**
 * One CPU with its own engine and TLB over a shared ram. Register names are the architecture's, lower
 * case (`rax`, `rip`, `rflags`, `cr3`, `x0`, `sp`, `pc`, `pstate`, `ttbr1_el1`, …); `registerNames`
 * lists them. An unknown name throws an EngineError that says so.
 */
export interface Cpu {
  readonly id: number;
  readonly registerNames: readonly string[];
  /** The sentinel address given at creation. */
  readonly sentinel: bigint;

  read(register: string): bigint;
  write(register: string, value: bigint): void;

  /**
   * Prepares fast reading of a fixed set of registers.
   * `load()` fills `values`, in the order of the names, zero-extended to 64 bits; one engine call.
   * `store()` writes `values` back.
   */
  registerSet(names: readonly string[]): RegisterSet;

  /** The privilege the engine executes at, read from its state. */
  privilege(): Privilege;
  /** Changes it the way hardware does (an exception return); general registers, sp and pc stay. */
  setPrivilege(privilege: Privilege): void;

  /**
   * Runs from `pc` until something stops it. Never throws for anything the guest does.
   * @param pc where to start
   * @param count instructions at the most, 1 or more; 1 is a single step
   */
  start(pc: bigint, count: number): CpuStop;

  /**
   * Instructions that the last start completed; the one it stopped at counts only when pc is behind it.
   * A repeated string instruction counts once for each element. 0 before the first start.
   */
  readonly executed: number;

  /**
   * Ends later starts before an instruction at one of these addresses, with kind `count` and fewer instructions
   * executed than asked for; the first instruction of a start is executed all the same. Replaces what was set.
   * Absent where the engine cannot: whoever needs it goes step by step.
   */
  breakAt?(addresses: readonly bigint[]): void;

  /**
   * Has accesses of instructions to physical memory told from now on: those that touch one of these ranges. Replaces
   * what was set; costs time at each access while there are any. Absent where the engine cannot.
   */
  tellAccesses?(ranges: readonly PhysicalRange[], tell: AccessListener): void;

  /** Drops one page's translations from this CPU's TLB. */
  flushTlbPage(va: bigint): void;
  /** Drops all translations from this CPU's TLB. */
  flushTlb(): void;
  /** Drops translated code: after the host changed bytes that may have been executed. */
  flushCode(): void;

  /** Frees the engine. Idempotent; any other call afterwards throws an EngineError. */
  close(): void;
}

export interface PhysicalRange {
  readonly pa: number;
  /** Bytes, 1 or more. */
  readonly size: number;
}

/**
 * Told an access, physical address and bytes, before it is made; the instruction may fault all the same.
 * @returns true ends the start behind the instruction, as if its count were used up
 */
export type AccessListener = (pa: number, size: number, write: boolean) => boolean;

export interface RegisterSet {
  readonly names: readonly string[];
  readonly values: BigUint64Array;
  load(): void;
  store(): void;
}

/** What the machine asks of an engine: a ram, and CPUs over it. */
export interface Engine {
  /** Version of the library behind it, e.g. `2.1.4`. */
  readonly version: string;

  /**
   * A ram full of zeros. An engine may take the memory of one that was released.
   * @throws RamError when it cannot be had; see `Ram`
   */
  createRam(base: number, size: number): Ram;

  /** Takes back a ram of `createRam` whose CPUs are closed. From now on nobody may look at it. */
  releaseRam(ram: Ram): void;

  createCpu(isa: 'x86-64' | 'arm64', ram: Ram, options: CpuOptions): Cpu;
}
