import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, type AccessCode } from '../../emu/cpu.js';
import {
  AF,
  BAD_AREA,
  DC_CIVAC_X1,
  EL1_PATH,
  FAR_AWAY,
  FIXUP,
  kthread,
  LDADD_X0_X1_X2,
  LDXR_X0_X1,
  OOPS,
  oopsed,
  PAGE_KERNEL,
  PAGE_KERNEL_RO,
  raise,
  STAGES,
  STXR_W0_X1_X2,
  unable,
  userTask,
} from './fake-tasks.js';
import { K, LDR_X0_X1, STR_X0_X1, TEXT, TestMachine, USER_DATA } from './testing.js';

describe('EL1 accesses that nobody recovers', () => {
  /** Entry to spoil (level, value), access, ESR, what the last line of show_pte ends with. */
  test.each<readonly [string, bigint, number, bigint, AccessCode, string, string]>([
    ['read, pte = 0', K, 3, 0n, ACCESS_READ, '96000007', ', pte=0000000000000000'],
    ['write, pte = 0', K, 3, 0n, ACCESS_WRITE, '96000047', ', pte=0000000000000000'],
    ['read, pmd = 0', K, 2, 0n, ACCESS_READ, '96000006', ', pmd=0000000000000000'],
    ['read, pud = 0', K, 1, 0n, ACCESS_READ, '96000005', ', pud=0000000000000000'],
    ['read, pgd = 0', FAR_AWAY, 0, 0n, ACCESS_READ, '96000004', ', p4d=0000000000000000'],
    [
      'read, level 0 entry ends in 01',
      FAR_AWAY,
      0,
      0x1001n,
      ACCESS_READ,
      '96000004',
      ', p4d=0000000000001001',
    ],
    ['read, pte ends in 01', K, 3, PAGE_KERNEL & ~2n, ACCESS_READ, '96000007', ', pte=00e8000000000701'],
  ])('%s: both stages are asked and it is a paging request', (_, va, level, entry, access, esr, tail) => {
    const machine = kthread(access === ACCESS_WRITE ? STR_X0_X1 : LDR_X0_X1);
    machine.set(va, level, entry);
    expect(machine.miss(va, access)).toEqual(oopsed(unable('paging request', va)));
    expect(machine.esr()).toBe(esr);
    expect(machine.path()).toEqual([...BAD_AREA, ...FIXUP, ...STAGES, ...OOPS]);
    expect(machine.kernel.console.find((line) => line.startsWith('[ffff'))?.endsWith(tail)).toBe(true);
  });

  test('NULL pointer of a kernel thread: do_page_fault without mm, no stage asked', () => {
    const machine = kthread();
    expect(machine.miss(0n, ACCESS_READ)).toEqual(oopsed(unable('NULL pointer dereference', 0n)));
    expect(machine.esr()).toBe('96000004');
    expect(machine.path()).toEqual([
      ...EL1_PATH,
      'do_translation_fault',
      'do_page_fault',
      '__do_kernel_fault',
      ...FIXUP,
      ...OOPS,
    ]);
    expect(machine.kernel.console).toContain('[0000000000000000] user address but active_mm is swapper');
  });

  test('a TTBR0 address above the first page reaches KFENCE and the arena', () => {
    const machine = kthread(STR_X0_X1);
    expect(machine.miss(0x1008n, ACCESS_WRITE)).toEqual(oopsed(unable('paging request', 0x1008n)));
    expect(machine.esr()).toBe('96000044');
    expect(machine.path()).toEqual(expect.arrayContaining(STAGES));
  });

  test.each([
    [0xdead_0000_0000_0108n, 0xdead_0000_0000_0108n],
    // Bit 55 clear: the top byte is a tag, and the untagged address is in neither half.
    [0x6b6b_6b6b_6b6b_6b6bn, 0x006b_6b6b_6b6b_6b6bn],
  ])('%s lies between the halves', (far, shown) => {
    const machine = kthread();
    expect(machine.miss(far, ACCESS_READ)).toEqual(oopsed(unable('paging request', shown)));
    expect(machine.esr()).toBe('96000004');
    expect(machine.find('fault')?.address).toBe(far);
    expect(machine.find('walk')?.levels).toEqual([]);
    const text = `[${shown.toString(16).padStart(16, '0')}] address between user and kernel address ranges`;
    expect(machine.kernel.console).toContain(text);
  });

  test('a tagged NULL of a user task: FAR keeps the tag, the message does not', () => {
    const machine = userTask();
    const far = 0x0100_0000_0000_0010n;
    expect(machine.miss(far, ACCESS_READ)).toEqual(oopsed(unable('NULL pointer dereference', 0x10n)));
    expect(machine.find('fault')?.address).toBe(far);
  });

  test.each([
    ['store', STR_X0_X1, ACCESS_WRITE],
    // The engine lets the atomic read, and then is refused the write.
    ['atomic', LDADD_X0_X1_X2, ACCESS_WRITE],
    ['store-exclusive, which the engine begins with a read', STXR_W0_X1_X2, ACCESS_READ],
  ] as const)('%s to a read-only page', (_, word, access) => {
    const machine = kthread(word);
    machine.map(K, PAGE_KERNEL_RO);
    machine.cpu.write('x2', K);
    expect(machine.miss(K, access)).toEqual(oopsed(unable('write to read-only memory', K)));
    expect(machine.esr()).toBe('9600004f');
    // A permission fault is not translation: nobody is asked.
    expect(machine.path()).toEqual([...EL1_PATH, 'do_page_fault', '__do_kernel_fault', ...FIXUP, ...OOPS]);
  });

  test('a store to a read-only 2 MiB block faults at level 2, and show_pte ends with the block', () => {
    const machine = kthread(STR_X0_X1);
    machine.set(K, 2, 0x00e0_0000_4000_0781n);
    expect(machine.miss(K, ACCESS_WRITE)).toEqual(oopsed(unable('write to read-only memory', K)));
    expect(machine.esr()).toBe('9600004e');
    expect(machine.kernel.console.find((line) => line.startsWith('[ffff'))).toMatch(
      /, pmd=00e0000040000781$/,
    );
  });

  test('execution of a page that is not executable: no extable, not spurious, no data abort info', () => {
    const machine = kthread();
    machine.map(K, PAGE_KERNEL);
    const target = K & ~0xfn;
    machine.cpu.write('pc', target);
    expect(machine.miss(target, ACCESS_FETCH)).toEqual(
      oopsed(unable('execute from non-executable memory', target)),
    );
    expect(machine.esr()).toBe('8600000f');
    expect(machine.path()).not.toContain('fixup_exception');
    expect(machine.kernel.console).not.toContain('Data abort info:');
  });

  test('a jump to NULL prints no code', () => {
    const machine = kthread();
    machine.cpu.write('pc', 0n);
    expect(machine.miss(0n, ACCESS_FETCH)).toEqual(oopsed(unable('NULL pointer dereference', 0n)));
    expect(machine.esr()).toBe('86000004');
    expect(machine.kernel.console).toContain('pc : 0x0');
    expect(machine.kernel.console.some((line) => line.startsWith('Code:'))).toBe(false);
  });

  test('a fetch from a hole reaches KFENCE and the arena as a read', () => {
    const machine = kthread();
    machine.cpu.write('pc', K);
    expect(machine.miss(K, ACCESS_FETCH)).toEqual(oopsed(unable('paging request', K)));
    expect(machine.esr()).toBe('86000007');
    const asked = machine.log.events.filter((event) => event.type === 'enter' && STAGES.includes(event.fn));
    expect(asked).toMatchObject([{ args: [K, false, expect.anything()] }, { args: [K, false, K] }]);
  });

  test('access flag fault: a paging request that no stage is asked about', () => {
    const machine = kthread();
    machine.map(K, PAGE_KERNEL & ~AF);
    expect(machine.miss(K, ACCESS_READ)).toEqual(oopsed(unable('paging request', K)));
    expect(machine.esr()).toBe('9600000b');
    expect(machine.path()).not.toContain('kfence_handle_page_fault');
    expect(machine.kernel.console).toContain('  FSC = 0x0b: level 3 access flag fault');
  });

  test('a misaligned exclusive faults before the address is translated', () => {
    const machine = kthread(LDXR_X0_X1);
    machine.cpu.write('x1', K + 1n);
    expect(machine.miss(K + 1n, ACCESS_READ)).toEqual(oopsed(unable('paging request', K + 1n)));
    expect(machine.esr()).toBe('96000021');
    expect(machine.path()).toContain('do_alignment_fault');
  });

  test('external aborts die at once, without "Unable to handle"', () => {
    const machine = kthread();
    // 0x80000000 is no memory of this machine, but within its 40 bits.
    machine.set(K, 3, PAGE_KERNEL | 0x8000_0000n);
    machine.miss(K, ACCESS_READ);
    expect(machine.kernel.console[0]).toBe(
      'Internal error: synchronous external abort: 0000000096000010 [#1]  SMP',
    );
    expect(machine.kernel.taints).toEqual(['M', 'D']);
    expect(machine.path()).not.toContain('fixup_exception');

    const walk = kthread();
    walk.set(K, 1, 0x1000_0000_8000_0403n);
    walk.miss(K, ACCESS_READ);
    expect(walk.kernel.console[0]).toBe(
      'Internal error: level 2 (translation table walk): 0000000096000016 [#1]  SMP',
    );
  });

  test('address size: the handler declines, and an exception-table entry is not looked at', () => {
    const machine = kthread();
    machine.addExtable({ type: 'KACCESS_ERR_ZERO' });
    machine.set(K, 3, PAGE_KERNEL | 0x100_0000_0000n);
    expect(machine.miss(K, ACCESS_READ)).toEqual(oopsed(unable('level 3 address size fault', K)));
    expect(machine.esr()).toBe('96000003');
    expect(machine.path()).toEqual([...EL1_PATH, 'do_bad', ...OOPS]);
  });

  test('a misaligned pc', () => {
    const machine = kthread();
    machine.cpu.write('pc', TEXT + 2n);
    const ending = machine.stop({ kind: 'exception', number: 0x102 });
    expect(ending).toMatchObject({ how: 'dead', outcome: { kind: 'oops' } });
    expect(machine.kernel.console[0]).toBe(
      'Internal error: SP/PC alignment exception: 000000008a000000 [#1]  SMP',
    );
    expect(machine.path()).toContain('el1_pc');
  });
});

describe('recovery', () => {
  test.each([
    ['load', LDR_X0_X1, ACCESS_READ, '96000007', false],
    ['store', STR_X0_X1, ACCESS_WRITE, '96000047', true],
    ['atomic', LDADD_X0_X1_X2, ACCESS_READ, '96000007', false],
    ['store-exclusive', STXR_W0_X1_X2, ACCESS_READ, '96000047', true],
  ] as const)(
    '%s: the arena is asked after KFENCE, and the instruction is retried',
    (_, word, access, esr, write) => {
      const machine = kthread(word);
      machine.cpu.write('x1', K);
      machine.cpu.write('x2', K);
      machine.kernel.answers.arena = () => true;
      expect(machine.miss(K, access)).toEqual({ how: 'retry', pc: TEXT, address: K, entry: 0n });
      expect(machine.esr()).toBe(esr);
      expect(machine.path()).toEqual([...BAD_AREA, ...FIXUP, ...STAGES]);
      expect(machine.log.events).toContainEqual(
        expect.objectContaining({ type: 'enter', fn: 'bpf_arena_handle_page_fault', args: [K, write, TEXT] }),
      );
      expect(machine.kernel.console).toEqual([]);
    },
  );

  test('cache maintenance is a write with CM set', () => {
    const machine = kthread(DC_CIVAC_X1);
    machine.kernel.answers.arena = () => true;
    machine.stop({ kind: 'cache-op', va: K, write: false });
    expect(machine.esr()).toBe('96000147');
    machine.map(K, PAGE_KERNEL_RO);
    const done = machine.stop({ kind: 'cache-op', va: K, write: false });
    expect(done).toMatchObject({ how: 'fixup', pc: TEXT + 4n });
    expect(machine.find('fault')).toBeUndefined();
  });

  test('KFENCE comes first', () => {
    const machine = kthread();
    machine.kernel.answers.kfence = () => true;
    expect(machine.miss(K, ACCESS_READ)).toMatchObject({ how: 'retry' });
    expect(machine.path()).not.toContain('bpf_arena_handle_page_fault');
  });

  test('without CONFIG_KFENCE the stage does not exist', () => {
    const machine = new TestMachine({ KFENCE: false });
    machine.code(LDR_X0_X1);
    machine.kernel.answers.arena = () => true;
    machine.miss(K, ACCESS_READ);
    expect(machine.path()).not.toContain('kfence_handle_page_fault');
    expect(machine.path()).toContain('bpf_arena_handle_page_fault');
  });

  test('the exception table comes before both, and a program load is reported byte-exact', () => {
    const machine = kthread();
    machine.addExtable({ type: 'BPF', clear: 'x7', arena: { register: 'x3', offset: -8 } });
    machine.cpu.write('x3', 0x2345_6010n);
    machine.cpu.write('x7', 0x1234n);
    expect(machine.miss(K, ACCESS_READ)).toMatchObject({ how: 'fixup', pc: TEXT + 4n });
    expect(machine.cpu.read('x7')).toBe(0n);
    expect(machine.kernel.reports).toEqual([{ write: false, addr: 0x2345_6008n, ip: TEXT }]);
    expect(machine.path()).not.toContain('kfence_handle_page_fault');
  });

  test('a translation that exists by now is spurious: a warning, no stage, retried', () => {
    for (const entry of [PAGE_KERNEL, PAGE_KERNEL & ~AF]) {
      const machine = kthread();
      // Another CPU fills the entry between the fault and the check: here, while the table is searched.
      machine.kernel.search_exception_tables = () => {
        machine.map(K, entry);
        return null;
      };
      expect(machine.miss(K, ACCESS_READ)).toMatchObject({ how: 'retry' });
      expect(machine.path()).toEqual([...BAD_AREA, ...FIXUP]);
      // Translates: PAR_EL1.F is 0. Access flag fault: F is 1, and FST is no translation fault.
      const decided = machine.log.events.flatMap((event) =>
        event.type === 'decide' && event.fn === 'is_spurious_el1_translation_fault' ? [event.value] : [],
      );
      expect(decided).toEqual(entry === PAGE_KERNEL ? [false, true, false] : [false, false, true]);
      expect(machine.kernel.warnings).toEqual([
        'arch/arm64/mm/fault.c:417: Ignoring spurious kernel translation fault at virtual address ffff800123456008',
      ]);
    }
  });

  test('the warning is rate limited, what it warns of is not', () => {
    const machine = kthread();
    for (let n = 0; n < 12; n++) {
      machine.map(K, 0n);
      machine.kernel.search_exception_tables = () => {
        machine.map(K, PAGE_KERNEL);
        return null;
      };
      expect(machine.miss(K, ACCESS_READ)).toMatchObject({ how: 'retry' });
    }
    expect(machine.kernel.warnings).toHaveLength(10);
  });

  test('a fetch abort is never spurious', () => {
    const machine = kthread();
    machine.cpu.write('pc', K);
    machine.kernel.answers.kfence = () => {
      machine.map(K, PAGE_KERNEL);
      return true;
    };
    machine.miss(K, ACCESS_FETCH);
    expect(machine.path()).toContain('kfence_handle_page_fault');
    expect(machine.kernel.warnings).toEqual([]);
  });
});

describe('after an oops', () => {
  test('in an interrupt, and with panic_on_oops, it is a panic', () => {
    const machine = kthread();
    machine.here.current.in_interrupt = 1;
    expect(machine.miss(K, ACCESS_READ)).toEqual({
      how: 'dead',
      outcome: { kind: 'panic', title: 'Oops: Fatal exception in interrupt' },
    });
    const eager = new TestMachine({ panic_on_oops: true });
    expect(eager.miss(K, ACCESS_READ)).toEqual({
      how: 'dead',
      outcome: { kind: 'panic', title: 'Oops: Fatal exception' },
    });
  });
});

describe('a tag check fault of EL1', () => {
  test('ends the checks: SCTLR_EL1.TCF is 0, nobody is told, and the access is tried again', () => {
    const machine = kthread();
    machine.cpu.write('sctlr_el1', machine.cpu.read('sctlr_el1') | (3n << 40n) | (1n << 38n));
    expect(raise(machine, 0x9600_0011n, K)).toMatchObject({ how: 'retry', pc: TEXT });
    expect((machine.cpu.read('sctlr_el1') >> 38n) & 0xfn).toBe(1n);
    expect(machine.kernel.console).toEqual([]);
    expect(machine.path()).toEqual([
      ...EL1_PATH,
      'do_tag_check_fault',
      'do_bad_area',
      '__do_kernel_fault',
      ...FIXUP,
      'do_tag_recovery',
    ]);
  });

  test('after the exception table, which saves it first', () => {
    const machine = kthread();
    machine.addExtable({ type: 'KACCESS_ERR_ZERO' });
    expect(raise(machine, 0x9600_0011n, K)).toMatchObject({ how: 'fixup' });
  });
});

test('the warning about spurious faults is printed ten times, and the eleventh is ignored in silence', () => {
  const machine = kthread();
  machine.map(K, PAGE_KERNEL);
  for (let i = 0; i < 12; i++) expect(raise(machine, 0x9600_0007n, K)).toMatchObject({ how: 'retry' });
  expect(machine.kernel.warnings).toHaveLength(10);
});

test('pagefault_disable(), a preemption count and an interrupt keep a user task from waiting for its page', () => {
  for (const context of [{ pagefault_disabled: 1 }, { preempt_count: 1 }, { in_interrupt: 1 }]) {
    const machine = userTask();
    Object.assign(machine.here.current, context);
    machine.addExtable({ type: 'UACCESS_ERR_ZERO' });
    expect(machine.miss(USER_DATA, ACCESS_READ)).toMatchObject({ how: 'fixup' });
    expect(machine.path()).not.toContain('lock_mm_and_find_vma');
  }
});
