/**
 * What the page-fault path prints before a kernel oops.
 *
 * Ported from arch/arm64/mm/fault.c (mem_abort_decode, data_abort_decode, show_pte, die_kernel_fault),
 * and kasan_non_canonical_hook() of mm/kasan/report.c, bpf-next merge 8496d9020ff3. Left out: KASAN with tags.
 */
import { hex16 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_ALERT, PAGE_SIZE, SIGKILL } from '../kernel.js';
import { esr_get_class_string } from './class-string.js';
import { ESR_ELx_EC, ESR_ELx_IL, ESR_ELx_ISV, esr_is_data_abort, fsc } from './esr.js';
import { faultInfo } from './fault-info.js';
import { is_ttbr0_addr, is_ttbr1_addr, TASK_SIZE } from './memory.js';
import { pmd_bad, tablePa } from './pgtable.js';
import type { Arm64PtRegs } from './regs.js';
import { die } from './traps.js';

const PAGE_SIZE_ADDRESS = BigInt(PAGE_SIZE);

function alert(here: ThisCpu, text: string): void {
  here.kernel.printk(here, KERN_ALERT, text);
}

/** Value of a field of the ESR. */
function field(esr: bigint, position: number, width = 1): bigint {
  return (esr >> BigInt(position)) & ((1n << BigInt(width)) - 1n);
}

function hexDigits(value: bigint | number, digits: number): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}

function data_abort_decode(here: ThisCpu, esr: bigint): void {
  const iss2 = esr >> 32n;
  alert(here, 'Data abort info:');
  if ((esr & ESR_ELx_ISV) !== 0n) {
    alert(here, `  Access size = ${1 << Number(field(esr, 22, 2))} byte(s)`);
    alert(here, `  SSE = ${field(esr, 21)}, SRT = ${field(esr, 16, 5)}`);
    alert(here, `  SF = ${field(esr, 15)}, AR = ${field(esr, 14)}`);
  } else {
    alert(here, `  ISV = 0, ISS = ${hexDigits(esr & 0x1ffffffn, 8)}, ISS2 = ${hexDigits(iss2, 8)}`);
  }
  alert(
    here,
    `  CM = ${field(esr, 8)}, WnR = ${field(esr, 6)}, TnD = ${field(iss2, 10)}, TagAccess = ${field(iss2, 9)}`,
  );
  alert(
    here,
    `  GCS = ${field(iss2, 8)}, Overlay = ${field(iss2, 6)}, DirtyBit = ${field(iss2, 5)}, Xs = ${field(iss2, 0, 5)}`,
  );
}

function mem_abort_decode(here: ThisCpu, esr: bigint): void {
  alert(here, 'Mem abort info:');
  alert(here, `  ESR = ${hexDigits(esr, 16)}`);
  alert(
    here,
    `  EC = ${hexDigits(ESR_ELx_EC(esr), 2)}: ${esr_get_class_string(esr)}, IL = ${(esr & ESR_ELx_IL) !== 0n ? 32 : 16} bits`,
  );
  alert(here, `  SET = ${field(esr, 11, 2)}, FnV = ${field(esr, 10)}`);
  alert(here, `  EA = ${field(esr, 9)}, S1PTW = ${field(esr, 7)}`);
  alert(here, `  FSC = ${hexDigits(fsc(esr), 2)}: ${faultInfo(fsc(esr)).name}`);
  if (esr_is_data_abort(esr)) data_abort_decode(here, esr);
}

/** CONFIG_KASAN_SHADOW_OFFSET of generic KASAN with 48-bit addresses, and where the shadow lies. */
const KASAN_SHADOW_OFFSET = 0xdfff_8000_0000_0000n;
const KASAN_SHADOW_START = 0xffff_6000_0000_0000n;
const KASAN_SHADOW_END = 0xffff_8000_0000_0000n;
const KASAN_SHADOW_SCALE_SHIFT = 3n;

/** An access to shadow memory that is not there: which memory it would have been the shadow of. */
function kasan_non_canonical_hook(here: ThisCpu, addr: bigint): void {
  if (!here.kernel.config.KASAN || addr < KASAN_SHADOW_OFFSET) return;
  const orig = BigInt.asUintN(64, (addr - KASAN_SHADOW_OFFSET) << KASAN_SHADOW_SCALE_SHIFT);
  let bug_type = 'maybe wild-memory-access';
  if (orig < PAGE_SIZE_ADDRESS) bug_type = 'null-ptr-deref';
  else if (orig < TASK_SIZE) bug_type = 'probably user-memory-access';
  else if (addr >= KASAN_SHADOW_START && addr < KASAN_SHADOW_END) bug_type = 'probably wild-memory-access';
  alert(here, `KASAN: ${bug_type} in range [0x${hex16(orig)}-0x${hex16(orig + 7n)}]`);
}

/** Prints the entries that software finds on the way to `addr`, which need not be those hardware read. */
function show_pte(here: ThisCpu, addr: bigint): void {
  const { kernel, current, ram } = here;
  let mm = kernel.init_mm;
  if (is_ttbr0_addr(addr)) {
    mm = current.active_mm;
    if (mm === kernel.init_mm) {
      alert(here, `[${hex16(addr)}] user address but active_mm is swapper`);
      return;
    }
  } else if (!is_ttbr1_addr(addr)) {
    alert(here, `[${hex16(addr)}] address between user and kernel address ranges`);
    return;
  }
  const name = mm === kernel.init_mm ? 'swapper' : 'user';
  alert(here, `${name} pgtable: 4k pages, 48-bit VAs, pgdp=${hex16(mm.pgd)}`);

  const entryAt = (table: number, shift: bigint): bigint | null => {
    const pa = table + Number((addr >> shift) & 511n) * 8;
    return ram.contains(pa, 8) ? ram.readU64(pa) : null;
  };
  // With four levels p4d is the pgd entry once more.
  const pgd = entryAt(mm.pgd, 39n) ?? 0n;
  let line = `[${hex16(addr)}] pgd=${hex16(pgd)}, p4d=${hex16(pgd)}`;
  let entry = pgd;
  const below: readonly (readonly [string, bigint])[] = [
    ['pud', 30n],
    ['pmd', 21n],
    ['pte', 12n],
  ];
  for (const [level, shift] of below) {
    if (pmd_bad(entry)) break;
    const next = entryAt(tablePa(entry), shift);
    // A real kernel would take another fault on a table that is not memory.
    if (next === null) break;
    entry = next;
    line += `, ${level}=${hex16(entry)}`;
  }
  alert(here, line);
}

/** Reports and kills. */
export const die_kernel_fault = port(
  'die_kernel_fault',
  ['msg', 'addr', 'esr', 'regs'],
  function* (here: ThisCpu, msg: string, addr: bigint, esr: bigint, regs: Arm64PtRegs): Path<never> {
    alert(here, `Unable to handle kernel ${msg} at virtual address ${hex16(addr)}`);
    kasan_non_canonical_hook(here, addr);
    mem_abort_decode(here, esr);
    show_pte(here, addr);
    yield* die(here, 'Oops', regs, esr);
    // Only when a notifier stopped die().
    return here.kernel.make_task_dead(here, SIGKILL);
  },
);
