/** A CPU without an engine, for tests that take one stop at a time. */
import { type Cpu, type CpuStop, EngineError, type Privilege, type RegisterSet } from '../../emu/cpu.js';

export const SENTINEL = 0xffff_8000_80ff_f010n;

/** Registers in a map; runs nothing. */
export class FakeCpu implements Cpu {
  readonly id = 0;
  readonly sentinel = SENTINEL;
  readonly values = new Map<string, bigint>();
  readonly written: string[] = [];
  flushes = 0;
  readonly executed = 0;
  get registerNames(): readonly string[] {
    return [...this.values.keys()];
  }
  read(register: string): bigint {
    return this.values.get(register) ?? 0n;
  }
  write(register: string, value: bigint): void {
    this.written.push(register);
    this.values.set(register, value);
  }
  registerSet(names: readonly string[]): RegisterSet {
    const values = new BigUint64Array(names.length);
    return {
      names,
      values,
      load: () =>
        names.forEach((name, i) => {
          values[i] = this.read(name);
        }),
      store: () =>
        names.forEach((name, i) => {
          this.values.set(name, values[i] ?? 0n);
        }),
    };
  }
  privilege(): Privilege {
    return (this.read('pstate') & 0xfn) === 0n ? 'user' : 'kernel';
  }
  setPrivilege(privilege: Privilege): void {
    this.values.set('pstate', privilege === 'kernel' ? 5n : 0n);
  }
  start(): CpuStop {
    throw new EngineError('this CPU has no engine');
  }
  flushTlbPage(): void {
    this.flushes += 1;
  }
  flushTlb(): void {
    this.flushes += 1;
  }
  flushCode(): void {}
  close(): void {}
}
