/** The registers of one native CPU by name: which way each is read and written. */
import type { RegisterSet } from '../cpu.js';
import { NativeBuffer } from './bindings.js';
import type { IsaPart, SpecialRegister } from './isa-part.js';
import type { EngineState, RegisterOffsets } from './live-state.js';
import type { RawEngine } from './raw-engine.js';
import { NativeRegisterSet, type RegisterFile, unknownRegister } from './register-set.js';
import type { RegisterPlace } from './register-table.js';

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);

/** Whether the CPU may be read and written now; each throws an EngineError that says why not. */
export interface CpuGuard {
  /** The CPU is closed. */
  ensureOpen(): void;
  /** The CPU is closed or running. */
  ensureIdle(): void;
}

export class CpuRegisters implements RegisterFile {
  readonly names: readonly string[];
  /** Indices in the live state of the registers that are there as they are read. */
  private readonly liveIndices: ReadonlyMap<string, number>;
  private readonly structureBuffer = new NativeBuffer(32);

  /** @param offsets where plain registers are in the live state */
  constructor(
    private readonly engine: RawEngine,
    private readonly part: IsaPart,
    readonly live: EngineState,
    offsets: RegisterOffsets,
    private readonly guard: CpuGuard,
  ) {
    const { registers, special } = part;
    this.liveIndices = liveIndices(registers.places, offsets);
    this.names = [...new Set([...registers.places.keys(), ...special.keys()])];
  }

  read(name: string): bigint {
    this.ensureOpen();
    const index = this.liveIndex(name);
    if (index !== undefined) return this.readLive(index);
    const special = this.special(name);
    if (special?.read !== undefined) return special.read();
    const place = this.placeOf(name);
    if (place.kind === 'plain') return this.engine.read(place.id);
    const { view } = this.structureBuffer;
    place.prepare(view);
    this.engine.readStructure(place.id, this.structureBuffer);
    if (place.bytes === 8) return view.getBigUint64(place.offset, true);
    return BigInt(
      place.bytes === 4 ? view.getUint32(place.offset, true) : view.getUint16(place.offset, true),
    );
  }

  private readLive(index: number): bigint {
    const { live } = this;
    live.refresh();
    return live.quads[index] ?? 0n;
  }

  write(name: string, value: bigint): void {
    this.ensureIdle();
    const special = this.special(name);
    if (special?.write !== undefined) special.write(u64(value));
    else this.writePlace(this.placeOf(name), u64(value));
  }

  private writePlace(place: RegisterPlace, value: bigint): void {
    if (place.kind === 'plain') {
      this.engine.write(place.id, value);
      return;
    }
    const { view } = this.structureBuffer;
    place.prepare(view);
    if (place.shared) this.engine.readStructure(place.id, this.structureBuffer);
    if (place.bytes === 8) view.setBigUint64(place.offset, value, true);
    else if (place.bytes === 4) view.setUint32(place.offset, Number(BigInt.asUintN(32, value)), true);
    else view.setUint16(place.offset, Number(BigInt.asUintN(16, value)), true);
    this.engine.writeStructure(place.id, this.structureBuffer);
  }

  set(names: readonly string[]): RegisterSet {
    this.ensureOpen();
    return new NativeRegisterSet(this.engine, this, names);
  }

  place(name: string): RegisterPlace | null {
    const place = this.part.registers.places.get(name);
    if (place === undefined && !this.part.special.has(name)) throw unknownRegister(name, this.names);
    return place ?? null;
  }

  private placeOf(name: string): RegisterPlace {
    const place = this.place(name);
    if (place === null) throw unknownRegister(name, this.names);
    return place;
  }

  special(name: string): SpecialRegister | undefined {
    return this.part.special.get(name);
  }

  liveIndex(name: string): number | undefined {
    return this.liveIndices.get(name);
  }

  ensureOpen(): void {
    this.guard.ensureOpen();
  }

  ensureIdle(): void {
    this.guard.ensureIdle();
  }
}

function liveIndices(
  places: ReadonlyMap<string, RegisterPlace>,
  offsets: RegisterOffsets,
): ReadonlyMap<string, number> {
  const indices = new Map<string, number>();
  for (const [name, place] of places) {
    const offset = place.kind === 'plain' && place.bytes === 8 ? offsets.get(place.id) : undefined;
    if (offset !== undefined) indices.set(name, offset >> 3);
  }
  return indices;
}
