/**
 * Exception-table fixups, port of arch/x86/mm/extable.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: EX_TYPE_FPU_RESTORE's reset of the FPU, EX_TYPE_ERETU (FRED), early_fixup_exception(), and the
 * stack dump behind "unchecked MSR access error".
 */
import { u64 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { type ExtableHit, KERN_WARNING } from '../kernel.js';
import { BUG } from './bug.js';
import {
  ARENA_ACCESS,
  ARENA_REG_SHIFT,
  DONT_CLEAR,
  EX_DATA_IMM_SHIFT,
  EX_DATA_REG_SHIFT,
  EX_FLAG_CLEAR_AX,
  EX_FLAG_CLEAR_DX,
  EX_TYPE,
  exTypeName,
} from './extable-format.js';
import { registersOf } from './instruction-at.js';
import { mmuOf } from './mmu.js';
import { ENCODED_REGISTERS, regsOffset, type X86PtRegs } from './regs.js';

/** Exception vectors, arch/x86/include/asm/trapnr.h. */
export const X86_TRAP_DF = 8;
export const X86_TRAP_SS = 12;
export const X86_TRAP_GP = 13;
export const X86_TRAP_PF = 14;

/** TASK_SIZE_MAX with four levels: 2^47 - 4096. */
export const TASK_SIZE_MAX = 0x7fff_ffff_f000n;
const SGX_ENCLS_FAULT_FLAG = 0x4000_0000n;

/** Offset of sp in pt_regs. */
const SP_OFFSET = 152;

/** struct exception_table_entry, read from ram. */
interface ExceptionTableEntry {
  readonly va: bigint;
  /** The three signed words; `fixup` is relative to its own place, except in EX_TYPE_BPF. */
  readonly fixup: number;
  readonly data: number;
}

function readEntry(here: ThisCpu, hit: ExtableHit): ExceptionTableEntry {
  const { words32, base } = here.ram;
  const word = (hit.pa - base) / 4;
  return { va: hit.va, fixup: (words32[word + 1] ?? 0) | 0, data: (words32[word + 2] ?? 0) | 0 };
}

function ex_fixup_addr(e: ExceptionTableEntry): bigint {
  return u64(e.va + 4n + BigInt(e.fixup));
}

/** FIELD_GET(EX_DATA_IMM_MASK, data), signed. */
function ex_imm(e: ExceptionTableEntry): number {
  return e.data >> EX_DATA_IMM_SHIFT;
}

/** Offset in pt_regs of the register that the entry names. */
function ex_reg(e: ExceptionTableEntry): number {
  return regsOffset(ENCODED_REGISTERS[(e.data >>> EX_DATA_REG_SHIFT) & 0xf] ?? '') ?? SP_OFFSET;
}

function ex_handler_default(e: ExceptionTableEntry, regs: X86PtRegs): boolean {
  if ((e.data & EX_FLAG_CLEAR_AX) !== 0) regs.ax = 0n;
  if ((e.data & EX_FLAG_CLEAR_DX) !== 0) regs.dx = 0n;
  regs.ip = ex_fixup_addr(e);
  return true;
}

function ex_handler_fault(e: ExceptionTableEntry, regs: X86PtRegs, trapnr: number): boolean {
  regs.ax = BigInt(trapnr);
  return ex_handler_default(e, regs);
}

function ex_handler_sgx(e: ExceptionTableEntry, regs: X86PtRegs, trapnr: number): boolean {
  regs.ax = BigInt(trapnr) | SGX_ENCLS_FAULT_FLAG;
  return ex_handler_default(e, regs);
}

function ex_handler_imm_reg(e: ExceptionTableEntry, regs: X86PtRegs): boolean {
  regs.setAtOffset(ex_reg(e), BigInt(ex_imm(e)));
  return ex_handler_default(e, regs);
}

/** valid_user_address(): up to USER_PTR_MAX. */
function valid_user_address(address: bigint): boolean {
  return address <= TASK_SIZE_MAX;
}

function gp_fault_address_ok(fault_address: bigint): boolean {
  return valid_user_address(fault_address) || valid_user_address(u64(fault_address - 4096n));
}

function ex_handler_uaccess(
  here: ThisCpu,
  e: ExceptionTableEntry,
  regs: X86PtRegs,
  trapnr: number,
  fault_address: bigint,
): boolean {
  if (trapnr === X86_TRAP_GP && !gp_fault_address_ok(fault_address)) {
    const site = 'arch/x86/mm/extable.c:ex_handler_uaccess';
    if (here.kernel.once(site)) {
      const text = 'General protection fault in user access. Non-canonical address?';
      here.kernel.warn(here, 'arch/x86/mm/extable.c:126', 'fixup_exception+0x2b0/0x310', text);
    }
  }
  return ex_handler_default(e, regs);
}

function ex_handler_ucopy_len(
  here: ThisCpu,
  e: ExceptionTableEntry,
  regs: X86PtRegs,
  trapnr: number,
  fault_address: bigint,
): boolean {
  regs.cx = BigInt(ex_imm(e)) * regs.cx + regs.atOffset(ex_reg(e));
  return ex_handler_uaccess(here, e, regs, trapnr, fault_address);
}

function ex_handler_clear_fs(here: ThisCpu, e: ExceptionTableEntry, regs: X86PtRegs): boolean {
  // Selectors are 0 all the time; what the null selector leaves is the base.
  here.cpu.write('fs_base', 0n);
  return ex_handler_default(e, regs);
}

function ex_handler_msr(
  here: ThisCpu,
  e: ExceptionTableEntry,
  regs: X86PtRegs,
  { wrmsr, safe }: { readonly wrmsr: boolean; readonly safe: boolean },
): boolean {
  const { kernel } = here;
  if (!safe && kernel.once(`arch/x86/mm/extable.c:ex_handler_msr ${wrmsr ? 'WRMSR' : 'RDMSR'}`)) {
    const low32 = (value: bigint): bigint => value & 0xffff_ffffn;
    const hex8 = (value: bigint): string => low32(value).toString(16).padStart(8, '0');
    const at = `at rIP: 0x${regs.ip.toString(16)} (${kernel.sprint_symbol(regs.ip)})`;
    const msr = `0x${low32(regs.cx).toString(16)}`;
    kernel.printk(
      here,
      KERN_WARNING,
      wrmsr
        ? `unchecked MSR access error: WRMSR to ${msr} (tried to write 0x${hex8(regs.dx)}${hex8(regs.ax)}) ${at}`
        : `unchecked MSR access error: RDMSR from ${msr} ${at}`,
    );
  }
  if (!wrmsr) {
    regs.ax = 0n;
    regs.dx = 0n;
  }
  if (safe) regs.setAtOffset(ex_reg(e), -5n);
  return ex_handler_default(e, regs);
}

/** load_unaligned_zeropad(): the load crossed into a page that is not there; what is beyond reads as 0. */
function ex_handler_zeropad(
  here: ThisCpu,
  e: ExceptionTableEntry,
  regs: X86PtRegs,
  fault_addr: bigint,
): boolean {
  const len = u64(ex_fixup_addr(e) - regs.ip);
  if (len > 15n) return false;
  const mmu = mmuOf(here);
  const insn = mmu.faulting.at(regs.ipSigned);
  if (insn === null || BigInt(insn.length) !== len) return false;
  const operand = insn.mnemonic === 'mov' ? insn.memory[0] : undefined;
  if (operand === undefined || operand.access !== 'read' || operand.size !== 8) return false;
  const address = operand.address(registersOf(here, regs));
  const offset = address & 7n;
  const aligned = address & ~7n;
  if (fault_addr !== aligned + 8n) return false;
  const pa = mmu.peek(aligned);
  if (pa < 0) return false;
  regs.setAtOffset(ex_reg(e), here.ram.readU64(pa) >> (8n * offset));
  return ex_handler_default(e, regs);
}

/** arch/x86/net/bpf_jit_comp.c: `fixup` is no address here but says what to do. */
export const ex_handler_bpf = port(
  'ex_handler_bpf',
  ['x', 'regs'],
  function* (here: ThisCpu, x: ExceptionTableEntry, regs: X86PtRegs): Path<boolean> {
    const reg = (x.fixup >>> 8) & 0xff;
    const insn_len = x.fixup & 0xff;
    const is_arena = (x.fixup & ARENA_ACCESS) !== 0;
    const is_write = reg === DONT_CLEAR;
    if (yield* here.trace.decide('ex_handler_bpf', 'x->fixup & FIXUP_ARENA_ACCESS', is_arena)) {
      const arena_reg = (x.fixup >>> ARENA_REG_SHIFT) & 0xff;
      const addr = u64(regs.atOffset(arena_reg) + BigInt(ex_imm(x)));
      yield* here.kernel.bpf_prog_report_arena_violation(here, is_write, addr, regs.ip);
    }
    if (!(yield* here.trace.decide('ex_handler_bpf', 'reg == DONT_CLEAR', is_write))) {
      regs.setAtOffset(reg, 0n);
    }
    regs.ip = u64(regs.ip + BigInt(insn_len));
    return true;
  },
);

export const fixup_exception = port(
  'fixup_exception',
  ['regs', 'trapnr', 'error_code', 'fault_addr'],
  function* (
    here: ThisCpu,
    regs: X86PtRegs,
    trapnr: number,
    _error_code: number,
    fault_addr: bigint,
  ): Path<boolean> {
    const { trace } = here;
    const hit = here.kernel.search_exception_tables(regs.ip);
    yield* trace.decide('fixup_exception', 'search_exception_tables(regs->ip)', hit !== null);
    if (hit === null) return false;
    const e = readEntry(here, hit);
    const type = e.data & 0xff;
    yield* trace.decide('fixup_exception', 'FIELD_GET(EX_DATA_TYPE_MASK, e->data)', exTypeName(type));
    switch (type) {
      case EX_TYPE.DEFAULT:
      case EX_TYPE.DEFAULT_MCE_SAFE:
        return ex_handler_default(e, regs);
      case EX_TYPE.FAULT:
      case EX_TYPE.FAULT_MCE_SAFE:
        return ex_handler_fault(e, regs, trapnr);
      case EX_TYPE.UACCESS:
        return ex_handler_uaccess(here, e, regs, trapnr, fault_addr);
      case EX_TYPE.CLEAR_FS:
        return ex_handler_clear_fs(here, e, regs);
      case EX_TYPE.FPU_RESTORE: {
        const site = 'arch/x86/mm/extable.c:ex_handler_fprestore';
        if (here.kernel.once(site)) {
          const at = here.kernel.sprint_backtrace(regs.ip);
          const text = `Bad FPU state detected at ${at}, reinitializing FPU registers.`;
          here.kernel.warn(here, 'arch/x86/mm/extable.c:98', 'fixup_exception+0x270/0x310', text);
        }
        return ex_handler_default(e, regs);
      }
      case EX_TYPE.BPF:
        return yield* ex_handler_bpf(here, e, regs);
      case EX_TYPE.WRMSR:
        return ex_handler_msr(here, e, regs, { wrmsr: true, safe: false });
      case EX_TYPE.RDMSR:
        return ex_handler_msr(here, e, regs, { wrmsr: false, safe: false });
      case EX_TYPE.WRMSR_SAFE:
        return ex_handler_msr(here, e, regs, { wrmsr: true, safe: true });
      case EX_TYPE.RDMSR_SAFE:
        return ex_handler_msr(here, e, regs, { wrmsr: false, safe: true });
      case EX_TYPE.WRMSR_IN_MCE:
      case EX_TYPE.RDMSR_IN_MCE:
        return here.kernel.panic(here, 'MCA architectural violation!');
      case EX_TYPE.POP_REG:
        regs.sp = u64(regs.sp + 8n);
        return ex_handler_imm_reg(e, regs);
      case EX_TYPE.IMM_REG:
        return ex_handler_imm_reg(e, regs);
      case EX_TYPE.FAULT_SGX:
        return ex_handler_sgx(e, regs, trapnr);
      case EX_TYPE.UCOPY_LEN:
        return ex_handler_ucopy_len(here, e, regs, trapnr, fault_addr);
      case EX_TYPE.ZEROPAD:
        return ex_handler_zeropad(here, e, regs, fault_addr);
      default:
        return BUG('fixup_exception', `exception-table entry of type ${exTypeName(type)}`, regs.ip);
    }
  },
);
