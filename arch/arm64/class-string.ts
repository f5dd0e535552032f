/** Names of exception classes: esr_class_str[] of arch/arm64/kernel/traps.c, bpf-next merge 8496d9020ff3. */
import { ESR_ELx_EC } from './esr.js';

const esr_class_str: ReadonlyMap<number, string> = new Map([
  [0x00, 'Unknown/Uncategorized'],
  [0x01, 'WFI/WFE'],
  [0x03, 'CP15 MCR/MRC'],
  [0x04, 'CP15 MCRR/MRRC'],
  [0x05, 'CP14 MCR/MRC'],
  [0x06, 'CP14 LDC/STC'],
  [0x07, 'ASIMD'],
  [0x08, 'CP10 MRC/VMRS'],
  [0x09, 'PAC'],
  [0x0c, 'CP14 MCRR/MRRC'],
  [0x0d, 'BTI'],
  [0x0e, 'PSTATE.IL'],
  [0x11, 'SVC (AArch32)'],
  [0x12, 'HVC (AArch32)'],
  [0x13, 'SMC (AArch32)'],
  [0x15, 'SVC (AArch64)'],
  [0x16, 'HVC (AArch64)'],
  [0x17, 'SMC (AArch64)'],
  [0x18, 'MSR/MRS (AArch64)'],
  [0x19, 'SVE'],
  [0x1a, 'ERET/ERETAA/ERETAB'],
  [0x1c, 'FPAC'],
  [0x1d, 'SME'],
  [0x1f, 'EL3 IMP DEF'],
  [0x20, 'IABT (lower EL)'],
  [0x21, 'IABT (current EL)'],
  [0x22, 'PC Alignment'],
  [0x24, 'DABT (lower EL)'],
  [0x25, 'DABT (current EL)'],
  [0x26, 'SP Alignment'],
  [0x27, 'MOPS'],
  [0x28, 'FP (AArch32)'],
  [0x2c, 'FP (AArch64)'],
  [0x2d, 'Guarded Control Stack'],
  [0x2f, 'SError'],
  [0x30, 'Breakpoint (lower EL)'],
  [0x31, 'Breakpoint (current EL)'],
  [0x32, 'Software Step (lower EL)'],
  [0x33, 'Software Step (current EL)'],
  [0x34, 'Watchpoint (lower EL)'],
  [0x35, 'Watchpoint (current EL)'],
  [0x38, 'BKPT (AArch32)'],
  [0x3a, 'Vector catch (AArch32)'],
  [0x3c, 'BRK (AArch64)'],
]);

/** What exceptions are called: the manual's words for those that have some, else the kernel's for their class. */
export const exceptionNames: readonly string[] = [
  'Data Abort',
  'Instruction Abort',
  'PC Alignment',
  'SP Alignment',
  ...esr_class_str.values(),
];

/** What the class field says, in the kernel's words. */
export function esr_get_class_string(esr: bigint): string {
  return esr_class_str.get(ESR_ELx_EC(esr)) ?? 'UNRECOGNIZED EC';
}
