/**
 * The registers of an engine without a call of the library. A saved context is a copy of a part of the
 * engine's CPU; where that part itself is can be found by looking, and then it is read in place. When it
 * cannot be found, a context is saved for each look instead.
 */
import { type Address, type Bindings, NativeBuffer, NativeSlots } from './bindings.js';
import type { RawEngine, SavedContext } from './raw-engine.js';

/** Where the original of a saved context is. */
export interface LiveLayout {
  /** Offset in the engine's structure of a pointer to its CPU. */
  readonly pointer: number;
  /** Bytes from where that points to where a context would begin, were it not a copy. */
  readonly distance: number;
  readonly views: NativeSlots;
}

/** Registers and values that are found in a saved context: library's number, offset. */
export type RegisterOffsets = ReadonlyMap<number, number>;

/** How far behind the pointer the registers are looked for; 41 KiB in the builds that were seen. */
const SEARCH = 64 << 10;
/** Less than a pipe holds, or writing to it would wait. */
const CHUNK = 8192;
/** User-space addresses of 64-bit platforms. */
const LOWEST = 0x10000;
const HIGHEST = 2 ** 47;

/** The present state of one engine, laid out as in a saved context. */
export class EngineState {
  /** Valid after `refresh`, until the engine is used. */
  readonly words: Uint32Array;
  readonly quads: BigUint64Array;
  /** Where contexts are saved when the original cannot be looked at. */
  private readonly copy: SavedContext | null;

  /** @param context to be used while a state is made, or for ever if it must */
  constructor(
    private readonly engine: RawEngine,
    layout: LiveLayout | null,
    registers: RegisterOffsets,
    context: SavedContext,
  ) {
    const live = layout === null ? null : liveWords(engine, layout, registers, context);
    this.copy = live === null ? context : null;
    this.words = live ?? new Uint32Array(context.bytes.buffer);
    this.quads = new BigUint64Array(this.words.buffer, 0, this.words.length >> 1);
  }

  refresh(): void {
    if (this.copy !== null) this.engine.saveContext(this.copy);
  }
}

/** The original of this engine's contexts, or null when values written to registers do not appear there. */
function liveWords(
  engine: RawEngine,
  { pointer, distance, views }: LiveLayout,
  registers: RegisterOffsets,
  context: SavedContext,
): Uint32Array | null {
  const cpu = new NativeBuffer(8);
  engine.peek(pointer, cpu);
  const address = Number(cpu.view.getBigUint64(0, true)) + distance;
  const size = Math.max(...registers.values()) + 8;
  const memory = new SafeMemory(engine.bindings, size);
  const marks = mark(engine, registers, 0x2d61b3c85e4f1008n, context);
  const there = distanceOf(memory.read(address, size), marks) === 0;
  engine.restoreContext(context);
  memory.close();
  return there ? views.at(address) : null;
}

/** Where in a saved context each of these registers is; those not in exactly one place are left out. */
export function findRegisters(engine: RawEngine, ids: readonly number[]): RegisterOffsets {
  const before = engine.allocateContext();
  const context = engine.allocateContext();
  const quads = new BigUint64Array(context.bytes.buffer, 0, context.bytes.length >> 3);
  const values = mark(engine, new Map(ids.map((id) => [id, id])), 0x4c95d0e7a83b2008n, before);
  engine.saveContext(context);
  engine.restoreContext(before);
  const found = new Map<number, number>();
  for (const [id, value] of values) {
    const at = quads.indexOf(value);
    if (at >= 0 && quads.indexOf(value, at + 1) < 0) found.set(id, at * 8);
  }
  return found;
}

/** Saves the context, then gives each register its own value. Returns offsets and values. */
function mark(
  engine: RawEngine,
  registers: RegisterOffsets,
  first: bigint,
  context: SavedContext,
): (readonly [number, bigint])[] {
  engine.saveContext(context);
  let value = first;
  return [...registers].map(([id, offset]) => {
    value += 0x10n;
    engine.write(id, value);
    return [offset, value] as const;
  });
}

/**
 * Finds the original of a saved context behind one of the pointers in the engine's structure. The nearest
 * such pointer is the right one: the CPU is one block, so nothing else can lie between.
 */
export function findLive(engine: RawEngine, registers: RegisterOffsets): LiveLayout | null {
  const context = engine.allocateContext();
  const memory = new SafeMemory(engine.bindings, SEARCH);
  const pointers = pointersIn(engine);
  const find = (near: readonly Address[], first: bigint): Address | null => {
    const marks = mark(engine, registers, first, context);
    const found = firstOf(near, (address) => {
      const distance = distanceOf(memory.read(address, SEARCH), marks);
      return distance === null ? null : address + distance;
    });
    engine.restoreContext(context);
    return found;
  };
  try {
    // What the allocator gave this engine is likely to be close to its structure.
    const near = [...pointers.keys()].sort(
      (a, b) => Math.abs(a - engine.handle) - Math.abs(b - engine.handle),
    );
    const original = find(near, 0x6b1f3ad2905c4008n);
    if (original === null) return null;
    const cpu = Math.max(...near.filter((address) => address <= original));
    if (find([cpu], 0x137ec0a94d826008n) !== original) return null;
    const views = new NativeSlots(context.bytes.length & ~7);
    return { pointer: pointers.get(cpu) ?? 0, distance: original - cpu, views };
  } finally {
    memory.close();
  }
}

/** What may be pointers in the engine's structure, and at which offset. */
function pointersIn(engine: RawEngine): Map<Address, number> {
  const pointers = new Map<Address, number>();
  new BigUint64Array(engine.peekAll().buffer).forEach((value, index) => {
    const address = Number(value);
    const plausible = address >= LOWEST && address < HIGHEST && address % 8 === 0;
    if (plausible && !pointers.has(address)) pointers.set(address, index * 8);
  });
  return pointers;
}

function firstOf<T, R>(items: readonly T[], look: (item: T) => R | null): R | null {
  for (const item of items) {
    const found = look(item);
    if (found !== null) return found;
  }
  return null;
}

/** How far into `memory` a context would begin, if it were there with these marks in it. */
function distanceOf(memory: Buffer, marks: readonly (readonly [number, bigint])[]): number | null {
  const [first] = marks;
  if (first === undefined) return null;
  const [offset, value] = first;
  const sought = Buffer.alloc(8);
  sought.writeBigUInt64LE(value);
  for (let at = memory.indexOf(sought); at >= 0; at = memory.indexOf(sought, at + 8)) {
    const start = at - offset;
    const there = ([o, v]: readonly [number, bigint]): boolean =>
      start + o + 8 <= memory.length && memory.readBigUInt64LE(start + o) === v;
    if (start >= 0 && start % 8 === 0 && marks.every(there)) return start;
  }
  return null;
}

/** Reads memory that may not be there: through a pipe, where the system refuses instead of a crash. */
class SafeMemory {
  private readonly ends = new NativeBuffer(8);
  private readonly from: number;
  private readonly into: number;
  private readonly buffer: NativeBuffer;

  /** @param size bytes read at once, at the most */
  constructor(
    private readonly bindings: Bindings,
    size: number,
  ) {
    this.buffer = new NativeBuffer(size);
    const made = bindings.pipe(this.ends.address) === 0;
    this.from = made ? this.ends.view.getInt32(0, true) : -1;
    this.into = made ? this.ends.view.getInt32(4, true) : -1;
  }

  /** As much of `size` bytes at `address` as can be read; valid until the next call. */
  read(address: Address, size: number): Buffer {
    const { bindings, buffer } = this;
    let done = 0;
    while (done < size) {
      const length = Math.min(CHUNK - ((address + done) % CHUNK), size - done);
      if (bindings.write(this.into, address + done, length) !== length) break;
      if (bindings.read(this.from, buffer.address + done, length) !== length) break;
      done += length;
    }
    return Buffer.from(buffer.bytes.buffer, 0, done);
  }

  close(): void {
    if (this.from < 0) return;
    this.bindings.close(this.from);
    this.bindings.close(this.into);
  }
}
