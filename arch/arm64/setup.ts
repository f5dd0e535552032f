/**
 * Where things are, and the state in which a CPU is after boot.
 *
 * Values as arch/arm64/mm/proc.S (__cpu_setup), include/asm/{memory,sysreg}.h leave them, bpf-next merge
 * 8496d9020ff3: 4 KiB pages, 48-bit addresses, no KASLR, no KASAN, CONFIG_ARM64_MTE=n.
 */
import type { AddressLayout, ThisCpu } from '../arch.js';
import type { mm_struct } from '../kernel.js';
import type { KernelConfig } from '../kernel-config.js';
import { PAGE_OFFSET, system_uses_ttbr0_pan, TASK_SIZE } from './memory.js';
import { mmuOf } from './mmu.js';
import {
  FRAME_META_TYPE_FINAL,
  PSR_I_BIT,
  PSR_MODE_EL0t,
  PSR_MODE_EL1h,
  PSR_PAN_BIT,
  PT_REGS_SIZE,
  S_STACKFRAME,
} from './regs.js';
import { enterUserTables, leaveUserTables, switchUserTables } from './uaccess-ttbr0.js';

export const THREAD_SIZE = 16384;

const PSR_F_BIT = 1n << 6n;

const KIMAGE_VADDR = 0xffff_8000_8000_0000n;
/** Room for the kernel image at the start of the vmalloc area; areas are taken from behind it. */
const KIMAGE_SIZE = 0x100_0000n;
/** The JIT's images come from vmalloc space too; here they have its start, where a bl reaches the image. */
const BPF_SIZE = 0x100_0000n;

export const layout: AddressLayout = {
  physBase: 0x4000_0000,
  directMap: PAGE_OFFSET,
  // VMALLOC_START is KIMAGE_VADDR; the image itself is a vmalloc area of its own.
  vmalloc: { start: KIMAGE_VADDR + KIMAGE_SIZE + BPF_SIZE, end: 0xffff_fdff_bf80_0000n },
  text: { start: KIMAGE_VADDR, end: KIMAGE_VADDR + KIMAGE_SIZE },
  modules: { start: 0xffff_8000_0000_0000n, end: 0xffff_8000_8000_0000n },
  bpf: { start: KIMAGE_VADDR + KIMAGE_SIZE, end: KIMAGE_VADDR + KIMAGE_SIZE + BPF_SIZE },
  user: { start: 0n, end: TASK_SIZE },
  THREAD_SIZE,
  // Twice the size, so that one bit of sp tells an overflow.
  THREAD_ALIGN: 2 * THREAD_SIZE,
  // rodata=full, the default, maps the direct map by pages.
  linearMapHuge: false,
};

const bit = (position: number): bigint => 1n << BigInt(position);

/** INIT_SCTLR_EL1_MMU_ON without SPAN, which cpu_enable_pan() clears. */
const SCTLR_EL1 =
  bit(0) | // M
  bit(2) | // C
  bit(3) | // SA
  bit(4) | // SA0
  bit(8) | // SED
  bit(11) | // EOS
  bit(12) | // I
  bit(14) | // DZE
  bit(15) | // UCT
  bit(18) | // nTWE
  bit(20) | // TSCXT
  bit(21) | // IESB
  bit(22) | // EIS
  bit(26) | // UCI
  bit(28) | // nTLSMD
  bit(29) | // LSMAOE
  bit(37) | // ITFSB
  bit(57); // EPAN
const SCTLR_SPAN = bit(23);

/** T0SZ = T1SZ = 16, 4 KiB granules, write-back inner shareable walks, A1, 16-bit ASIDs, TBI0. */
const TCR_EL1 = 0x30_b550_3510n;
const TCR_HA = bit(39);
const TCR_HD = bit(40);
const TCR_EPD0 = bit(7);
const TCR_E0PD1 = bit(56);
/** 40 bits of physical address: TCR_EL1.IPS = 2. */
const TCR_IPS_40_BITS = 2n << 32n;

/** MT_NORMAL, MT_NORMAL_TAGGED (as NORMAL without MTE), NORMAL_NC, DEVICE_nGnRnE, DEVICE_nGnRE. */
const MAIR_EL1 = 0x0000_0004_0044_ffffn;

/** The exception vectors' place in the kernel image. */
const VBAR_EL1 = KIMAGE_VADDR + 0x800n;

function tcr(config: KernelConfig, userTables: boolean): bigint {
  let value = TCR_EL1 | TCR_IPS_40_BITS;
  if (config.HA) value |= TCR_HA;
  // The dirty state needs the access flag (Arm ARM, D8.4 "Hardware management of the dirty state").
  if (config.HA && config.HD) value |= TCR_HD;
  if (config.E0PD) value |= TCR_E0PD1;
  return userTables ? value : value | TCR_EPD0;
}

/**
 * Points TTBR0 at the tables of `mm`, or of nobody with null or init_mm. An address space identifier
 * keeps TLB entries of other address spaces apart; the engine has none, so its TLB is emptied.
 */
export function switch_mm(here: ThisCpu, mm: mm_struct | null): void {
  const { cpu, kernel } = here;
  const user = mm !== null && mm !== kernel.init_mm;
  const reserved = kernel.reserved_pg_dir;
  cpu.write('ttbr0_el1', BigInt(user ? mm.pgd : (reserved ?? 0)));
  // Without a zero page to stand in for reserved_pg_dir the half is switched off: the same faults.
  cpu.write('tcr_el1', tcr(kernel.config, user || reserved !== undefined));
  here.mmu.refresh();
  cpu.flushTlb();
  if (system_uses_ttbr0_pan(kernel.config)) switchUserTables(here, user ? mm.pgd : null);
}

export function setupCpu(here: ThisCpu, mm: mm_struct): void {
  const { cpu, kernel } = here;
  cpu.write('mair_el1', MAIR_EL1);
  cpu.write('vbar_el1', VBAR_EL1);
  cpu.write('ttbr1_el1', BigInt(kernel.init_mm.pgd));
  cpu.write('sctlr_el1', kernel.config.PAN ? SCTLR_EL1 : SCTLR_EL1 | SCTLR_SPAN);
  switch_mm(here, mm);
  enterKernel(here);
}

/** EL1 with its own stack pointer, PAN as the kernel runs with it, nothing masked. */
function enterKernel(here: ThisCpu): void {
  here.cpu.setPrivilege('kernel');
  here.cpu.write('pstate', here.kernel.config.PAN ? PSR_MODE_EL1h | PSR_PAN_BIT : PSR_MODE_EL1h);
  here.mmu.user = false;
}

/** Stores a word on the kernel stack. */
function push(here: ThisCpu, va: bigint, value: bigint): void {
  const pa = here.mmu.peek(va);
  if (pa < 0) throw new Error(`the kernel stack is not mapped at 0x${va.toString(16)}`);
  here.ram.writeU64(pa, value);
}

/**
 * The task's stack ends in its pt_regs, whose record says that the chain of frames is over, as
 * copy_thread() leaves it for a kernel thread.
 *
 * @returns address of the pt_regs: the highest value that sp may have
 */
function finalRecord(here: ThisCpu): bigint {
  const { stack, stackSize } = here.current;
  const regs = stack + BigInt(stackSize - PT_REGS_SIZE);
  const record = regs + BigInt(S_STACKFRAME);
  push(here, record, 0n);
  push(here, record + 8n, 0n);
  push(here, record + 16n, BigInt(FRAME_META_TYPE_FINAL));
  return regs;
}

export function prepareCall(here: ThisCpu, pc: bigint, stackTop: bigint): void {
  const { cpu } = here;
  const regs = finalRecord(here);
  enterKernel(here);
  if (system_uses_ttbr0_pan(here.kernel.config)) leaveUserTables(here);
  cpu.write('x29', regs + BigInt(S_STACKFRAME));
  cpu.write('x30', cpu.sentinel);
  cpu.write('sp', (stackTop < regs ? stackTop : regs) & ~0xfn);
  cpu.write('pc', pc);
  mmuOf(here).unprivilegedCode.searchAgain();
}

export function prepareUser(here: ThisCpu, pc: bigint, stackTop: bigint): void {
  const { cpu } = here;
  cpu.setPrivilege('user');
  cpu.write('pstate', PSR_MODE_EL0t);
  here.mmu.user = true;
  if (system_uses_ttbr0_pan(here.kernel.config)) enterUserTables(here);
  cpu.write('x29', 0n);
  cpu.write('x30', cpu.sentinel);
  cpu.write('sp', stackTop & ~0xfn);
  cpu.write('pc', pc);
  mmuOf(here).unprivilegedCode.searchAgain();
}

/** See Arch.local_irq_save: the flags are those of DAIF. */
export function local_irq_save(here: ThisCpu): bigint {
  const flags = here.cpu.read('pstate') & (PSR_I_BIT | PSR_F_BIT);
  disableInterrupts(here);
  return flags;
}

export function local_irq_restore({ cpu }: ThisCpu, flags: bigint): void {
  const daif = PSR_I_BIT | PSR_F_BIT;
  cpu.write('pstate', (cpu.read('pstate') & ~daif) | (flags & daif));
}

/** local_irq_disable(): the code that prepareCall() has prepared starts with DAIF.I and DAIF.F set. */
export function disableInterrupts({ cpu }: ThisCpu): void {
  cpu.write('pstate', cpu.read('pstate') | PSR_I_BIT | PSR_F_BIT);
}
