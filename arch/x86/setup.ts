/**
 * The state of a CPU after boot, and where things are: Documentation/arch/x86/x86_64/mm.rst, KASLR off,
 * four levels, a kernel image area of 1 GiB.
 */
import type { Privilege } from '../../emu/cpu.js';
import type { AddressLayout, ThisCpu } from '../arch.js';
import type { mm_struct } from '../kernel.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import { TASK_SIZE_MAX, X86_CR4_PKE, X86_CR4_SMAP, X86_CR4_SMEP } from './processor.js';
import { X86_EFLAGS_IF } from './regs.js';
import { set_task_stack_end_magic, VMALLOC_END, VMALLOC_START } from './stack-guard.js';

export const layout: AddressLayout = {
  physBase: 0,
  directMap: 0xffff_8880_0000_0000n,
  vmalloc: { start: VMALLOC_START, end: VMALLOC_END + 1n },
  text: { start: 0xffff_ffff_8100_0000n, end: 0xffff_ffff_c000_0000n },
  modules: { start: 0xffff_ffff_c000_0000n, end: 0xffff_ffff_ff00_0000n },
  // The JIT's images live among the modules.
  bpf: { start: 0xffff_ffff_c000_0000n, end: 0xffff_ffff_ff00_0000n },
  user: { start: 0n, end: TASK_SIZE_MAX },
  THREAD_SIZE: 16384,
  THREAD_ALIGN: 16384,
  linearMapHuge: true,
};

/** PE, MP, ET, NE, WP, AM, PG. */
const CR0 = 0x8005_0033n;
/** PSE, PAE, MCE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE. */
const CR4 = 0x506f0n;
/** SCE, LME, LMA, NXE. */
const EFER = 0xd01n;
/** Bit 1 is always set; interrupts are enabled. */
const RFLAGS_KERNEL = 0x202n;

/** Brings a CPU into kernel mode on the tables of `mm`. */
export function setupCpu(here: ThisCpu, mm: mm_struct): void {
  const { cpu, mmu, kernel } = here;
  const { SMEP, SMAP, PKE } = kernel.config;
  cpu.setPrivilege('kernel');
  mmu.user = false;
  const features = (SMEP ? X86_CR4_SMEP : 0n) | (SMAP ? X86_CR4_SMAP : 0n) | (PKE ? X86_CR4_PKE : 0n);
  cpu.write('cr4', CR4 | features);
  cpu.write('efer', EFER);
  cpu.write('cr3', BigInt(mm.pgd));
  cpu.write('cr0', CR0);
  cpu.write('cr2', 0n);
  cpu.write('rflags', RFLAGS_KERNEL);
  // The per-CPU area; nothing is kept in it.
  cpu.write('gs_base', layout.directMap);
  mmuOf(here).irqsDisabled = false;
  mmu.refresh();
  flushAll(here, 'setupCpu');
}

/** load_new_mm_cr3(): the new tables, and of the TLB only global translations; PCID is not used. */
export function switch_mm(here: ThisCpu, mm: mm_struct | null): void {
  const { cpu, trace } = here;
  cpu.write('cr3', BigInt((mm ?? here.kernel.init_mm).pgd));
  here.mmu.refresh();
  cpu.flushTlb();
  mmuOf(here).loadedCr3();
  trace.emit({ type: 'tlb-flush', cpu: trace.cpu, va: null, by: 'switch_mm' });
}

/** After control registers were written that change what a translation means: global ones go too. */
function flushAll(here: ThisCpu, by: string): void {
  const { cpu, mmu, trace } = here;
  cpu.flushTlb();
  mmu.unpin(null);
  trace.emit({ type: 'tlb-flush', cpu: trace.cpu, va: null, by });
}

/** What the entry from user mode and the exit to it do with the two bases of GS. */
function swapgs({ cpu }: ThisCpu, to: Privilege): void {
  if (cpu.privilege() === to) return;
  const base = cpu.read('gs_base');
  cpu.write('gs_base', cpu.read('kernel_gs_base'));
  cpu.write('kernel_gs_base', base);
}

/** The task's PKRU comes into force when it runs; that guest code changes it is not seen. */
function loadPkru(here: ThisCpu): void {
  if (here.kernel.config.PKE) mmuOf(here).pkru = machineOf(here).thread(here.current).pkru;
}

/** A stack that cannot take what a call from the host needs. */
export class StackError extends Error {
  override name = 'StackError';
}

/**
 * As if kernel code had executed `call pc` with RSP = stackTop, at the end of which the sentinel stands.
 * RBP is 0, where a chain of frame pointers ends. All other registers stay.
 * @throws StackError when the stack is not mapped
 */
export function prepareCall(here: ThisCpu, pc: bigint, stackTop: bigint): void {
  const { cpu, mmu, ram } = here;
  const rsp = stackTop - 8n;
  const pa = mmu.peek(rsp);
  if (pa < 0 || rsp % 8n !== 0n) {
    throw new StackError(`no return address can be put at 0x${rsp.toString(16)}: no mapped, aligned stack`);
  }
  swapgs(here, 'kernel');
  loadPkru(here);
  cpu.setPrivilege('kernel');
  mmu.user = false;
  mmuOf(here).irqsDisabled = false;
  set_task_stack_end_magic(here);
  ram.writeU64(pa, cpu.sentinel);
  cpu.write('rflags', RFLAGS_KERNEL);
  cpu.write('rsp', rsp);
  cpu.write('rbp', 0n);
  cpu.write('rip', pc);
}

/**
 * As after the exit to user mode, in a function that was called with RSP = stackTop: the sentinel stands at
 * the top of the stack, and returning to it ends the run. Where no stack is mapped nothing is stored, and
 * the function can only end by an exception.
 */
export function prepareUser(here: ThisCpu, pc: bigint, stackTop: bigint): void {
  const { cpu, mmu, ram } = here;
  const rsp = stackTop - 8n;
  const pa = rsp % 8n === 0n ? mmu.peek(rsp) : -1;
  if (pa >= 0) ram.writeU64(pa, cpu.sentinel);
  swapgs(here, 'user');
  loadPkru(here);
  cpu.setPrivilege('user');
  mmu.user = true;
  mmuOf(here).irqsDisabled = false;
  set_task_stack_end_magic(here);
  cpu.write('rflags', RFLAGS_KERNEL);
  cpu.write('rsp', pa >= 0 ? rsp : stackTop);
  cpu.write('rip', pc);
}

/** See Arch.local_irq_save: the flags are those of RFLAGS. */
export function local_irq_save(here: ThisCpu): bigint {
  const flags = here.cpu.read('rflags');
  disableInterrupts(here);
  return flags;
}

export function local_irq_restore(here: ThisCpu, flags: bigint): void {
  const { cpu } = here;
  cpu.write('rflags', (cpu.read('rflags') & ~X86_EFLAGS_IF) | (flags & X86_EFLAGS_IF));
  mmuOf(here).irqsDisabled = (flags & X86_EFLAGS_IF) === 0n;
}

/** local_irq_disable(): the code that prepareCall() has prepared starts with IF=0. */
export function disableInterrupts(here: ThisCpu): void {
  const { cpu } = here;
  cpu.write('rflags', cpu.read('rflags') & ~X86_EFLAGS_IF);
  mmuOf(here).irqsDisabled = true;
}
