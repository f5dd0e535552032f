/**
 * A CPU with protection keys made of one without: the engine's CPU model has no PKU, and forgets CR4.PKE.
 * Translation is ours, so it is enough that our memory management unit sees CR4.PKE and PKRU.
 */
import type { Cpu, CpuStop, Privilege, RegisterSet } from '../../emu/cpu.js';
import { X86_CR4_PKE } from './processor.js';

export class KeyedCpu implements Cpu {
  readonly registerNames: readonly string[];
  #pke = 0n;
  #pkru = 0n;

  constructor(readonly inner: Cpu) {
    this.registerNames = [...inner.registerNames, 'pkru'];
  }

  get id(): number {
    return this.inner.id;
  }
  get sentinel(): bigint {
    return this.inner.sentinel;
  }
  get executed(): number {
    return this.inner.executed;
  }

  read(register: string): bigint {
    if (register === 'pkru') return this.#pkru;
    const value = this.inner.read(register);
    return register === 'cr4' ? value | this.#pke : value;
  }
  write(register: string, value: bigint): void {
    if (register === 'pkru') {
      this.#pkru = value;
      return;
    }
    if (register === 'cr4') this.#pke = value & X86_CR4_PKE;
    this.inner.write(register, register === 'cr4' ? value & ~X86_CR4_PKE : value);
  }
  registerSet(names: readonly string[]): RegisterSet {
    return this.inner.registerSet(names);
  }
  privilege(): Privilege {
    return this.inner.privilege();
  }
  setPrivilege(privilege: Privilege): void {
    this.inner.setPrivilege(privilege);
  }
  start(pc: bigint, count: number): CpuStop {
    return this.inner.start(pc, count);
  }
  flushTlbPage(va: bigint): void {
    this.inner.flushTlbPage(va);
  }
  flushTlb(): void {
    this.inner.flushTlb();
  }
  flushCode(): void {
    this.inner.flushCode();
  }
  close(): void {
    this.inner.close();
  }
}
