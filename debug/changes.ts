/** What a user changes while the machine stands still. */
import type { ThisCpu } from '../arch/arch.js';
import { ControlRegisterError } from '../arch/arm64/walk-control.js';
import { hex } from '../emu/address.js';
import { EngineError } from '../emu/cpu.js';
import { RamError } from '../emu/ram.js';
import type { EntryLevel } from '../vector/machine/machine.js';
import { controlRefusal } from './control-values.js';
import type { MachineRun } from './run.js';
import { SessionError } from './session-error.js';
import { namedAddress } from './stop.js';

export type Change =
  | { readonly kind: 'register'; readonly cpu: number; readonly name: string; readonly value: bigint }
  | { readonly kind: 'memory'; readonly cpu: number; readonly va: bigint; readonly bytes: Uint8Array }
  | { readonly kind: 'physical'; readonly pa: number; readonly bytes: Uint8Array }
  | {
      readonly kind: 'entry';
      readonly cpu: number;
      readonly va: bigint;
      readonly level: EntryLevel | null;
      readonly value: bigint;
    };

/** A change where it was made: it is made again each time the run comes past. */
export interface RecordedChange {
  readonly tick: number;
  readonly change: Change;
}

/** Whoever changed something is told this. */
export interface ChangeResult {
  readonly recorded: RecordedChange;
  /** Changes at later positions, which are forgotten: the run goes differently from here on. */
  readonly dropped: readonly RecordedChange[];
  /** For people: what was changed, and what that made the session forget. */
  readonly text: string;
}

/** Makes a change. Throws a SessionError for what is not there, and leaves the machine as it was. */
export function applyChange(run: MachineRun, change: Change): void {
  try {
    make(run, change);
  } catch (error) {
    // Tables that the user has bent lead out of the ram.
    if (error instanceof RamError) throw new SessionError(error.message);
    throw error;
  }
}

function make(run: MachineRun, change: Change): void {
  const { machine } = run;
  const { system } = machine;
  switch (change.kind) {
    case 'register': {
      changeRegister(system.here(change.cpu), change.name, change.value);
      return;
    }
    case 'memory': {
      const { cpu, va, bytes } = change;
      if (machine.writeMemory(cpu, va, bytes)) return;
      throw new SessionError(`${hex(va)} is not mapped: nothing can be written there`);
    }
    case 'physical': {
      const { pa, bytes } = change;
      const { ram, memory } = system;
      if (!ram.contains(pa, bytes.length)) {
        throw new SessionError(
          `physical ${hex(BigInt(pa))} is outside of the ram, which is ${hex(BigInt(ram.base))} to ${hex(BigInt(ram.end))}`,
        );
      }
      memory.pages.exposed = true;
      ram.write(pa, bytes);
      for (const { cpu, mmu } of system.cpus) {
        cpu.flushCode();
        cpu.flushTlb();
        mmu.codeChanged?.();
      }
      return;
    }
    case 'entry': {
      const { cpu, va, level, value } = change;
      if (!machine.writeEntry(cpu, va, level, value)) {
        const wanted = level === null ? 'table entry' : `entry at level ${level}`;
        throw new SessionError(`${hex(va)} has no ${wanted}: the tables end above it`);
      }
      for (const here of system.cpus) {
        // A higher entry is about many pages.
        if (level === null || level === 'pte') here.cpu.flushTlbPage(va & ~0xfffn);
        else here.cpu.flushTlb();
        here.mmu.unpin(level === null || level === 'pte' ? va : null);
      }
    }
  }
}

/** Where the machine cannot be what a register says, the register is what it was. */
function changeRegister(here: ThisCpu, name: string, value: bigint): void {
  const { arch, cpu, mmu, regs } = here;
  const before = cpu.read(name);
  // Translations depend on the others.
  const translates = !arch.generalRegisters.includes(name) && name !== arch.pcRegister;
  const refusal = translates ? controlRefusal((each) => cpu.read(each), name, value) : null;
  if (refusal !== null) throw new SessionError(`${name} cannot be changed: ${refusal}`);
  try {
    cpu.write(name, value);
    if (translates) mmu.refresh();
  } catch (error) {
    if (!(error instanceof EngineError || error instanceof ControlRegisterError)) throw error;
    cpu.write(name, before);
    if (translates) mmu.refresh();
    throw new SessionError(`${name} cannot be changed: ${error.message}`);
  }
  if (regs !== null) arch.setSavedRegister(regs, name, value);
  if (translates) cpu.flushTlb();
}

/** A change and what became of the ones behind it, for people. */
export function changeText(
  { change }: RecordedChange,
  dropped: readonly RecordedChange[],
  nameOf: (address: bigint) => string | null,
): string {
  const at = (address: bigint): string => namedAddress(address, nameOf);
  const made = ((): string => {
    switch (change.kind) {
      case 'register':
        return `${change.name} = ${hex(change.value)}`;
      case 'memory':
        return `${bytesOf(change.bytes)} written to ${at(change.va)}`;
      case 'physical':
        return `${bytesOf(change.bytes)} written to physical ${hex(BigInt(change.pa))}`;
      case 'entry':
        return `${(change.level ?? 'pte').toUpperCase()} of ${at(change.va)} = ${hex(change.value)}`;
    }
  })();
  if (dropped.length === 0) return made;
  const [count, verb] = dropped.length === 1 ? ['1 change', 'is'] : [`${dropped.length} changes`, 'are'];
  return `${made}\nThe run goes differently from here on: ${count} made further on ${verb} forgotten.`;
}

function bytesOf({ length }: Uint8Array): string {
  return length === 1 ? '1 byte' : `${length} bytes`;
}
