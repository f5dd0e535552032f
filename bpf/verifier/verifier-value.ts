/**
 * What a register or a spilled stack slot may hold. The verifier of the kernel walks every path and has one type on
 * each; here paths are joined, and a value is the set of all types (with constants, as long as they are few) that
 * paths bring along.
 */
import type { Held } from './verifier-locks.js';

/** Numbers of 64 bits without a sign, `min` and `max` among them. */
export interface Range {
  readonly min: bigint;
  readonly max: bigint;
}

/** enum bpf_reg_type with what is known of the value. `off` null: not a constant. */
export type Variant =
  | { readonly type: 'NOT_INIT' }
  /** `value` as 64 bits without a sign; a range only for what a lock that fails gives; or null. */
  | { readonly type: 'SCALAR_VALUE'; readonly value: bigint | Range | null }
  | { readonly type: 'PTR_TO_ARENA' }
  | { readonly type: 'PTR_TO_CTX'; readonly off: number | null }
  | {
      readonly type: 'CONST_PTR_TO_MAP';
      readonly map: string;
      /** Name of the map type's struct in the kernel's BTF: `bpf_arena`. */
      readonly tname: string;
    }
  | {
      readonly type: 'PTR_TO_MAP_VALUE';
      readonly map: string;
      /** value_size, in bytes. */
      readonly size: number;
      readonly off: number | null;
    }
  /** `frame` counts from the main program's, which is 0. */
  | { readonly type: 'PTR_TO_STACK'; readonly frame: number; readonly off: number | null }
  | { readonly type: 'PTR_TO_FUNC'; readonly subprog: number }
  | { readonly type: KernelPointer };

/** Pointers to kernel memory: plain or untrusted, trusted, writable, and what bpf_rdonly_cast() gives. */
export type KernelPointer = 'PTR_TO_BTF_ID' | 'PTR_TRUSTED' | 'PTR_TO_MEM' | 'RDONLY_UNTRUSTED_MEM';

export type Value = readonly Variant[];

/** More constants than these become an unknown value. */
const MAX_CONSTANTS = 8;

const U64 = (1n << 64n) - 1n;

export const NOT_INIT: Value = [{ type: 'NOT_INIT' }];
export const UNKNOWN: Value = [{ type: 'SCALAR_VALUE', value: null }];
export const constant = (value: bigint): Value => [{ type: 'SCALAR_VALUE', value: value & U64 }];

/** reg_type_str() */
export function reg_type_str(variant: Variant): string {
  switch (variant.type) {
    case 'NOT_INIT':
      return '?';
    case 'SCALAR_VALUE':
      return 'scalar';
    case 'PTR_TO_ARENA':
      return 'arena';
    case 'PTR_TO_CTX':
      return 'ctx';
    case 'CONST_PTR_TO_MAP':
      return 'map_ptr';
    case 'PTR_TO_MAP_VALUE':
      return 'map_value';
    case 'PTR_TO_STACK':
      return 'fp';
    case 'PTR_TO_FUNC':
      return 'func';
    case 'PTR_TO_BTF_ID':
      return 'ptr_';
    case 'PTR_TRUSTED':
      return 'trusted_ptr_';
    case 'PTR_TO_MEM':
      return 'mem';
    case 'RDONLY_UNTRUSTED_MEM':
      return 'rdonly_untrusted_mem';
  }
}

/** What a variant is without its constant. */
function kindOf(variant: Variant): string {
  switch (variant.type) {
    case 'CONST_PTR_TO_MAP':
    case 'PTR_TO_MAP_VALUE':
      return `${variant.type} ${variant.map}`;
    case 'PTR_TO_STACK':
      return `${variant.type} ${variant.frame}`;
    case 'PTR_TO_FUNC':
      return `${variant.type} ${variant.subprog}`;
    default:
      return variant.type;
  }
}

function constantOf(variant: Variant): bigint | number | string | null {
  switch (variant.type) {
    case 'SCALAR_VALUE': {
      const { value } = variant;
      return value === null || typeof value === 'bigint' ? value : `${value.min}..${value.max}`;
    }
    case 'PTR_TO_CTX':
    case 'PTR_TO_MAP_VALUE':
    case 'PTR_TO_STACK':
      return variant.off;
    default:
      return 0;
  }
}

/** The same without its constant. */
function widened(variant: Variant): Variant {
  switch (variant.type) {
    case 'SCALAR_VALUE':
      return { type: 'SCALAR_VALUE', value: null };
    case 'PTR_TO_CTX':
    case 'PTR_TO_MAP_VALUE':
    case 'PTR_TO_STACK':
      return { ...variant, off: null };
    default:
      return variant;
  }
}

/** A value of these variants: each once, in an order of their own, with few constants. */
export function setOf(variants: readonly Variant[]): Value {
  const kinds = new Map<string, Map<string, Variant>>();
  for (const variant of variants) {
    const kind = kindOf(variant);
    const same = kinds.get(kind) ?? new Map<string, Variant>();
    kinds.set(kind, same);
    same.set(String(constantOf(variant)), variant);
  }
  const result: Variant[] = [];
  for (const [, same] of [...kinds].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const [first] = same.values();
    if (first !== undefined && (same.size > MAX_CONSTANTS || same.has('null'))) result.push(widened(first));
    else result.push(...[...same].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, variant]) => variant));
  }
  return result;
}

export function join(a: Value, b: Value): Value {
  return a === b ? a : setOf([...a, ...b]);
}

export function sameValue(a: Value, b: Value): boolean {
  if (a === b) return true;
  return (
    a.length === b.length &&
    a.every((variant, i) => {
      const other = b[i];
      return (
        other !== undefined && kindOf(variant) === kindOf(other) && constantOf(variant) === constantOf(other)
      );
    })
  );
}

export const has = (value: Value, type: Variant['type']): boolean =>
  value.some((variant) => variant.type === type);

/** True when nothing but numbers may be in it. */
export const isScalar = (value: Value): boolean => value.every((variant) => variant.type === 'SCALAR_VALUE');

/** Registers and spilled slots of one function that runs. */
export interface Frame {
  readonly subprog: number;
  /** R0 to R10. */
  readonly regs: readonly Value[];
  /** By offset from the frame pointer (negative, multiples of 8). What is missing is an unknown number. */
  readonly slots: ReadonlyMap<number, Value>;
}

/** What is known in front of an instruction. */
export interface State {
  /** The main program's first, the running one's last. */
  readonly frames: readonly Frame[];
  /** The same on all paths that are joined here. */
  readonly held: Held;
  /** Slots of 32-bit compare-and-exchange instructions whose result R0 may be. */
  readonly r0_defs: readonly number[];
}

export function slotValue(frame: Frame, off: number): Value {
  return frame.slots.get(off) ?? UNKNOWN;
}

function joinFrames(a: Frame, b: Frame): Frame {
  const slots = new Map<number, Value>();
  for (const off of new Set([...a.slots.keys(), ...b.slots.keys()])) {
    const value = join(slotValue(a, off), slotValue(b, off));
    if (!sameValue(value, UNKNOWN)) slots.set(off, value);
  }
  const regs = a.regs.map((value, r) => join(value, b.regs[r] ?? NOT_INIT));
  return { subprog: a.subprog, regs, slots };
}

/** Of two states in which the same is held. */
export function joinStates(a: State, b: State): State {
  return {
    frames: a.frames.map((frame, i) => joinFrames(frame, b.frames[i] ?? frame)),
    held: a.held,
    r0_defs: [...new Set([...a.r0_defs, ...b.r0_defs])].sort((x, y) => x - y),
  };
}

export function sameState(a: State, b: State): boolean {
  return (
    a.r0_defs.length === b.r0_defs.length &&
    a.frames.every((frame, i) => {
      const other = b.frames[i];
      return (
        other !== undefined &&
        frame.slots.size === other.slots.size &&
        [...frame.slots].every(([off, value]) => sameValue(value, slotValue(other, off))) &&
        frame.regs.every((value, r) => sameValue(value, other.regs[r] ?? NOT_INIT))
      );
    })
  );
}
