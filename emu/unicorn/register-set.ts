/** A fixed set of registers, read and written by one library call through arrays built beforehand. */
import { EngineError, type RegisterSet } from '../cpu.js';
import { addressOf, NativeBuffer } from './bindings.js';
import type { SpecialRegister } from './isa-part.js';
import type { EngineState } from './live-state.js';
import type { RawEngine } from './raw-engine.js';
import type { RegisterPlace, StructureRegister } from './register-table.js';

/** Access to one register by name, for those that need more than moving bits. */
export interface RegisterFile {
  place(name: string): RegisterPlace | null;
  special(name: string): SpecialRegister | undefined;
  /** Index of the register among the 64-bit words of `live`, when it is there. */
  liveIndex(name: string): number | undefined;
  /** The engine's present state, read in place. */
  readonly live: EngineState;
  /** Throws an EngineError when the CPU is closed. */
  ensureOpen(): void;
  /** Throws an EngineError when the CPU is closed or running. */
  ensureIdle(): void;
}

/** Arguments of uc_reg_read_batch and uc_reg_write_batch: register numbers and where their values are. */
class Batch {
  readonly ids: NativeBuffer;
  readonly pointers: NativeBuffer;
  count = 0;

  constructor(capacity: number) {
    this.ids = new NativeBuffer(Math.max(4, capacity * 4));
    this.pointers = new NativeBuffer(Math.max(8, capacity * 8));
  }

  add(id: number, address: number): void {
    this.ids.view.setInt32(this.count * 4, id, true);
    this.pointers.view.setBigUint64(this.count * 8, BigInt(address), true);
    this.count += 1;
  }
}

/** Registers that are read in place and follow each other there and in `values`. */
interface LiveRun {
  /** Index in `values`. */
  readonly to: number;
  /** Index among the words of the engine's state. */
  readonly from: number;
  length: number;
}

/** From here on it is faster to copy a run as a whole. */
const LONG_RUN = 4;

/** A value that has to be moved between a structure and its place in `values`. */
interface Structured {
  readonly index: number;
  readonly register: StructureRegister;
  readonly buffer: NativeBuffer;
  readonly words: Uint32Array;
}

interface Special {
  readonly index: number;
  readonly access: (value: bigint) => bigint;
}

export class NativeRegisterSet implements RegisterSet {
  readonly names: readonly string[];
  readonly values: BigUint64Array;

  /** `values` as 32-bit and 16-bit parts: clearing these allocates no bigint. */
  private readonly words: Uint32Array;
  private readonly halves: Uint16Array;
  private readonly narrow: { readonly index: number; readonly bytes: 2 | 4 }[] = [];
  private readonly structured: Structured[] = [];
  private readonly lives: LiveRun[] = [];
  /** Long runs are copied as such; the others as 32-bit words, two indices each: in `words`, in the state. */
  private readonly runs: readonly LiveRun[];
  private readonly singles: Int32Array;
  private readonly specialReads: Special[] = [];
  private readonly specialWrites: Special[] = [];
  private readonly reads: Batch;
  private readonly writes: Batch;

  constructor(
    private readonly engine: RawEngine,
    private readonly file: RegisterFile,
    names: readonly string[],
  ) {
    this.names = [...names];
    const memory = new NativeBuffer(Math.max(8, names.length * 8));
    this.values = new BigUint64Array(memory.bytes.buffer, 0, names.length);
    this.words = new Uint32Array(memory.bytes.buffer);
    this.halves = new Uint16Array(memory.bytes.buffer);
    this.reads = new Batch(names.length);
    this.writes = new Batch(names.length);
    const values = addressOf(memory.bytes);
    this.names.forEach((name, index) => {
      this.addRegister(name, index, values + index * 8);
    });
    this.runs = this.lives.filter(({ length }) => length > LONG_RUN);
    this.singles = Int32Array.from(
      this.lives
        .filter(({ length }) => length <= LONG_RUN)
        .flatMap(({ to, from, length }) =>
          Array.from({ length: length * 2 }, (_, i) => [to * 2 + i, from * 2 + i]).flat(),
        ),
    );
  }

  private addRegister(name: string, index: number, address: number): void {
    const special = this.file.special(name);
    const { read, write } = special ?? {};
    if (read !== undefined) this.specialReads.push({ index, access: () => read() });
    if (write !== undefined) {
      this.specialWrites.push({
        index,
        access: (value) => {
          write(value);
          return value;
        },
      });
    }
    const place = this.file.place(name);
    if (place === null) return;
    let at = address;
    if (place.kind === 'structure') {
      const buffer = new NativeBuffer(place.size);
      place.prepare(buffer.view);
      this.structured.push({ index, register: place, buffer, words: new Uint32Array(buffer.bytes.buffer) });
      at = buffer.address;
    } else if (place.bytes !== 8) {
      this.narrow.push({ index, bytes: place.bytes });
    }
    const live = this.file.liveIndex(name);
    if (read === undefined && live !== undefined) this.addLive(index, live);
    else if (read === undefined) this.reads.add(place.id, at);
    // A structure with other state in it must be read just before it is written.
    if (write === undefined && !(place.kind === 'structure' && place.shared)) this.writes.add(place.id, at);
  }

  private addLive(to: number, from: number): void {
    const last = this.lives.at(-1);
    if (last !== undefined && last.to + last.length === to && last.from + last.length === from) {
      last.length += 1;
    } else {
      this.lives.push({ to, from, length: 1 });
    }
  }

  load(): void {
    this.file.ensureOpen();
    const { engine, reads, words } = this;
    if (reads.count > 0) {
      const rc = engine.bindings.uc_reg_read_batch(
        engine.handle,
        reads.ids.address,
        reads.pointers.address,
        reads.count,
      );
      if (rc !== 0) engine.check(rc, 'reading registers');
    }
    if (this.lives.length > 0) {
      const { live } = this.file;
      live.refresh();
      const { singles } = this;
      for (let i = 0; i < singles.length; i += 2) {
        words[singles[i] ?? 0] = live.words[singles[i + 1] ?? 0] ?? 0;
      }
      for (const { to, from, length } of this.runs) {
        this.values.set(live.quads.subarray(from, from + length), to);
      }
    }
    for (const { index, bytes } of this.narrow) {
      words[index * 2 + 1] = 0;
      if (bytes === 2) this.halves[index * 4 + 1] = 0;
    }
    for (const { index, register, words: structure } of this.structured) {
      const from = register.offset / 4;
      words[index * 2] = register.bytes === 2 ? (structure[from] ?? 0) & 0xffff : (structure[from] ?? 0);
      words[index * 2 + 1] = register.bytes === 8 ? (structure[from + 1] ?? 0) : 0;
    }
    for (const { index, access } of this.specialReads) this.values[index] = access(0n);
  }

  /** An EngineError when a value cannot be written (`cs`, another exception level); others are then written or not. */
  store(): void {
    this.file.ensureIdle();
    const { engine, writes, words } = this;
    for (const { index, register, buffer, words: structure } of this.structured) {
      if (register.shared) engine.readStructure(register.id, buffer);
      const to = register.offset / 4;
      structure[to] = words[index * 2] ?? 0;
      if (register.bytes === 8) structure[to + 1] = words[index * 2 + 1] ?? 0;
      if (register.shared) engine.writeStructure(register.id, buffer);
    }
    const rc = engine.bindings.uc_reg_write_batch(
      engine.handle,
      writes.ids.address,
      writes.pointers.address,
      writes.count,
    );
    if (rc !== 0) engine.check(rc, 'writing registers');
    for (const { index, access } of this.specialWrites) access(this.values[index] ?? 0n);
  }
}

/** The error for a name that is no register. */
export function unknownRegister(name: string, known: Iterable<string>): EngineError {
  return new EngineError(`there is no register "${name}"; registers are: ${[...known].join(' ')}`);
}
