/**
 * Software PAN (CONFIG_ARM64_SW_TTBR0_PAN): the kernel runs without the user's tables, and user access
 * routines put them into TTBR0_EL1 for as long as they need them.
 *
 * Ported from __swpan_entry_el1, __swpan_exit_el1 and __swpan_exit_el0 of arch/arm64/kernel/entry.S, and
 * update_saved_ttbr0() of include/asm/mmu_context.h, bpf-next merge 8496d9020ff3. The ASID is the same for
 * everybody: all that is looked at is whether there is one. Left out: the ASID in TTBR1_EL1, which the
 * kernel changes with it; TLB entries here belong to what TTBR0_EL1 holds.
 */
import type { AccessCode, Cpu } from '../../emu/cpu.js';
import type { Trace } from '../../emu/path.js';
import type { Ram } from '../../emu/ram.js';
import type { ThisCpu } from '../arch.js';
import type { KernelConfig } from '../kernel-config.js';
import { system_uses_ttbr0_pan } from './memory.js';
import { Arm64Mmu } from './mmu.js';
import { type Arm64PtRegs, PSR_PAN_BIT } from './regs.js';

/** TTBR_ASID_MASK, and the one ASID that there is. */
const TTBR_ASID_MASK = 0xffffn << 48n;
const ASID = 1n << 48n;
/** TSK_TI_TTBR0: offset of thread_info.ttbr0 in task_struct, which SP_EL0 points to. */
const TSK_TI_TTBR0 = 8n;

/** What TTBR0_EL1 holds while user tables may be used. */
function userTtbr0(pgd: number): bigint {
  return ASID | BigInt(pgd);
}

/** cpu_do_switch_mm() with software PAN: the tables of `pgd`, or nobody's, wait in thread_info. */
export function switchUserTables(here: ThisCpu, pgd: number | null): void {
  const saved = pgd === null ? reservedTtbr0(here) : userTtbr0(pgd);
  if (here.mmu instanceof SwPanMmu) here.mmu.userTables = saved;
  update_saved_ttbr0(here, saved);
  load(here, reservedTtbr0(here));
}

/** TTBR0_EL1 as user mode has it: what waits in thread_info. */
export function enterUserTables(here: ThisCpu): void {
  if (here.mmu instanceof SwPanMmu) load(here, here.mmu.userTables);
}

/** TTBR0_EL1 as kernel code has it that is called. */
export function leaveUserTables(here: ThisCpu): void {
  load(here, reservedTtbr0(here));
}

function reservedTtbr0({ kernel }: ThisCpu): bigint {
  return BigInt(kernel.reserved_pg_dir ?? 0);
}

/**
 * The task's thread_info.ttbr0 gets the tables of its mm. No task_struct is modelled: the lowest words of
 * the task's stack stand in for it.
 */
function update_saved_ttbr0(here: ThisCpu, ttbr: bigint): void {
  const { stack, stackSize } = here.current;
  if (stackSize === 0) return;
  const pa = here.mmu.peek(stack + TSK_TI_TTBR0);
  if (pa < 0) return;
  here.ram.writeU64(pa, ttbr);
  here.cpu.write('sp_el0', stack);
}

function load(here: ThisCpu, ttbr: bigint): void {
  here.cpu.write('ttbr0_el1', ttbr);
  here.mmu.refresh();
  here.cpu.flushTlb();
}

/**
 * On the way into the kernel: PSTATE.PAN is emulated in the saved state, and the user's tables go.
 * @returns what TTBR0_EL1 held
 */
export function swpanEntry(here: ThisCpu, regs: Arm64PtRegs): bigint {
  const ttbr0 = here.cpu.read('ttbr0_el1');
  const enabled = (ttbr0 & TTBR_ASID_MASK) !== 0n;
  if (!regs.user_mode) regs.setPstateBit(PSR_PAN_BIT, !enabled);
  if (enabled) load(here, reservedTtbr0(here));
  return ttbr0;
}

/** On the way back: the tables come again where they were in use. */
export function swpanExit(here: ThisCpu, ttbr0: bigint): void {
  if ((ttbr0 & TTBR_ASID_MASK) !== 0n) load(here, ttbr0);
}

/**
 * The unit of a CPU on which guest code itself writes TTBR0_EL1: user addresses are looked up by what the
 * register holds now. Host code that looks at user memory sees it through the tables of the task.
 */
export class SwPanMmu extends Arm64Mmu {
  /** thread_info.ttbr0 of the task: the tables that the host looks through. */
  userTables = 0n;
  #own: Cpu | null = null;

  override attach(cpu: Cpu, trace: Trace): void {
    super.attach(cpu, trace);
    this.#own = cpu;
  }

  override fill(va: number | bigint, access: AccessCode): number {
    if (va >= 0) this.refresh();
    return super.fill(va, access);
  }

  override peek(va: bigint): number {
    const cpu = this.#own;
    if (cpu === null || this.userTables === 0n || va >= 1n << 56n) return super.peek(va);
    const held = cpu.read('ttbr0_el1');
    cpu.write('ttbr0_el1', this.userTables);
    this.refresh();
    const pa = super.peek(va);
    cpu.write('ttbr0_el1', held);
    this.refresh();
    return pa;
  }
}

/** The unit that a configuration asks for. */
export function createMmu(ram: Ram, config: KernelConfig): Arm64Mmu {
  return system_uses_ttbr0_pan(config) ? new SwPanMmu(ram) : new Arm64Mmu(ram);
}
