/** What a user changes while the machine stands still. */
import { hex } from '../emu/address.js';
import { EngineError } from '../emu/cpu.js';
import type { EntryLevel } from '../vector/machine/machine.js';
import type { MachineRun } from './run.js';
import { SessionError } from './session-error.js';

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

/** Makes a change. Throws a SessionError for what is not there. */
export function applyChange(run: MachineRun, change: Change): void {
  const { machine } = run;
  const { system } = machine;
  switch (change.kind) {
    case 'register': {
      const here = system.here(change.cpu);
      const { name, value } = change;
      try {
        here.cpu.write(name, value);
      } catch (error) {
        if (!(error instanceof EngineError)) throw error;
        throw new SessionError(`${name} cannot be changed: ${error.message}`);
      }
      if (here.regs !== null) here.arch.setSavedRegister(here.regs, name, value);
      // It may have been one that translations depend on.
      if (here.arch.generalRegisters.includes(name) || name === here.arch.pcRegister) return;
      here.mmu.refresh();
      here.cpu.flushTlb();
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

/** A change and what became of the ones behind it, for people. */
export function changeText(
  { change }: RecordedChange,
  dropped: readonly RecordedChange[],
  nameOf: (address: bigint) => string | null,
): string {
  const at = (address: bigint): string => {
    const name = nameOf(address);
    return name === null ? hex(address) : `${hex(address)} <${name}>`;
  };
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
