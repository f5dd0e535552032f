/** Guest code in a machine: what stops it, and who takes over then. */
import type { ThisCpu } from '../arch/arch.js';
import { TaskDead } from '../arch/kernel.js';
import type { CpuStop } from '../emu/cpu.js';
import { Endless } from '../emu/endless.js';
import type { Path } from '../emu/path.js';
import type { Guest, StopResult } from '../emu/run.js';
import { callHost, type HostFunctions } from './host-functions.js';

/** The loop's view of a CPU. */
export function guestOf(here: ThisCpu, functions: HostFunctions): Guest {
  return {
    cpu: here.cpu,
    trace: here.trace,
    pcRegister: here.arch.pcRegister,
    handleStop: (stop) => handleStop(here, functions, stop),
    now: () => here.trace.patience.now(),
  };
}

/** What the kernel does not return from, or never gets out of, it ends by throwing: that is the end of the run. */
function* handleStop(here: ThisCpu, functions: HostFunctions, stop: CpuStop): Path<StopResult> {
  try {
    const called = stop.kind === 'halt' ? functions.at(here.cpu.read(here.arch.pcRegister)) : null;
    if (called !== null) return yield* callHost(here, called);
    return yield* here.arch.handleStop(here, stop);
  } catch (thrown) {
    const pc = here.cpu.read(here.arch.pcRegister);
    if (thrown instanceof Endless) return { how: 'end', outcome: thrown.outcome(pc) };
    if (!(thrown instanceof TaskDead)) throw thrown;
    here.trace.emit({ type: 'resolved', cpu: here.cpu.id, how: 'dead', pc });
    return { how: 'end', outcome: thrown.outcome };
  }
}
