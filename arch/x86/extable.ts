/**
 * Exception-table fixups, port of arch/x86/mm/extable.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: EX_TYPE_FPU_RESTORE's reset of the FPU and early_fixup_exception().
 */
import { u64 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { type ExtableHit, KERN_DEFAULT, KERN_EMERG, KERN_WARNING } from '../kernel.js';
import { BUG } from './bug.js';
import {
  ARENA_ACCESS,
  ARENA_REG_SHIFT,
  ARENA_WRITE,
  DONT_CLEAR,
  EX_DATA_IMM_SHIFT,
  EX_DATA_REG_SHIFT,
  EX_FLAG_CLEAR_AX,
  EX_FLAG_CLEAR_DX,
  EX_TYPE,
  exTypeName,
} from './extable-format.js';
import { insn_decode_kernel, insn_get_addr_ref, insn_get_modrm_reg } from './insn-eval.js';
import { registersOf } from './instruction-at.js';
import { copy_from_kernel_nofault } from './maccess.js';
import { mmuOf } from './mmu.js';
import { TASK_SIZE_MAX, X86_TRAP_GP } from './processor.js';
import { ENCODED_REGISTERS, regsOffset, type X86PtRegs } from './regs.js';
import { show_trace_log_lvl } from './show-trace.js';

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

/** FIELD_GET(EX_DATA_REG_MASK, data): the register that the entry names, as instructions encode it. */
function ex_reg(e: ExceptionTableEntry): number {
  return (e.data >>> EX_DATA_REG_SHIFT) & 0xf;
}

/** pt_regs_offset(): where the encoded registers lie in pt_regs; instructions of programs do not name sp. */
const REG_OFFSETS = ENCODED_REGISTERS.map((name) => regsOffset(name) ?? SP_OFFSET);

function regOffset(reg: number): number {
  return REG_OFFSETS[reg] ?? SP_OFFSET;
}

const ex_handler_default = port(
  'ex_handler_default',
  ['e', 'regs'],
  function* (here: ThisCpu, e: ExceptionTableEntry, regs: X86PtRegs): Path<boolean> {
    const { trace } = here;
    const fn = 'ex_handler_default';
    const clearAx = (e.data & EX_FLAG_CLEAR_AX) !== 0;
    if (yield* trace.decide(fn, 'e->data & EX_FLAG_CLEAR_AX', clearAx)) regs.ax = 0n;
    const clearDx = (e.data & EX_FLAG_CLEAR_DX) !== 0;
    if (yield* trace.decide(fn, 'e->data & EX_FLAG_CLEAR_DX', clearDx)) regs.dx = 0n;
    regs.ip = ex_fixup_addr(e);
    return true;
  },
);

const ex_handler_fault = port(
  'ex_handler_fault',
  ['fixup', 'regs', 'trapnr'],
  function* (here: ThisCpu, e: ExceptionTableEntry, regs: X86PtRegs, trapnr: number): Path<boolean> {
    regs.ax = BigInt(trapnr);
    return yield* ex_handler_default(here, e, regs);
  },
);

const ex_handler_sgx = port(
  'ex_handler_sgx',
  ['fixup', 'regs', 'trapnr'],
  function* (here: ThisCpu, e: ExceptionTableEntry, regs: X86PtRegs, trapnr: number): Path<boolean> {
    regs.ax = BigInt(trapnr) | SGX_ENCLS_FAULT_FLAG;
    return yield* ex_handler_default(here, e, regs);
  },
);

const ex_handler_imm_reg = port(
  'ex_handler_imm_reg',
  ['fixup', 'regs', 'reg', 'imm'],
  function* (
    here: ThisCpu,
    e: ExceptionTableEntry,
    regs: X86PtRegs,
    reg: number,
    imm: number,
  ): Path<boolean> {
    regs.setAtOffset(regOffset(reg), BigInt(imm));
    return yield* ex_handler_default(here, e, regs);
  },
);

const ex_handler_fprestore = port(
  'ex_handler_fprestore',
  ['fixup', 'regs'],
  function* (here: ThisCpu, e: ExceptionTableEntry, regs: X86PtRegs): Path<boolean> {
    if (here.kernel.once('arch/x86/mm/extable.c:ex_handler_fprestore')) {
      const at = here.kernel.sprint_backtrace(regs.ip);
      const text = `Bad FPU state detected at ${at}, reinitializing FPU registers.`;
      here.kernel.warn(here, 'arch/x86/mm/extable.c:98', 'fixup_exception+0x270/0x310', text);
    }
    return yield* ex_handler_default(here, e, regs);
  },
);

/** valid_user_address(): up to USER_PTR_MAX. */
function valid_user_address(address: bigint): boolean {
  return address <= TASK_SIZE_MAX;
}

function gp_fault_address_ok(fault_address: bigint): boolean {
  return valid_user_address(fault_address) || valid_user_address(u64(fault_address - 4096n));
}

const ex_handler_uaccess = port(
  'ex_handler_uaccess',
  ['fixup', 'regs', 'trapnr', 'fault_address'],
  function* (
    here: ThisCpu,
    e: ExceptionTableEntry,
    regs: X86PtRegs,
    trapnr: number,
    fault_address: bigint,
  ): Path<boolean> {
    const { trace, kernel } = here;
    const bad = trapnr === X86_TRAP_GP && !gp_fault_address_ok(fault_address);
    const test = 'trapnr == X86_TRAP_GP && !gp_fault_address_ok(fault_address)';
    if (yield* trace.decide('ex_handler_uaccess', `WARN_ONCE(${test})`, bad)) {
      if (kernel.once('arch/x86/mm/extable.c:ex_handler_uaccess')) {
        const text = 'General protection fault in user access. Non-canonical address?';
        kernel.warn(here, 'arch/x86/mm/extable.c:126', 'fixup_exception+0x2b0/0x310', text);
      }
    }
    return yield* ex_handler_default(here, e, regs);
  },
);

const ex_handler_ucopy_len = port(
  'ex_handler_ucopy_len',
  ['fixup', 'regs', 'trapnr', 'fault_address', 'reg', 'imm'],
  function* (
    here: ThisCpu,
    e: ExceptionTableEntry,
    regs: X86PtRegs,
    trapnr: number,
    fault_address: bigint,
    reg: number,
    imm: number,
  ): Path<boolean> {
    regs.cx = BigInt(imm) * regs.cx + regs.atOffset(regOffset(reg));
    return yield* ex_handler_uaccess(here, e, regs, trapnr, fault_address);
  },
);

const ex_handler_clear_fs = port(
  'ex_handler_clear_fs',
  ['fixup', 'regs'],
  function* (here: ThisCpu, e: ExceptionTableEntry, regs: X86PtRegs): Path<boolean> {
    // Selectors are 0 all the time; what the null selector leaves is the base.
    here.cpu.write('fs_base', 0n);
    return yield* ex_handler_default(here, e, regs);
  },
);

const ex_handler_msr = port(
  'ex_handler_msr',
  ['fixup', 'regs', 'wrmsr', 'safe', 'reg'],
  function* (
    here: ThisCpu,
    e: ExceptionTableEntry,
    regs: X86PtRegs,
    wrmsr: boolean,
    safe: boolean,
    reg: number,
  ): Path<boolean> {
    if (!safe) uncheckedMsrAccess(here, regs, wrmsr);
    if (!wrmsr) {
      regs.ax = 0n;
      regs.dx = 0n;
    }
    if (safe) regs.setAtOffset(regOffset(reg), -5n);
    return yield* ex_handler_default(here, e, regs);
  },
);

/** The message about an access that nobody guards, once for each direction. */
function uncheckedMsrAccess(here: ThisCpu, regs: X86PtRegs, wrmsr: boolean): void {
  const { kernel } = here;
  if (!kernel.once(`arch/x86/mm/extable.c:ex_handler_msr ${wrmsr ? 'WRMSR' : 'RDMSR'}`)) return;
  kernel.printk(here, KERN_WARNING, `unchecked MSR access error: ${msrAccess(here, regs, wrmsr)}`);
  show_stack_regs(here, regs);
}

function msrAccess({ kernel }: ThisCpu, regs: X86PtRegs, wrmsr: boolean): string {
  const low32 = (value: bigint): bigint => value & 0xffff_ffffn;
  const hex8 = (value: bigint): string => low32(value).toString(16).padStart(8, '0');
  const at = `at rIP: 0x${regs.ip.toString(16)} (${kernel.sprint_symbol(regs.ip)})`;
  const msr = `0x${low32(regs.cx).toString(16)}`;
  return wrmsr
    ? `WRMSR to ${msr} (tried to write 0x${hex8(regs.dx)}${hex8(regs.ax)}) ${at}`
    : `RDMSR from ${msr} ${at}`;
}

/** The BUG() of fixup_exception(), as %pS says it. The offset, the size and the line are chosen. */
const BUG_AT = 'fixup_exception+0x30a/0x310';

/** arch/x86/kernel/dumpstack.c: the trace alone, from the registers. */
function show_stack_regs(here: ThisCpu, regs: X86PtRegs): void {
  show_trace_log_lvl(here, regs, KERN_DEFAULT);
}

/** arch/x86/kernel/cpu/mce/core.c: registers of the machine-check handler itself must be there. */
function ex_handler_msr_mce(here: ThisCpu, regs: X86PtRegs, wrmsr: boolean): never {
  here.kernel.printk(here, KERN_EMERG, `mce: MSR access error: ${msrAccess(here, regs, wrmsr)}`);
  show_stack_regs(here, regs);
  return here.kernel.panic(here, 'MCA architectural violation!');
}

/** load_unaligned_zeropad(): the load crossed into a page that is not there; what is beyond reads as 0. */
const ex_handler_zeropad = port(
  'ex_handler_zeropad',
  ['e', 'regs', 'fault_addr'],
  function* (here: ThisCpu, e: ExceptionTableEntry, regs: X86PtRegs, fault_addr: bigint): Path<boolean> {
    const { trace } = here;
    const fn = 'ex_handler_zeropad';
    const len = u64(ex_fixup_addr(e) - regs.ip);
    if (yield* trace.decide(fn, 'len > MAX_INSN_SIZE', len > 15n)) return false;
    const mmu = mmuOf(here);
    const bytes = copy_from_kernel_nofault(here, regs.ip, Number(len));
    const length = mmu.faulting.at(regs.ipSigned)?.length;
    const wrongLength = bytes === null || length !== Number(len);
    if ((yield* trace.decide(fn, 'insn.length != len', wrongLength)) || bytes === null) return false;
    const insn = insn_decode_kernel(bytes, Number(len));
    if (yield* trace.decide(fn, 'insn.opcode.bytes[0] != 0x8b', insn.opcode !== 0x8b)) return false;
    if (yield* trace.decide(fn, 'insn.opnd_bytes != sizeof(long)', insn.opnd_bytes !== 8)) return false;
    const address = insn_get_addr_ref(insn, registersOf(here, regs));
    if ((yield* trace.decide(fn, 'addr == ~0ul', address === null)) || address === null) return false;
    const offset = address & 7n;
    const aligned = address & ~7n;
    const elsewhere = fault_addr !== aligned + 8n;
    if (yield* trace.decide(fn, 'fault_addr != addr + sizeof(long)', elsewhere)) return false;
    const pa = mmu.peek(aligned);
    // The kernel's own load of that word would fault here, inside the handler.
    if (pa < 0) return false;
    regs.setAtOffset(regOffset(insn_get_modrm_reg(insn)), here.ram.readU64(pa) >> (8n * offset));
    return yield* ex_handler_default(here, e, regs);
  },
);

/** Bits of the words that hold ss and cs in frames of FRED: struct fred_ss and fred_cs. */
const FRED_SS_NMI = 1n << 18n;
const FRED_CS_SL = 3n << 16n;
const FRED_CS_WFE = 1n << 18n;
const SELECTOR = 0xffffn;
/** Offsets in pt_regs, and of the event data behind it. */
const ORIG_AX_OFFSET = 120n;
const CS_OFFSET = 136n;
const SS_OFFSET = 160n;
const EDATA_OFFSET = 168n;

/**
 * ERETU refused the frame that it should return to user mode with. The frame is made one for the exception
 * that this is, as if the event had come from there.
 */
const ex_handler_eretu = port(
  'ex_handler_eretu',
  ['fixup', 'regs', 'error_code'],
  function* (here: ThisCpu, e: ExceptionTableEntry, regs: X86PtRegs, error_code: number): Path<boolean> {
    const { ram } = here;
    const mmu = mmuOf(here);
    const uregs = regs.sp - ORIG_AX_OFFSET;
    const place = (offset: bigint): number => mmu.peek(u64(uregs + offset));
    const orig_ax = place(ORIG_AX_OFFSET);
    const cs = place(CS_OFFSET);
    const ss = place(SS_OFFSET);
    const edata = place(EDATA_OFFSET);
    // The kernel's own accesses to the frame would fault here, inside the handler.
    if (Math.min(orig_ax, cs, ss, edata) < 0) return false;
    const userSs = ram.readU64(ss);
    const userCs = ram.readU64(cs);
    const blocked = userSs & FRED_SS_NMI;
    regs.setAtOffset(Number(SS_OFFSET), (regs.ss & ~FRED_SS_NMI) | blocked);
    ram.writeU64(edata, mmu.cr2);
    ram.writeU64(ss, (regs.ss & ~(FRED_SS_NMI | SELECTOR)) | (userSs & SELECTOR));
    ram.writeU64(cs, (regs.cs & ~(FRED_CS_SL | FRED_CS_WFE | SELECTOR)) | (userCs & SELECTOR));
    ram.writeU64(orig_ax, BigInt(error_code));
    return yield* ex_handler_default(here, e, regs);
  },
);

/** arch/x86/net/bpf_jit_comp.c: `fixup` is no address here but says what to do. */
export const ex_handler_bpf = port(
  'ex_handler_bpf',
  ['x', 'regs'],
  function* (here: ThisCpu, x: ExceptionTableEntry, regs: X86PtRegs): Path<boolean> {
    const reg = (x.fixup >>> 8) & 0xff;
    const insn_len = x.fixup & 0xff;
    const is_arena = (x.fixup & ARENA_ACCESS) !== 0;
    const is_write = reg === DONT_CLEAR || (x.fixup & ARENA_WRITE) !== 0;
    if (yield* here.trace.decide('ex_handler_bpf', 'is_arena', is_arena)) {
      const arena_reg = (x.fixup >>> ARENA_REG_SHIFT) & 0xff;
      const addr = u64(regs.atOffset(arena_reg) + BigInt(ex_imm(x)));
      yield* here.kernel.bpf_prog_report_arena_violation(here, is_write, addr, regs.ip);
    }
    if (yield* here.trace.decide('ex_handler_bpf', 'reg != DONT_CLEAR', reg !== DONT_CLEAR)) {
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
    error_code: number,
    fault_addr: bigint,
  ): Path<boolean> {
    const { trace } = here;
    const hit = here.kernel.search_exception_tables(regs.ip);
    yield* trace.decide('fixup_exception', 'search_exception_tables(regs->ip)', hit?.va ?? null);
    if (hit === null) return false;
    const e = readEntry(here, hit);
    const type = e.data & 0xff;
    yield* trace.decide('fixup_exception', 'FIELD_GET(EX_DATA_TYPE_MASK, e->data)', exTypeName(type));
    const reg = ex_reg(e);
    const imm = ex_imm(e);
    switch (type) {
      case EX_TYPE.DEFAULT:
      case EX_TYPE.DEFAULT_MCE_SAFE:
        return yield* ex_handler_default(here, e, regs);
      case EX_TYPE.FAULT:
      case EX_TYPE.FAULT_MCE_SAFE:
        return yield* ex_handler_fault(here, e, regs, trapnr);
      case EX_TYPE.UACCESS:
        return yield* ex_handler_uaccess(here, e, regs, trapnr, fault_addr);
      case EX_TYPE.CLEAR_FS:
        return yield* ex_handler_clear_fs(here, e, regs);
      case EX_TYPE.FPU_RESTORE:
        return yield* ex_handler_fprestore(here, e, regs);
      case EX_TYPE.BPF:
        return yield* ex_handler_bpf(here, e, regs);
      case EX_TYPE.WRMSR:
        return yield* ex_handler_msr(here, e, regs, true, false, reg);
      case EX_TYPE.RDMSR:
        return yield* ex_handler_msr(here, e, regs, false, false, reg);
      case EX_TYPE.WRMSR_SAFE:
        return yield* ex_handler_msr(here, e, regs, true, true, reg);
      case EX_TYPE.RDMSR_SAFE:
        return yield* ex_handler_msr(here, e, regs, false, true, reg);
      case EX_TYPE.WRMSR_IN_MCE:
        return ex_handler_msr_mce(here, regs, true);
      case EX_TYPE.RDMSR_IN_MCE:
        return ex_handler_msr_mce(here, regs, false);
      case EX_TYPE.POP_REG:
        regs.sp = u64(regs.sp + 8n);
        return yield* ex_handler_imm_reg(here, e, regs, reg, imm);
      case EX_TYPE.IMM_REG:
        return yield* ex_handler_imm_reg(here, e, regs, reg, imm);
      case EX_TYPE.FAULT_SGX:
        return yield* ex_handler_sgx(here, e, regs, trapnr);
      case EX_TYPE.UCOPY_LEN:
        return yield* ex_handler_ucopy_len(here, e, regs, trapnr, fault_addr, reg, imm);
      case EX_TYPE.ZEROPAD:
        return yield* ex_handler_zeropad(here, e, regs, fault_addr);
      case EX_TYPE.ERETU:
        return yield* ex_handler_eretu(here, e, regs, error_code);
      default:
        return BUG(here, 'arch/x86/mm/extable.c:398', BUG_AT);
    }
  },
);
