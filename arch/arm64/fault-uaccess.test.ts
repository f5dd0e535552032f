import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ } from '../../emu/cpu.js';
import { VM_READ } from '../kernel.js';
import {
  decisions,
  LDTR_X1_X2,
  oopsed,
  PAGE_KERNEL,
  PAGE_READONLY_EXEC,
  PAGE_SHARED,
  unable,
  userTask,
  vma,
} from './fake-tasks.js';
import { K, TEXT, USER_DATA, USER_TEXT } from './testing.js';

describe('EL1 accesses to user pages', () => {
  test('a plain load is refused by PAN', () => {
    const machine = userTask();
    machine.map(USER_DATA, PAGE_SHARED);
    const title = unable('access to user memory outside uaccess routines', USER_DATA);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toEqual(oopsed(title));
    expect(machine.esr()).toBe('9600000f');
    expect(machine.path()).not.toContain('__do_kernel_fault');
  });

  test('execution of user code', () => {
    const machine = userTask();
    machine.map(USER_TEXT, PAGE_READONLY_EXEC);
    machine.cpu.write('pc', USER_TEXT);
    const title = unable('execution of user memory', USER_TEXT);
    expect(machine.miss(USER_TEXT, ACCESS_FETCH)).toEqual(oopsed(title));
    expect(machine.esr()).toBe('8600000f');
  });

  test('a kernel thread with a borrowed mm reads unreadable memory', () => {
    const machine = userTask();
    machine.here.current.mm = null;
    machine.map(USER_DATA, PAGE_SHARED);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toEqual(
      oopsed(unable('read from unreadable memory', USER_DATA)),
    );
    expect(machine.kernel.console.some((line) => line.startsWith('user pgtable: 4k pages'))).toBe(true);
  });

  test('LDTR where there is no VMA ends at its fixup; the zero wins over -EFAULT', () => {
    const machine = userTask(LDTR_X1_X2);
    machine.addExtable({ type: 'UACCESS_ERR_ZERO', data: { err: 'x3', zero: 'x1' } });
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'fixup', pc: TEXT + 0x40n });
    expect(machine.cpu.read('x3')).toBe(0xffff_ffff_ffff_fff2n);
    expect(machine.cpu.read('x1')).toBe(0n);
    expect(machine.path()).toContain('lock_mm_and_find_vma');
  });

  test('LDTR to a demand page is retried', () => {
    const machine = userTask(LDTR_X1_X2);
    machine.kernel.answers.vma = {
      vm_start: USER_DATA,
      vm_end: USER_DATA + 4096n,
      vm_flags: VM_READ,
      pkey: 0,
    };
    machine.kernel.answers.handleMmFault = () => 0;
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'retry', pc: TEXT });
    expect(machine.kernel.console).toEqual([]);
  });

  test('LDTR to a kernel page is refused as unprivileged', () => {
    const machine = userTask(LDTR_X1_X2);
    machine.map(K, PAGE_KERNEL);
    expect(machine.miss(K, ACCESS_READ)).toEqual(oopsed(unable('read from unreadable memory', K)));
    expect(machine.esr()).toBe('9600000f');
    expect(machine.find('walk')?.user).toBe(true);
  });

  test('with page faults disabled the address space is not asked', () => {
    const machine = userTask(LDTR_X1_X2);
    machine.here.current.pagefault_disabled = 1;
    machine.addExtable({ type: 'UACCESS_ERR_ZERO' });
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'fixup' });
    expect(machine.path()).not.toContain('lock_mm_and_find_vma');
  });

  test.each<readonly [string, { type: string; data?: Record<string, string> }, boolean]>([
    ['of a user access routine', { type: 'UACCESS_ERR_ZERO' }, true],
    ['of a copy, for reads', { type: 'UACCESS_CPY', data: { write: 'false' } }, true],
    ['of a copy, for writes', { type: 'UACCESS_CPY', data: { write: 'true' } }, false],
  ])('an instruction with an entry %s may touch user memory: %j %s', (_, entry, allowed) => {
    const machine = userTask(LDTR_X1_X2);
    machine.map(USER_DATA, PAGE_SHARED & ~(1n << 6n));
    machine.addExtable(entry);
    machine.kernel.answers.vma = vma(VM_READ);
    machine.kernel.answers.handleMmFault = () => 0;
    const title = unable('access to user memory outside uaccess routines', USER_DATA);
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject(allowed ? { how: 'retry' } : oopsed(title));
    expect(decisions(machine, 'do_page_fault')).toMatchObject({
      '!insn_may_access_user(regs->pc, esr)': !allowed,
    });
  });
});
