/**
 * What a page fault that nobody can handle prints: the text part of arch/x86/mm/fault.c, bpf-next merge
 * 8496d9020ff3. Left out: pause_on_oops, SEV-SNP's dump of the RMP entry, the file name in a user
 * task's line (VMAs have no files here), signal handlers (every signal counts as unhandled).
 */
import { hex16, u64 } from '../../emu/address.js';
import type { Cpu } from '../../emu/cpu.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_ALERT, KERN_CRIT, KERN_EMERG, KERN_INFO, SIGKILL } from '../kernel.js';
import { __die, oops_begin, oops_end } from './dumpstack.js';
import { lookup_address_in_pgd } from './lookup-address.js';
import { copy_from_kernel_nofault } from './maccess.js';
import { never } from './never.js';
import {
  entryPa,
  p4d_present,
  pmd_leaf,
  pmd_present,
  pte_exec,
  pte_present,
  pud_leaf,
  pud_present,
  tablePa,
} from './pgtable.js';
import { _PAGE_USER } from './pgtable-types.js';
import { X86_CR4_SMEP } from './processor.js';
import { printk_ratelimit } from './ratelimit.js';
import type { X86PtRegs } from './regs.js';
import { show_opcodes } from './show-regs.js';
import {
  X86_PF_INSTR,
  X86_PF_PK,
  X86_PF_PROT,
  X86_PF_RMP,
  X86_PF_RSVD,
  X86_PF_USER,
  X86_PF_WRITE,
} from './walk.js';

/** The root table the CPU uses: read_cr3_pa(). */
function read_cr3_pa(cpu: Cpu): number {
  return Number(cpu.read('cr3') & 0x000f_ffff_ffff_f000n);
}

/** `PGD … P4D … PUD … PMD … PTE …` of the tables in CR3; `BAD` on a line of its own for an unreadable table. */
function dump_pagetable(here: ThisCpu, address: bigint): void {
  for (const line of pagetableLines(here, address)) here.kernel.printk(here, KERN_INFO, line);
}

/** An entry as bad_address() and the dump read it: through the direct map, ready for a page that is not there. */
function readEntry(here: ThisCpu, pa: number): bigint | null {
  const bytes = copy_from_kernel_nofault(here, u64(here.arch.layout.directMap + BigInt(pa)), 8);
  return bytes === null ? null : new DataView(bytes.buffer).getBigUint64(0, true);
}

function pagetableLines(here: ThisCpu, address: bigint): string[] {
  const pgd = readEntry(here, entryPa('pgd', read_cr3_pa(here.cpu), address));
  if (pgd === null) return ['BAD'];
  // pgd_present() is always true with four levels, and the P4D is the same entry again.
  let line = `PGD ${pgd.toString(16)} P4D ${pgd.toString(16)} `;
  if (!p4d_present(pgd)) return [line];

  const pud = readEntry(here, entryPa('pud', tablePa(pgd), address));
  if (pud === null) return [line, 'BAD'];
  line += `PUD ${pud.toString(16)} `;
  if (!pud_present(pud) || pud_leaf(pud)) return [line];

  const pmd = readEntry(here, entryPa('pmd', tablePa(pud), address));
  if (pmd === null) return [line, 'BAD'];
  line += `PMD ${pmd.toString(16)} `;
  if (!pmd_present(pmd) || pmd_leaf(pmd)) return [line];

  const pte = readEntry(here, entryPa('pte', tablePa(pmd), address));
  if (pte === null) return [line, 'BAD'];
  return [`${line}PTE ${pte.toString(16)}`];
}

export const show_fault_oops = port(
  'show_fault_oops',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    const { kernel, trace, current } = here;
    const has = (bit: number): boolean => (error_code & bit) !== 0;
    const fn = 'show_fault_oops';
    const alert = (text: string): void => kernel.printk(here, KERN_ALERT, text);

    yield* never(here, fn, '!oops_may_print()');
    if (yield* trace.decide(fn, 'error_code & X86_PF_INSTR', has(X86_PF_INSTR))) {
      const found = lookup_address_in_pgd(here, read_cr3_pa(here.cpu), address);
      const present = found !== null && pte_present(found.entry);
      const nx = found !== null && (found.nx || !pte_exec(found.entry));
      const smep = (here.cpu.read('cr4') & X86_CR4_SMEP) !== 0n;
      if (yield* trace.decide(fn, 'pte && pte_present(*pte) && (!pte_exec(*pte) || nx)', present && nx)) {
        const text = `kernel tried to execute NX-protected page - exploit attempt? (uid: ${current.uid})`;
        kernel.printk(here, KERN_CRIT, text);
      }
      const userCode = present && !nx && (found.pgd & _PAGE_USER) !== 0n && smep;
      const test =
        'pte && pte_present(*pte) && pte_exec(*pte) && !nx && (pgd_flags(*pgd) & _PAGE_USER) && (__read_cr4() & X86_CR4_SMEP)';
      if (yield* trace.decide(fn, test, userCode)) {
        kernel.printk(here, KERN_CRIT, `unable to execute userspace code (SMEP?) (uid: ${current.uid})`);
      }
    }

    const nullPointer = address < 4096n && !regs.user_mode;
    if (yield* trace.decide(fn, 'address < PAGE_SIZE && !user_mode(regs)', nullPointer)) {
      alert(`BUG: kernel NULL pointer dereference, address: ${hex16(address)}`);
    } else {
      alert(`BUG: unable to handle page fault for address: ${hex16(address)}`);
    }
    const who = has(X86_PF_USER) ? 'user' : 'supervisor';
    const what = has(X86_PF_INSTR) ? 'instruction fetch' : has(X86_PF_WRITE) ? 'write access' : 'read access';
    alert(`#PF: ${who} ${what} in ${regs.user_mode ? 'user' : 'kernel'} mode`);
    alert(`#PF: error_code(0x${(error_code >>> 0).toString(16).padStart(4, '0')}) - ${reason(error_code)}`);
    const implicit = !has(X86_PF_USER) && regs.user_mode;
    if (yield* trace.decide(fn, '!(error_code & X86_PF_USER) && user_mode(regs)', implicit)) {
      showTables(here, alert);
    }
    dump_pagetable(here, address);
  },
);

function reason(error_code: number): string {
  if ((error_code & X86_PF_PROT) === 0) return 'not-present page';
  if ((error_code & X86_PF_RSVD) !== 0) return 'reserved bit violation';
  if ((error_code & X86_PF_PK) !== 0) return 'protection keys violation';
  if ((error_code & X86_PF_RMP) !== 0) return 'RMP violation';
  return 'permissions violation';
}

/** An implicit access from user mode is one to a descriptor table. */
function showTables(here: ThisCpu, alert: (text: string) => void): void {
  const { cpu } = here;
  const table = (name: string): string => {
    const base = cpu.read(`${name}_base`).toString(16);
    return `0x${base} (limit=0x${(cpu.read(`${name}_limit`) & 0xffffn).toString(16)})`;
  };
  alert(`IDT: ${table('idtr')} GDT: ${table('gdtr')}`);
  alert(ldttss(here, 'LDTR', cpu.read('ldtr')));
  alert(ldttss(here, 'TR', cpu.read('tr')));
}

/** sizeof(struct ldttss_desc), of which a selector counts the halves. */
const LDTTSS_DESC_SIZE = 16;

/** show_ldttss(): what the GDT says about a system segment. The limit stays as it is, without granularity. */
function ldttss(here: ThisCpu, name: string, selector: bigint): string {
  const { cpu } = here;
  const index = selector & 0xffffn;
  if (index === 0n) return `${name}: NULL`;
  const line = `${name}: 0x${index.toString(16)} --`;
  const offset = (index >> 3n) * 8n;
  if (offset + BigInt(LDTTSS_DESC_SIZE) >= (cpu.read('gdtr_limit') & 0xffffn)) return `${line} out of bounds`;
  const at = u64(cpu.read('gdtr_base') + offset);
  const bytes = copy_from_kernel_nofault(here, at, LDTTSS_DESC_SIZE);
  if (bytes === null) return `${line} GDT entry is not readable`;
  const view = new DataView(bytes.buffer);
  const low = view.getUint16(2, true) | (view.getUint8(4) << 16);
  const base = BigInt(low) | (BigInt(view.getUint8(7)) << 24n) | (BigInt(view.getUint32(8, true)) << 32n);
  const limit = view.getUint16(0, true) | ((view.getUint8(6) & 0xf) << 16);
  return `${line} base=0x${base.toString(16)} limit=0x${limit.toString(16)}`;
}

/** A reserved bit in the tables of user space: an oops of its own kind. */
export const pgtable_bad = port(
  'pgtable_bad',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    const flags = oops_begin(here);
    const { comm } = here.current;
    const text = `${comm}: Corrupted page table at address ${address.toString(16)}`;
    here.kernel.printk(here, KERN_ALERT, text);
    dump_pagetable(here, address);
    const sig = (yield* __die(here, 'Bad pagetable', regs, error_code)) ? 0 : SIGKILL;
    yield* oops_end(here, flags, regs, sig);
  },
);

/** Sysctl debug.exception-trace; x86 says what happens to a task unless told not to. */
export function show_unhandled_signals(here: ThisCpu): boolean {
  return here.kernel.config.show_unhandled_signals ?? true;
}

/** The line about a user task that gets SIGSEGV, and its Code line. */
export function show_signal_msg(here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): void {
  if (!here.kernel.unhandled_signal(here.current) || !printk_ratelimit(here, 'show_signal_msg')) return;
  const { comm, pid } = here.current;
  const level = pid > 1 ? KERN_INFO : KERN_EMERG;
  const cpu = here.cpu.id;
  const line =
    `${comm}[${pid}]: segfault at ${address.toString(16)} ip ${hex16(regs.ip)} sp ${hex16(regs.sp)}` +
    ` error ${(error_code >>> 0).toString(16)} likely on CPU ${cpu} (core ${cpu}, socket 0)`;
  here.kernel.printk(here, level, line);
  show_opcodes(here, regs, level);
}
