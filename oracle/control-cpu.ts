/** A CPU that is registers only: what an MMU of ours reads of one. */
import { type Cpu, type CpuStop, EngineError, type Privilege, type RegisterSet } from '../emu/cpu.js';

export class ControlCpu implements Cpu {
  readonly id = 0;
  readonly sentinel = 0n;
  readonly executed = 0;
  private readonly values = new Map<string, bigint>();

  get registerNames(): readonly string[] {
    return [...this.values.keys()];
  }

  /** Registers that nobody wrote are 0. */
  read(register: string): bigint {
    return this.values.get(register) ?? 0n;
  }

  write(register: string, value: bigint): void {
    this.values.set(register, value);
  }

  registerSet(names: readonly string[]): RegisterSet {
    const values = new BigUint64Array(names.length);
    return {
      names,
      values,
      load: () => {
        names.forEach((name, index) => {
          values[index] = this.read(name);
        });
      },
      store: () => {
        names.forEach((name, index) => {
          this.write(name, values[index] ?? 0n);
        });
      },
    };
  }

  /** By CPL on x86-64, by the exception level on arm64. */
  privilege(): Privilege {
    const pstate = this.values.get('pstate');
    const user = pstate === undefined ? (this.read('cs') & 3n) === 3n : (pstate & 0xfn) === 0n;
    return user ? 'user' : 'kernel';
  }

  setPrivilege(): void {
    throw new EngineError('a CPU without an engine has no privilege');
  }

  start(): CpuStop {
    throw new EngineError('a CPU without an engine runs nothing');
  }

  flushTlbPage(): void {
    // It has no TLB.
  }

  flushTlb(): void {
    // It has no TLB.
  }

  flushCode(): void {
    // It has no code.
  }

  close(): void {
    // It has nothing to free.
  }
}
