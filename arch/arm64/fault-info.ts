/**
 * The table of fault status codes: what each is called, who handles it, and which signal user code gets.
 *
 * Ported from fault_info[] of arch/arm64/mm/fault.c, bpf-next merge 8496d9020ff3; all 64 rows.
 */
import {
  BUS_ADRALN,
  BUS_OBJERR,
  SEGV_ACCERR,
  SEGV_MAPERR,
  SI_KERNEL,
  SIGBUS,
  SIGKILL,
  SIGSEGV,
} from '../kernel.js';

export const SEGV_MTESERR = 9;

/** Handlers, all with the arguments (far, esr, regs). */
export type FaultHandler =
  | 'do_bad'
  | 'do_translation_fault'
  | 'do_page_fault'
  | 'do_sea'
  | 'do_tag_check_fault'
  | 'do_alignment_fault';

export interface fault_info {
  readonly fn: FaultHandler;
  readonly sig: number;
  readonly code: number;
  readonly name: string;
}

const row = (fn: FaultHandler, sig: number, code: number, name: string): fault_info => ({
  fn,
  sig,
  code,
  name,
});
const bad = (name: string): fault_info => row('do_bad', SIGKILL, SI_KERNEL, name);
const sea = (name: string): fault_info => row('do_sea', SIGKILL, SI_KERNEL, name);
const translation = (name: string): fault_info => row('do_translation_fault', SIGSEGV, SEGV_MAPERR, name);
const page = (name: string): fault_info => row('do_page_fault', SIGSEGV, SEGV_ACCERR, name);
const unknown = (from: number, to: number): fault_info[] =>
  Array.from({ length: to - from + 1 }, (_, i) => bad(`unknown ${from + i}`));

const TABLE: readonly fault_info[] = [
  bad('ttbr address size fault'),
  bad('level 1 address size fault'),
  bad('level 2 address size fault'),
  bad('level 3 address size fault'),
  translation('level 0 translation fault'),
  translation('level 1 translation fault'),
  translation('level 2 translation fault'),
  translation('level 3 translation fault'),
  page('level 0 access flag fault'),
  page('level 1 access flag fault'),
  page('level 2 access flag fault'),
  page('level 3 access flag fault'),
  page('level 0 permission fault'),
  page('level 1 permission fault'),
  page('level 2 permission fault'),
  page('level 3 permission fault'),
  row('do_sea', SIGBUS, BUS_OBJERR, 'synchronous external abort'),
  row('do_tag_check_fault', SIGSEGV, SEGV_MTESERR, 'synchronous tag check fault'),
  bad('unknown 18'),
  sea('level -1 (translation table walk)'),
  sea('level 0 (translation table walk)'),
  sea('level 1 (translation table walk)'),
  sea('level 2 (translation table walk)'),
  sea('level 3 (translation table walk)'),
  row('do_sea', SIGBUS, BUS_OBJERR, 'synchronous parity or ECC error'),
  bad('unknown 25'),
  bad('unknown 26'),
  sea('level -1 synchronous parity error (translation table walk)'),
  sea('level 0 synchronous parity error (translation table walk)'),
  sea('level 1 synchronous parity error (translation table walk)'),
  sea('level 2 synchronous parity error (translation table walk)'),
  sea('level 3 synchronous parity error (translation table walk)'),
  bad('unknown 32'),
  row('do_alignment_fault', SIGBUS, BUS_ADRALN, 'alignment fault'),
  ...unknown(34, 40),
  bad('level -1 address size fault'),
  bad('unknown 42'),
  translation('level -1 translation fault'),
  ...unknown(44, 47),
  bad('TLB conflict abort'),
  bad('Unsupported atomic hardware update fault'),
  ...unknown(50, 51),
  bad('implementation fault (lockdown abort)'),
  row('do_bad', SIGBUS, BUS_OBJERR, 'implementation fault (unsupported exclusive)'),
  ...unknown(54, 60),
  bad('section domain fault'),
  bad('page domain fault'),
  bad('unknown 63'),
];

/** The row of a fault status code, 0 to 63. */
export function faultInfo(code: number): fault_info {
  const info = TABLE[code & 0x3f];
  if (info === undefined) throw new Error(`fault_info has no row ${code}`);
  return info;
}
