/**
 * Runs that begin while another one on the same CPU is in the middle of a path of the kernel: as an interrupt,
 * a tracepoint's program or another task's turn would. What the CPU was at is kept here and put back.
 */
import type { ThisCpu } from '../arch/arch.js';
import type { pt_regs } from '../arch/kernel.js';
import type { Privilege } from '../emu/cpu.js';

/** Room below the stack pointer for the exception frame of what was interrupted, in bytes. */
const FRAME_ROOM = 1024n;

interface Interrupted {
  readonly registers: BigUint64Array;
  readonly privilege: Privilege;
  readonly user: boolean;
  readonly irqs_disabled: boolean;
  readonly regs: pt_regs | null;
}

/** Runs of one machine, one inside the other on each CPU. */
export class NestedRuns {
  /** By the CPU's number: what waits there, the outermost first; as many as runs are under way. */
  readonly #interrupted: (Interrupted | null)[][] = [];
  /** By the CPU's number: registers at the end of the last nested run, as long as the outermost one goes on. */
  readonly #ended: (ReadonlyMap<string, bigint> | undefined)[] = [];

  /** True while a run is under way on the CPU. */
  busy({ cpu }: ThisCpu): boolean {
    return this.#of(cpu.id).length > 0;
  }

  /**
   * Begins a run. Each needs its `end`.
   * @returns the first stack pointer for kernel code
   */
  begin(here: ThisCpu): bigint {
    const { cpu, mmu, current, arch } = here;
    const waiting = this.#of(cpu.id);
    const top = current.stack + BigInt(current.stackSize);
    if (waiting.length === 0) {
      waiting.push(null);
      return top;
    }
    const set = cpu.registerSet(cpu.registerNames);
    set.load();
    const sp = cpu.read(arch.spRegister);
    waiting.push({
      registers: set.values.slice(),
      privilege: cpu.privilege(),
      user: mmu.user,
      irqs_disabled: arch.irqs_disabled(here),
      regs: here.regs,
    });
    here.regs = null;
    const onStack = sp > current.stack + FRAME_ROOM && sp <= top;
    return ((onStack ? sp : top) - FRAME_ROOM) & ~0xfn;
  }

  /** A register as the last run on the CPU left it. */
  register({ cpu }: ThisCpu, name: string): bigint {
    return this.#ended[cpu.id]?.get(name) ?? cpu.read(name);
  }

  /** The run is over: the CPU is as it was before. */
  end(here: ThisCpu): void {
    const { cpu, mmu, arch } = here;
    const before = this.#of(cpu.id).pop();
    this.#ended[cpu.id] = undefined;
    if (before === undefined || before === null) return;
    this.#ended[cpu.id] = new Map(cpu.registerNames.map((name) => [name, cpu.read(name)]));
    cpu.setPrivilege(before.privilege);
    if (before.irqs_disabled) arch.disableInterrupts(here);
    // Only what has changed: control registers, say, have effects when they are written.
    cpu.registerNames.forEach((name, i) => {
      const value = before.registers[i] ?? 0n;
      if (cpu.read(name) !== value) cpu.write(name, value);
    });
    mmu.user = before.user;
    here.regs = before.regs;
    mmu.refresh();
  }

  #of(cpu: number): (Interrupted | null)[] {
    let waiting = this.#interrupted[cpu];
    if (waiting === undefined) {
      waiting = [];
      this.#interrupted[cpu] = waiting;
    }
    return waiting;
  }
}
