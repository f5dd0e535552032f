/** What the tests of the fault path share: machines with code at hand, and how they end. */
import type { vm_area_struct } from '../kernel.js';
import type { KernelConfig } from '../kernel-config.js';
import { arm64 } from './index.js';
import { type Ending, K, LDR_X0_X1, TestMachine, USER_DATA, USER_TEXT } from './testing.js';

export const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
export const PAGE_KERNEL_RO = 0x00e0_0000_0000_0783n;
export const PAGE_SHARED = 0x0068_0000_0000_0fc3n;
export const PAGE_READONLY = 0x0060_0000_0000_0fc3n;
export const PAGE_READONLY_EXEC = 0x0020_0000_0000_0fc3n;
export const AF = 1n << 10n;
export const LDADD_X0_X1_X2 = 0xf820_0041;
export const LDTR_X1_X2 = 0xf840_0841;
export const DC_CIVAC_X1 = 0xd50b_7e21;
export const LDXR_X0_X1 = 0xc85f_7c20;
export const STXR_W0_X1_X2 = 0xc800_7c41;

/** Under another level 0 entry than everything that is mapped. */
export const FAR_AWAY = 0xffff_9001_2345_6008n;

export const EL1_PATH = ['el1h_64_sync_handler', 'el1_abort', 'do_mem_abort'];
export const BAD_AREA = [...EL1_PATH, 'do_translation_fault', 'do_bad_area', '__do_kernel_fault'];
export const OOPS = ['die_kernel_fault', 'die', '__die', 'notify_die'];
/** Data aborts try the exception table, then ask whether the fault is still there. */
export const FIXUP = ['fixup_exception', 'is_spurious_el1_translation_fault'];
export const STAGES = ['kfence_handle_page_fault', 'bpf_arena_handle_page_fault'];

export function unable(what: string, address: bigint): string {
  return `Unable to handle kernel ${what} at virtual address ${address.toString(16).padStart(16, '0')}`;
}

export const oopsed = (title: string): Ending => ({
  how: 'dead',
  outcome: { kind: 'oops', title, signal: 11 },
});

export const signal = (signo: number, code: number, address: bigint): Ending => ({
  how: 'dead',
  outcome: { kind: 'signal', signo, code, address },
});

/** A kernel thread whose page K is not there yet; tables down to the pte exist. */
export function kthread(word = LDR_X0_X1, config: Partial<KernelConfig> = {}): TestMachine {
  const machine = new TestMachine(config);
  machine.entryPa(K, 3);
  machine.code(word);
  return machine;
}

export function userTask(word = LDR_X0_X1, config: Partial<KernelConfig> = {}): TestMachine {
  const machine = kthread(word, config);
  machine.becomeUserTask();
  return machine;
}

/** The user task's user half: it executes at USER_TEXT in EL0. */
export function userCode(word = LDR_X0_X1, config: Partial<KernelConfig> = {}): TestMachine {
  const machine = userTask(word, config);
  machine.map(USER_TEXT, PAGE_READONLY_EXEC);
  arm64.prepareUser(machine.here, USER_TEXT, USER_DATA);
  machine.code(word, USER_TEXT);
  return machine;
}

/** A mapping of all of the lower half. */
export const vma = (vm_flags: number): vm_area_struct => ({
  vm_start: 0n,
  vm_end: 1n << 47n,
  vm_flags,
  pkey: 0,
});

/** What the decisions of `fn` came to in the last stop, by their tests. */
export function decisions(machine: TestMachine, fn: string): Record<string, unknown> {
  return Object.fromEntries(
    machine.log.events.flatMap((event) =>
      event.type === 'decide' && event.fn === fn ? [[event.test, event.value]] : [],
    ),
  );
}

/** An abort with the syndrome given, as if hardware had reported it at pc. */
export function raise(machine: TestMachine, syndrome: bigint, address: bigint): Ending {
  return machine.stop({ kind: 'raised', number: 0, syndrome, address });
}
