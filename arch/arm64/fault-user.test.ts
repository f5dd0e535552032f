import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, type AccessCode } from '../../emu/cpu.js';
import { Endless } from '../../emu/endless.js';
import { drain } from '../../emu/path.js';
import { VM_EXEC, VM_READ, VM_WRITE } from '../kernel.js';
import {
  DC_CIVAC_X1,
  decisions,
  kthread,
  LDTR_X1_X2,
  LDXR_X0_X1,
  PAGE_KERNEL,
  PAGE_KERNEL_RO,
  PAGE_READONLY,
  PAGE_SHARED,
  raise,
  signal,
  userCode,
  userTask,
  vma,
} from './fake-tasks.js';
import { do_mem_abort } from './fault.js';
import type { Arm64PtRegs } from './regs.js';
import type { TestMachine } from './testing.js';
import { K, LDR_X0_X1, NOP, STR_X0_X1, USER_DATA, USER_TEXT } from './testing.js';

describe('EL0', () => {
  test.each<readonly [string, number, AccessCode, string]>([
    ['load', LDR_X0_X1, ACCESS_READ, '92000005'],
    ['store', STR_X0_X1, ACCESS_WRITE, '92000045'],
  ])('%s where there is no VMA: SIGSEGV, SEGV_MAPERR, si_addr with its tag', (_, word, access, esr) => {
    const machine = userCode(word);
    const far = USER_DATA | (0x5an << 56n);
    machine.entryPa(USER_DATA, 1);
    expect(machine.miss(far, access)).toEqual(signal(11, 1, far));
    expect(machine.esr()).toBe(esr);
    expect(machine.path().slice(0, 5)).toEqual([
      'el0t_64_sync_handler',
      'el0_da',
      'do_mem_abort',
      'do_translation_fault',
      'do_page_fault',
    ]);
  });

  test('store to a read-only VMA: SEGV_ACCERR', () => {
    const machine = userCode(STR_X0_X1);
    machine.map(USER_DATA, PAGE_READONLY);
    machine.kernel.answers.vma = vma(VM_READ);
    expect(machine.miss(USER_DATA, ACCESS_WRITE)).toEqual(signal(11, 2, USER_DATA));
    expect(machine.esr()).toBe('9200004f');
  });

  test('fetch from a page that is not executable: SEGV_ACCERR through el0_ia', () => {
    const machine = userCode(NOP);
    machine.map(USER_DATA, PAGE_SHARED);
    machine.cpu.write('pc', USER_DATA);
    machine.kernel.answers.vma = vma(VM_READ | VM_WRITE);
    expect(machine.miss(USER_DATA, ACCESS_FETCH)).toEqual(signal(11, 2, USER_DATA));
    expect(machine.esr()).toBe('8200000f');
    expect(machine.path()).toContain('el0_ia');
  });

  test('demand page: handle_mm_fault gets what the access wants', () => {
    const flags: number[] = [];
    const machine = userCode(STR_X0_X1);
    machine.kernel.answers.vma = vma(VM_READ | VM_WRITE | VM_EXEC);
    machine.kernel.answers.handleMmFault = (_, flag) => {
      flags.push(flag);
      return 0;
    };
    expect(machine.miss(USER_DATA, ACCESS_WRITE)).toMatchObject({ how: 'retry', pc: USER_TEXT });
    // WRITE 1, USER 0x40, VMA_LOCK 0x1000 and the default 0x214.
    expect(flags).toEqual([0x1255]);
  });

  test('kernel addresses look unmapped to user code, whatever is there', () => {
    const present = userCode(LDR_X0_X1);
    present.map(K, PAGE_KERNEL);
    expect(present.miss(K, ACCESS_READ)).toEqual(signal(11, 1, K));
    expect(present.esr()).toBe('9200000f');
    expect(present.mmu.syndrome.fault_code).toBe(0x9200_0004n);

    const absent = userCode(STR_X0_X1);
    expect(absent.miss(K, ACCESS_WRITE)).toEqual(signal(11, 1, K));
    expect(absent.esr()).toBe('92000047');
    expect(absent.mmu.syndrome.fault_code).toBe(0x9200_0044n);
    expect(absent.path()).toContain('do_bad_area');
  });

  test('cache maintenance counts as a read of the VMA', () => {
    const machine = userCode(DC_CIVAC_X1);
    machine.kernel.answers.vma = vma(VM_READ);
    machine.kernel.answers.handleMmFault = () => 0;
    expect(machine.stop({ kind: 'cache-op', va: USER_DATA, write: false })).toMatchObject({ how: 'retry' });
    expect(machine.esr()).toMatch(/^9200014[4-7]$/);
  });

  test('misaligned exclusive: SIGBUS, BUS_ADRALN; misaligned pc the same; address size: SIGKILL', () => {
    const exclusive = userCode(LDXR_X0_X1);
    exclusive.cpu.write('x1', USER_DATA + 4n);
    expect(exclusive.miss(USER_DATA + 4n, ACCESS_READ)).toEqual(signal(7, 1, USER_DATA + 4n));
    expect(exclusive.esr()).toBe('92000021');

    const jump = userCode(NOP);
    jump.cpu.write('pc', USER_TEXT + 2n);
    expect(jump.stop({ kind: 'exception', number: 0x102 })).toEqual(signal(7, 1, USER_TEXT + 2n));

    const size = userCode(LDR_X0_X1);
    size.set(USER_DATA, 3, PAGE_SHARED | 0x100_0000_0000n);
    expect(size.miss(USER_DATA, ACCESS_READ)).toMatchObject({ outcome: { kind: 'signal', signo: 9 } });
    expect(size.esr()).toBe('92000003');
  });
});

/** VM_FAULT_* */
const [OOM, SIGBUS, MAJOR, HWPOISON, HWPOISON_LARGE, SIGSEGV] = [1, 2, 4, 0x10, 0x20, 0x40];
const [RETRY, COMPLETED] = [0x400, 0x4000];
const TRIED = 0x20;

/** Answers of handle_mm_fault() in turn, and what it was asked with. */
function answering(machine: TestMachine, ...answers: number[]): number[] {
  const flags: number[] = [];
  machine.kernel.answers.vma = vma(VM_READ | VM_WRITE);
  machine.kernel.answers.handleMmFault = (_, flag) => {
    flags.push(flag);
    return answers[flags.length - 1] ?? 0;
  };
  return flags;
}

describe('the way under the lock of the VMA', () => {
  test('what it finishes leaves the mmap lock alone', () => {
    const machine = userCode();
    const flags = answering(machine, 0);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'retry' });
    expect(flags).toEqual([0x1254]);
    expect(machine.kernel.locks).toEqual(['vma', '-vma']);
    expect(machine.path()).not.toContain('lock_mm_and_find_vma');
    expect(decisions(machine, 'do_page_fault')).toMatchObject({ '!vma': false });
  });

  test('without it, and for the kernel, the mmap lock is taken', () => {
    const contended = userCode();
    const flags = answering(contended, 0);
    contended.kernel.answers.vmaLock = false;
    contended.miss(USER_DATA, ACCESS_READ);
    expect([flags, contended.kernel.locks]).toEqual([[0x254], ['mmap', '-mmap']]);
    const asked = contended.log.events.flatMap((event) =>
      event.type === 'decide' && event.test === '!vma' ? [event.value] : [],
    );
    expect(asked).toEqual([true, false]);

    const kernel = userTask(LDTR_X1_X2);
    const flagsOfKernel = answering(kernel, 0);
    kernel.miss(USER_DATA, ACCESS_READ);
    expect([flagsOfKernel, kernel.kernel.locks]).toEqual([[0x214], ['mmap', '-mmap']]);
    expect(kernel.path()).not.toContain('lock_vma_under_rcu');
  });

  test.each([
    ['RETRY', RETRY, 0],
    ['RETRY and MAJOR', RETRY | MAJOR, TRIED],
  ])('%s: again under the mmap lock, the VMA being given back already', (_, answer, tried) => {
    const machine = userCode();
    const flags = answering(machine, answer, 0);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'retry' });
    expect(flags).toEqual([0x1254, 0x254 | tried]);
    expect(machine.kernel.locks).toEqual(['vma', 'mmap', '-mmap']);
  });

  test('COMPLETED: done, with no lock held', () => {
    const machine = userCode();
    answering(machine, COMPLETED);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'retry' });
    expect(machine.kernel.locks).toEqual(['vma']);
  });

  test('a mapping that forbids the access is given back: SEGV_ACCERR', () => {
    const machine = userCode(STR_X0_X1);
    machine.kernel.answers.vma = vma(VM_READ);
    expect(machine.miss(USER_DATA, ACCESS_WRITE)).toEqual(signal(11, 2, USER_DATA));
    expect(machine.kernel.locks).toEqual(['vma', '-vma']);
    expect(decisions(machine, 'do_page_fault')).toMatchObject({
      'is_invalid_gcs_access(vma, esr)': false,
      '!(vma->vm_flags & vm_flags)': true,
    });
  });
});

describe('the way under the mmap lock', () => {
  /** A user task whose VMA cannot be locked by itself. */
  const contended = (word = LDR_X0_X1): TestMachine => {
    const machine = userCode(word);
    machine.kernel.answers.vmaLock = false;
    return machine;
  };

  test('RETRY: again with TRIED, until there is an answer', () => {
    const machine = contended();
    const flags = answering(machine, RETRY, RETRY, 0);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'retry' });
    expect(flags).toEqual([0x254, 0x274, 0x274]);
    expect(machine.kernel.locks).toEqual(['mmap', 'mmap', 'mmap', '-mmap']);
  });

  test('RETRY without end is a livelock', () => {
    const machine = contended();
    const flags = answering(machine, ...new Array<number>(16).fill(RETRY));
    expect(() => machine.miss(USER_DATA, ACCESS_READ)).toThrow(Endless);
    expect(flags).toHaveLength(16);
  });

  test('COMPLETED: the lock is gone', () => {
    const machine = contended();
    answering(machine, COMPLETED);
    machine.miss(USER_DATA, ACCESS_READ);
    expect(machine.kernel.locks).toEqual(['mmap']);
  });

  test('a mapping that forbids the access: the lock is given back, SEGV_ACCERR', () => {
    const machine = contended(STR_X0_X1);
    machine.kernel.answers.vma = vma(VM_READ);
    expect(machine.miss(USER_DATA, ACCESS_WRITE)).toEqual(signal(11, 2, USER_DATA));
    expect(machine.kernel.locks).toEqual(['mmap', '-mmap']);
    // The test of guarded control stacks is made on the other way only.
    expect(decisions(machine, 'do_page_fault')).not.toHaveProperty('is_invalid_gcs_access(vma, esr)');
  });
});

describe('what handle_mm_fault() answers', () => {
  test.each([
    ['SIGBUS', SIGBUS, 7, 2],
    ['HWPOISON', HWPOISON, 7, 4],
    ['HWPOISON_LARGE', HWPOISON_LARGE, 7, 4],
    ['SIGSEGV', SIGSEGV, 11, 1],
    // Errors are looked at in the order of the source.
    ['SIGBUS and HWPOISON', SIGBUS | HWPOISON, 7, 2],
  ])('%s: signal %i says', (_, answer, signo, code) => {
    const machine = userCode();
    answering(machine, answer);
    const far = USER_DATA | (0x5an << 56n);
    expect(machine.miss(far, ACCESS_READ)).toEqual(signal(signo, code, far));
    expect(machine.mmu.syndrome).toMatchObject({ fault_address: USER_DATA, fault_code: 0x9200_0004n });
  });

  test('OOM: the log says so, ten times, and the access is tried again', () => {
    const machine = userCode();
    answering(machine, ...Array(20).fill(OOM));
    for (let i = 0; i < 11; i++) {
      expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'retry' });
    }
    const line = 'Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF';
    expect(machine.kernel.console).toEqual(Array(10).fill(line));
  });

  test('OOM of a task that will die anyway is not worth a line', () => {
    const machine = userCode();
    machine.here.current.signal_pending = 'fatal';
    answering(machine, OOM);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ outcome: { kind: 'signal', signo: 9 } });
    expect(machine.kernel.console).toEqual([]);
  });

  test('an error in a uaccess routine goes to its fixup, whatever it is', () => {
    const machine = userTask(LDTR_X1_X2);
    machine.addExtable({ type: 'UACCESS_ERR_ZERO' });
    answering(machine, SIGBUS);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'fixup' });
    expect(machine.kernel.console).toEqual([]);
  });
});

describe('a signal that waits, when the answer is RETRY', () => {
  test.each([
    ['fatal', { kind: 'signal', signo: 9, code: 0, address: 0n }],
    ['signal', { kind: 'stopped', why: 'a signal is delivered', pc: USER_TEXT }],
  ] as const)('user code, %s: nothing more is tried', (signal_pending, outcome) => {
    for (const vmaLock of [true, false]) {
      const machine = userCode();
      machine.here.current.signal_pending = signal_pending;
      machine.kernel.answers.vmaLock = vmaLock;
      const flags = answering(machine, RETRY, 0);
      expect(machine.miss(USER_DATA, ACCESS_READ)).toEqual({ how: 'dead', outcome });
      expect(flags).toHaveLength(1);
    }
  });

  test('the kernel heeds a fatal one only', () => {
    const fatal = userTask(LDTR_X1_X2);
    fatal.here.current.signal_pending = 'fatal';
    fatal.addExtable({ type: 'UACCESS_ERR_ZERO' });
    answering(fatal, RETRY, 0);
    expect(fatal.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'fixup' });

    const other = userTask(LDTR_X1_X2);
    other.here.current.signal_pending = 'signal';
    expect(answering(other, RETRY, 0)).toEqual([]);
    expect(other.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'retry' });
  });
});

describe('a signal that kills comes before the one that an exception forces', () => {
  const KILLED = { how: 'dead', outcome: { kind: 'signal', signo: 9, code: 0, address: 0n } };

  function dying(): TestMachine {
    const machine = userCode();
    machine.here.current.signal_pending = 'fatal';
    return machine;
  }

  test('no mapping', () => {
    const machine = dying();
    machine.kernel.answers.vma = null;
    expect(machine.miss(USER_DATA, ACCESS_READ)).toEqual(KILLED);
    expect(machine.path()).toContain('arm64_force_sig_fault');
  });

  test.each([
    ['SIGBUS', SIGBUS, 'arm64_force_sig_fault'],
    ['poisoned memory', HWPOISON, 'arm64_force_sig_mceerr'],
  ])('%s', (_, fault, last) => {
    const machine = dying();
    answering(machine, fault);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toEqual(KILLED);
    expect(machine.path()).toContain(last);
  });

  test.each([
    ['an undefined instruction', 0x0200_0000n],
    ['a conflict in the TLB, which is SIGKILL itself', 0x9200_0030n],
  ])('%s', (_, syndrome) => {
    expect(raise(dying(), syndrome, USER_DATA)).toEqual(KILLED);
  });
});

describe('what the mapping must allow', () => {
  const GCS = 1n << 40n;
  const CM = 1n << 8n;

  test.each<readonly [string, bigint, number, boolean]>([
    ['read of executable memory, which PAN3 can forbid', 0x9200_0007n, VM_EXEC, false],
    ['read of writable memory', 0x9200_0007n, VM_WRITE, true],
    ['write', 0x9200_0047n, VM_READ, false],
    ['cache maintenance, which is a read', 0x9200_0047n | CM, VM_READ, true],
    ['guarded control stack, read', 0x9200_0007n | GCS, VM_READ, false],
    ['guarded control stack, read of writable memory', 0x9200_0007n | GCS, VM_WRITE, true],
    ['fetch', 0x8200_0007n, VM_READ | VM_WRITE, false],
    ['fetch of executable memory', 0x8200_0007n, VM_EXEC, true],
  ])('%s', (_, esr, vm_flags, allowed) => {
    const machine = userCode();
    machine.kernel.answers.vma = vma(vm_flags);
    machine.kernel.answers.handleMmFault = () => 0;
    expect(raise(machine, esr, USER_DATA)).toMatchObject(
      allowed ? { how: 'retry' } : signal(11, 2, USER_DATA),
    );
  });

  test('without PAN3, executable memory can be read', () => {
    const machine = userCode(LDR_X0_X1, { PAN: false });
    machine.kernel.answers.vma = vma(VM_EXEC);
    machine.kernel.answers.handleMmFault = () => 0;
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'retry' });
  });
});

describe('what hardware reports and this machine does not raise', () => {
  test('TLB conflict and friends: SIGKILL; unsupported exclusive: SIGBUS', () => {
    expect(raise(userCode(), 0x9200_0030n, USER_DATA)).toEqual(signal(9, 0x80, 0n));
    expect(raise(userCode(), 0x9200_0035n, USER_DATA)).toEqual(signal(7, 3, USER_DATA));
  });

  test('external aborts taint; FnV says that there is no address', () => {
    const machine = userCode();
    expect(raise(machine, 0x9200_0010n, USER_DATA)).toEqual(signal(7, 3, USER_DATA));
    expect(machine.kernel.taints).toEqual(['M']);
    expect(raise(userCode(), 0x9200_0410n, USER_DATA)).toEqual(signal(7, 3, 0n));
    expect(raise(userCode(), 0x9200_0018n, USER_DATA)).toEqual(signal(7, 3, USER_DATA));
  });

  test('tag check fault: SEGV_MTESERR, with bits 59:56 of FAR and the others of the address', () => {
    const far = (0xf5n << 56n) | USER_DATA;
    expect(raise(userCode(), 0x9200_0011n, far)).toEqual(signal(11, 9, (0x05n << 56n) | USER_DATA));
  });

  test('level -1 translation faults go the same way as the others', () => {
    const machine = userCode();
    expect(raise(machine, 0x9200_002bn, USER_DATA)).toEqual(signal(11, 1, USER_DATA));
    expect(machine.path()).toContain('do_translation_fault');
  });
});

describe('what a task learns of a fault at a kernel address', () => {
  test.each<readonly [string, bigint, bigint]>([
    ['data', 0x9200_004fn, 0x9200_0044n],
    ['cache maintenance', 0x9200_014fn, 0x9200_0144n],
    ['fetch', 0x8200_000fn, 0x8200_0004n],
    ['ISS2 and the rest', 0x1f_9300_0e07n, 0x9200_0004n],
  ])('%s', (_, esr, shown) => {
    const machine = userCode();
    raise(machine, esr, K);
    expect(machine.mmu.syndrome).toMatchObject({ fault_address: K, fault_code: shown });
  });

  test('any other class is a bug that warns, and nothing is told', () => {
    const machine = userCode();
    const regs = { user_mode: true, pc: USER_TEXT } as Arm64PtRegs;
    expect(() => drain(do_mem_abort(machine.here, K, 0x9600_0007n, regs))).toThrow();
    expect(machine.mmu.syndrome.fault_code).toBe(0n);
    expect(machine.kernel.warnings).toEqual([
      'arch/arm64/mm/fault.c:516: ESR 0x96000007 is not DABT or IABT from EL0',
    ]);
  });
});

describe('E0PD: the kernel half is closed to EL0', () => {
  test('whatever is there, it is a level 0 translation fault', () => {
    const machine = userCode(LDR_X0_X1, { E0PD: true });
    machine.map(K, PAGE_KERNEL);
    expect(machine.miss(K, ACCESS_READ)).toEqual(signal(11, 1, K));
    expect(machine.esr()).toBe('92000004');
    expect(machine.path()).toContain('do_bad_area');
    // TCR_EL1.E0PD1
    expect((machine.cpu.read('tcr_el1') >> 56n) & 1n).toBe(1n);
  });

  test('the kernel itself is not concerned, but for LDTR', () => {
    const plain = kthread(LDR_X0_X1, { E0PD: true });
    plain.map(K, PAGE_KERNEL_RO);
    expect(plain.miss(K, ACCESS_READ)).toMatchObject({ how: 'retry' });
    const unprivileged = userTask(LDTR_X1_X2, { E0PD: true });
    unprivileged.map(K, PAGE_KERNEL);
    unprivileged.miss(K, ACCESS_READ);
    expect(unprivileged.esr()).toBe('96000004');
  });
});

describe('the log line for signals', () => {
  const shown = { show_unhandled_signals: true };

  test('is off by default', () => {
    const machine = userCode();
    machine.miss(USER_DATA, ACCESS_READ);
    expect(machine.kernel.console).toEqual([]);
  });

  test('class, syndrome and what it was, then the registers', () => {
    const machine = userCode(LDR_X0_X1, shown);
    machine.cpu.write('x1', USER_DATA);
    machine.miss(USER_DATA, ACCESS_READ);
    const { console, levels } = machine.kernel;
    expect(console[0]).toBe(
      'kfault[42]: unhandled exception: DABT (lower EL), ESR 0x0000000092000004, level 0 translation fault',
    );
    expect(levels[0]).toBe(6);
    expect(console.slice(3, 6)).toEqual([
      'pstate: 00000000 (nzcv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--)',
      'pc : 0000000000400000',
      `lr : ${machine.cpu.sentinel.toString(16)}`,
    ]);
    expect(console.at(-1)).toMatch(/^x2 : [0-9a-f]{16} x1 : 00007f0000000000 x0 : [0-9a-f]{16}$/);
    expect(console).not.toContain('Call trace:');
  });

  test('memory without a syndrome, init, and too many of them', () => {
    const machine = userCode(LDR_X0_X1, shown);
    machine.here.current.pid = 1;
    machine.here.current.signal_pending = 'fatal';
    for (let i = 0; i < 12; i++) machine.miss(USER_DATA, ACCESS_READ);
    expect(machine.kernel.console.filter((line) => line.startsWith('kfault[1]: unhandled'))).toHaveLength(10);
    const dying = userCode(LDR_X0_X1, shown);
    dying.here.current.signal_pending = 'fatal';
    dying.miss(USER_DATA, ACCESS_READ);
    expect(dying.kernel.console).toEqual([]);
  });

  test('poisoned memory is shown, too', () => {
    const machine = userCode(LDR_X0_X1, shown);
    answering(machine, HWPOISON);
    machine.miss(USER_DATA, ACCESS_READ);
    expect(machine.kernel.console[0]).toContain('unhandled exception: DABT (lower EL)');
  });

  test('a kernel address is not told, and SIGKILL is shown as well', () => {
    const kernelAddress = userCode(LDR_X0_X1, shown);
    kernelAddress.map(K, PAGE_KERNEL);
    kernelAddress.miss(K, ACCESS_READ);
    expect(kernelAddress.kernel.console[0]).toContain('ESR 0x0000000092000004, level 3 permission fault');
    const killed = userCode(LDR_X0_X1, shown);
    raise(killed, 0x9200_0030n, USER_DATA);
    expect(killed.kernel.console[0]).toMatch(/ESR 0x0000000092000030, TLB conflict abort$/);
  });
});
