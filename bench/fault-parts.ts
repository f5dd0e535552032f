/**
 * A scratch fault that is cut off earlier and earlier: what one stage costs more than the stage before it
 * is the cost of what it does more. The cuts are where the machine is put together anyway (the handler of a
 * stop, the kernel's call of the arena code); nothing in the ports knows of them. Behind a cut, one store
 * into ram does what the handler would have done to the page's entry, so that the guest goes on.
 *
 * `walk`       the engine stops and starts again; our walker refuses, then translates
 * `registers`  as well: the registers of the exception are taken, fault address and syndrome are put back
 * `path`       as well: exception frame, recorded walk, the port up to the question whether BPF knows better
 * `stack`      as well: the stack walk, and the search for a program on it
 * `pte`        the entry is found and stored as the kernel does it
 * `report`     as well: the report to the program's stream
 */
import type { ThisCpu } from '../arch/arch.js';
import { Arm64Mmu } from '../arch/arm64/mmu.js';
import type { Kernel } from '../arch/kernel.js';
import { X86Mmu } from '../arch/x86/mmu.js';
import { apply_range_set_scratch_cb } from '../bpf/arena/arena_ptes.js';
import type { bpf_prog } from '../bpf/program.js';
import { __bpf_prog_report_arena_violation } from '../bpf/stream/report.js';
import { toSigned, u64 } from '../emu/address.js';
import type { Engine } from '../emu/cpu.js';
import type { RunOutcome } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { type Guest, runGuest, type StopResult } from '../emu/run.js';
import { entryAt, PTE } from '../mm/descend.js';
import { apply_to_page_range } from '../mm/pgtable_walk.js';
import type { ArchName } from './guest-code.js';
import { NO_LIMITS } from './kernel-code.js';
import { ScratchMachine } from './scratch-fault.js';
import type { Subject } from './subject.js';

export const STAGES = ['walk', 'registers', 'path', 'stack', 'pte', 'report'] as const;
export type Stage = (typeof STAGES)[number];

type ArenaHook = Kernel['bpf_arena_handle_page_fault'];

const PAGE = 4096;

export class FaultStage implements Subject {
  readonly #machine: ScratchMachine;
  readonly #here: ThisCpu;
  readonly #stage: Stage;
  /** Where the entry of each page is among the ram's halves, and its value. */
  readonly #entries: Float64Array;
  readonly #low: number;
  readonly #high: number;
  /** Faults of this run so far. */
  #next = 0;

  constructor(
    engine: Engine,
    arch: ArchName,
    readonly rounds: number,
    stage: Stage,
  ) {
    this.#machine = new ScratchMachine(engine, arch, rounds);
    this.#stage = stage;
    const { system, arena } = this.#machine;
    this.#here = system.here();
    this.#entries = Float64Array.from({ length: rounds }, (_, page) => this.#entryOf(page));
    const { pte } = arena.scratch;
    this.#low = Number(pte & 0xffff_ffffn);
    this.#high = Number(pte >> 32n);
    if (stage !== 'walk' && stage !== 'registers') {
      const hook = this.#hookOf(stage);
      if (!Reflect.set(system.kernel, 'bpf_arena_handle_page_fault', hook)) throw new Error('no hook');
    }
  }

  #entryOf(page: number): number {
    const { system, arena } = this.#machine;
    const va = toSigned(arena.kern_vm_start) + page * PAGE;
    return (entryAt(this.#here, system.memory, system.memory.init_mm, va, PTE, false) - system.ram.base) / 4;
  }

  /** Stores the entry of the next page, as cheaply as can be. */
  #store(): void {
    const { words32 } = this.#here.ram;
    const at = this.#entries[this.#next++] ?? 0;
    words32[at] = this.#low;
    words32[at + 1] = this.#high;
  }

  /** Stands in for bpf_arena_handle_page_fault(), and does as much of it as the stage has. */
  #hookOf(stage: 'path' | 'stack' | 'pte' | 'report'): ArenaHook {
    const { system, arena } = this.#machine;
    const { bpf: env, memory } = system;
    const programOnStack = (here: ThisCpu): bpf_prog => {
      const prog = env.programs.bpf_prog_find_from_stack(here);
      if (prog === null) throw new Error('the program is not on the stack');
      return prog;
    };
    const setPte = (here: ThisCpu, page: bigint): void => {
      const { scratch } = arena;
      const { init_mm } = memory;
      drain(apply_to_page_range(here, memory, init_mm, page, PAGE, apply_range_set_scratch_cb, scratch));
    };
    switch (stage) {
      case 'path':
        return (here) => {
          this.#store();
          return here.trace.immediate(true);
        };
      case 'stack':
        return (here) => {
          programOnStack(here);
          this.#store();
          return here.trace.immediate(true);
        };
      case 'pte':
        return (here, addr) => {
          this.#next += 1;
          programOnStack(here);
          setPte(here, u64(addr & ~0xfffn));
          return here.trace.immediate(true);
        };
      case 'report':
        return (here, addr, is_write, fault_ip) => {
          this.#next += 1;
          const prog = programOnStack(here);
          const page = u64(addr & ~0xfffn);
          setPte(here, page);
          const offset = u64(page - arena.kern_vm_start);
          drain(__bpf_prog_report_arena_violation(here, env, prog, is_write, offset, fault_ip, 'kernel'));
          return here.trace.immediate(true);
        };
    }
  }

  run(): void {
    this.#next = 0;
    if (this.#stage === 'walk' || this.#stage === 'registers') this.#runCut();
    else this.#machine.touch(this.rounds);
    if (this.#next !== this.rounds) throw new Error(`${this.#next} faults on ${this.rounds} pages`);
  }

  /** A run whose stops come to us instead of the architecture. */
  #runCut(): void {
    const here = this.#here;
    const { cpu, trace, arch, current, mmu } = here;
    arch.prepareCall(here, this.#machine.start, current.stack + BigInt(current.stackSize));
    for (const [name, value] of this.#machine.registers(this.rounds)) cpu.write(name, value);
    mmu.refresh();
    const { pcRegister } = arch;
    const takeRegisters = this.#stage === 'registers' ? registerTaker(here) : null;
    const guest: Guest = {
      cpu,
      trace,
      pcRegister,
      handleStop: (stop) => {
        if (stop.kind !== 'miss') throw new Error(`the engine stopped otherwise: ${stop.kind}`);
        const pc = takeRegisters === null ? cpu.read(pcRegister) : takeRegisters(stop.va);
        this.#store();
        return trace.immediate<StopResult>({ how: 'retry', pc, address: stop.va, entry: 0n });
      },
      now: () => performance.now(),
    };
    const outcome: RunOutcome = drain(runGuest(guest, this.#machine.start, NO_LIMITS_AT_ALL));
    if (outcome.kind !== 'returned') throw new Error(`the run ended otherwise: ${outcome.kind}`);
  }

  reset(): void {
    this.#machine.free(this.rounds);
  }
  close(): void {
    this.#machine.close();
  }
}

const NO_LIMITS_AT_ALL = { ...NO_LIMITS, refaults: Number.POSITIVE_INFINITY };

/** Takes the registers of an exception and leaves what hardware leaves; returns pc. */
function registerTaker({ mmu }: ThisCpu): (va: bigint) => bigint {
  if (mmu instanceof X86Mmu) {
    return (va) => {
      const regs = mmu.capture();
      mmu.setCr2(va);
      mmu.release();
      return regs.ip;
    };
  }
  if (mmu instanceof Arm64Mmu) {
    return (va) => {
      const regs = mmu.enterException();
      mmu.setSyndrome(va, 0x9600_0047n);
      mmu.leaveException();
      return regs.pc;
    };
  }
  throw new Error('a CPU of neither architecture');
}
