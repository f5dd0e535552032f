/**
 * Kernel functions that guest code can call although their body is host code. Each has a place in kernel
 * text and real code there (Arch.hostCall), which makes a frame and then stops for the host: a stack that
 * is saved in them goes on with the frames of the code that called.
 */
import type { Arch, KernelFunction, ThisCpu } from '../arch/arch.js';
import type { Path } from '../emu/path.js';
import type { StopResult } from '../emu/run.js';
import { GuestRefusal } from '../kernel/guest-refusal.js';

/** A body: gets the first arguments, as many as the architecture passes in registers, and says the result. */
export type HostBody = (here: ThisCpu, args: readonly bigint[]) => Path<bigint>;

export interface HostFunction extends KernelFunction {
  readonly body: HostBody;
}

/** The functions of one machine, by the address at which they stop. */
export class HostFunctions {
  readonly #bodies = new Map<bigint, HostFunction>();

  /** A function has got its place. */
  place(arch: Arch, fn: HostFunction, start: bigint): void {
    this.#bodies.set(start + BigInt(arch.hostCall.resumeAt), fn);
  }

  /** The function that has stopped for the host, or null when the code at pc is nobody's. */
  at(pc: bigint): HostFunction | null {
    return this.#bodies.get(pc) ?? null;
  }
}

/**
 * Runs the body of the function that has stopped; its stack begins at the registers as they are. A GuestRefusal of
 * the body gets the name of the function in front.
 */
export function* callHost(here: ThisCpu, fn: HostFunction): Path<StopResult> {
  const { arch, cpu } = here;
  const outer = here.regs;
  here.regs = arch.captureRegs(here);
  try {
    const args = arch.hostCall.argumentRegisters.map((name) => cpu.read(name));
    const value = yield* fn.body(here, args);
    cpu.write(arch.returnRegister, value);
    return { how: 'called', pc: cpu.read(arch.pcRegister) };
  } catch (error) {
    throw error instanceof GuestRefusal ? new GuestRefusal(`${fn.name}(): ${error.message}`) : error;
  } finally {
    arch.releaseRegs(here);
    here.regs = outer;
  }
}
