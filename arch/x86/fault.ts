/**
 * The page-fault handler: arch/x86/mm/fault.c, bpf-next merge 8496d9020ff3, from its entry to the faults of
 * kernel addresses. The rest of the file: fault-user.ts (user addresses), fault-oops.ts (what nobody
 * resolves), show-fault.ts (text).
 *
 * Left out: 32-bit code, KVM's asynchronous page faults, mmiotrace and kprobes (never active here: their
 * tests are there and say no), and trace events.
 */
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { bad_area_nosemaphore, warnOnOnce } from './fault-oops.js';
import { do_user_addr_fault } from './fault-user.js';
import { mmuOf } from './mmu.js';
import { never } from './never.js';
import {
  entryPa,
  p4d_present,
  pmd_leaf,
  pmd_present,
  pte_exec,
  pte_present,
  pte_write,
  pud_leaf,
  pud_present,
  tablePa,
} from './pgtable.js';
import { TASK_SIZE_MAX } from './processor.js';
import type { X86PtRegs } from './regs.js';
import { is_vsyscall_vaddr } from './vsyscall.js';
import { X86_PF_INSTR, X86_PF_PK, X86_PF_PROT, X86_PF_WRITE } from './walk.js';

/**
 * Where this file warns, as %pS says it. Which function it is follows from the source (spurious_kernel_fault()
 * is never inlined, do_kern_addr_fault() has one caller); offsets and sizes are chosen, as are the lines.
 */
const PK_SITE = 'exc_page_fault+0x1a2/0x1d0';
const PMD_SITE = 'spurious_kernel_fault+0x1a4/0x1b0';

function fault_in_kernel_space(address: bigint): boolean {
  return address >= TASK_SIZE_MAX && !is_vsyscall_vaddr(address);
}

/** `address` is CR2, read before anything else can fault. */
export const exc_page_fault = port(
  'exc_page_fault',
  ['regs', 'error_code'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number): Path<void> {
    const mmu = mmuOf(here);
    const address = mmu.cr2;
    yield* never(here, 'exc_page_fault', 'kvm_handle_async_pf(regs, (u32)address)');
    yield* handle_page_fault(here, regs, error_code, address);
  },
);

export const handle_page_fault = port(
  'handle_page_fault',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    const { trace } = here;
    yield* never(here, 'handle_page_fault', 'kmmio_fault(regs, address)');
    const kernelSpace = fault_in_kernel_space(address);
    if (yield* trace.decide('handle_page_fault', 'fault_in_kernel_space(address)', kernelSpace)) {
      yield* do_kern_addr_fault(here, regs, error_code, address);
    } else {
      yield* do_user_addr_fault(here, regs, error_code, address);
    }
    mmuOf(here).irqsDisabled = true;
  },
);

export const do_kern_addr_fault = port(
  'do_kern_addr_fault',
  ['regs', 'hw_error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, hw_error_code: number, address: bigint): Path<void> {
    const fn = 'do_kern_addr_fault';
    const pk = (hw_error_code & X86_PF_PK) !== 0;
    const site = 'arch/x86/mm/fault.c:1153';
    yield* warnOnOnce(here, fn, 'hw_error_code & X86_PF_PK', pk, site, PK_SITE);
    yield* never(here, fn, 'is_f00f_bug(regs, hw_error_code, address)');
    if (yield* spurious_kernel_fault(here, hw_error_code, address)) return;
    yield* never(here, fn, 'WARN_ON_ONCE(kprobe_page_fault(regs, X86_TRAP_PF))');
    yield* bad_area_nosemaphore(here, regs, hw_error_code, address);
  },
);

function spurious_kernel_fault_check(error_code: number, pte: bigint): boolean {
  if ((error_code & X86_PF_WRITE) !== 0 && !pte_write(pte)) return false;
  if ((error_code & X86_PF_INSTR) !== 0 && !pte_exec(pte)) return false;
  return true;
}

/** Looks at init_mm, not at CR3: a stale TLB entry may have fewer rights than the tables. */
export const spurious_kernel_fault = port(
  'spurious_kernel_fault',
  ['error_code', 'address'],
  function* (here: ThisCpu, error_code: number, address: bigint): Path<boolean> {
    const { trace, ram } = here;
    const fn = 'spurious_kernel_fault';
    const candidate =
      error_code === (X86_PF_WRITE | X86_PF_PROT) || error_code === (X86_PF_INSTR | X86_PF_PROT);
    const other = 'error_code != (X86_PF_WRITE | X86_PF_PROT) && error_code != (X86_PF_INSTR | X86_PF_PROT)';
    if (yield* trace.decide(fn, other, !candidate)) return false;

    const read = (pa: number): bigint => (ram.contains(pa, 8) ? ram.readU64(pa) : 0n);
    // pgd_present() is always true with four levels: the entry is looked at as a P4D.
    const p4d = read(entryPa('p4d', here.kernel.init_mm.pgd, address));
    if (yield* trace.decide(fn, '!p4d_present(*p4d)', !p4d_present(p4d))) return false;
    const pud = read(entryPa('pud', tablePa(p4d), address));
    if (yield* trace.decide(fn, '!pud_present(*pud)', !pud_present(pud))) return false;
    if (yield* trace.decide(fn, 'pud_leaf(*pud)', pud_leaf(pud))) {
      return yield* trace.decide(
        fn,
        'spurious_kernel_fault_check(error_code, (pte_t *) pud)',
        spurious_kernel_fault_check(error_code, pud),
      );
    }
    const pmd = read(entryPa('pmd', tablePa(pud), address));
    if (yield* trace.decide(fn, '!pmd_present(*pmd)', !pmd_present(pmd))) return false;
    const pmdAllows = spurious_kernel_fault_check(error_code, pmd);
    const pmdCheck = 'spurious_kernel_fault_check(error_code, (pte_t *) pmd)';
    if (yield* trace.decide(fn, 'pmd_leaf(*pmd)', pmd_leaf(pmd))) {
      return yield* trace.decide(fn, pmdCheck, pmdAllows);
    }
    const pte = read(entryPa('pte', tablePa(pmd), address));
    if (yield* trace.decide(fn, '!pte_present(*pte)', !pte_present(pte))) return false;
    const allows = spurious_kernel_fault_check(error_code, pte);
    if (!(yield* trace.decide(fn, 'spurious_kernel_fault_check(error_code, pte)', allows))) return false;
    if (
      !(yield* trace.decide(fn, pmdCheck, pmdAllows)) &&
      here.kernel.once('arch/x86/mm/fault.c:spurious_kernel_fault')
    ) {
      const text = 'PMD has incorrect permission bits';
      here.kernel.warn(here, 'arch/x86/mm/fault.c:1060', PMD_SITE, text);
    }
    return pmdAllows;
  },
);
