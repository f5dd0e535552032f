import { describe, expect, test } from '@jest/globals';
import { HOLE, SENTINEL, STACK_TOP, TEXT, testMachine } from './testing.js';

const LEAF = TEXT + 0x100n;
const CALLER = TEXT + 0x200n;
const SP = STACK_TOP - 0x110n;

describe('the text of an oops', () => {
  test('of a kernel write to an empty vmalloc page', () => {
    const machine = testMachine();
    // leaf: 7 bytes of nop, then mov [rdi], rax
    machine.text('leaf', 0x100, [0x0f, 0x1f, 0x80, 0, 0, 0, 0, 0x48, 0x89, 0x07, 0xc3], 0x10);
    machine.text(
      'caller',
      0x200,
      [0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 0x08, 0xc3],
      0x30,
    );
    machine.text('stale', 0x300, [0xc3], 0x20);
    machine.kernel.symbols.push({
      name: 'ret_from_fork_asm',
      start: SENTINEL - 0x1an,
      size: 0x30,
      bpf: false,
    });
    const pa = machine.mmu.peek(SP);
    // leaf's return address, a stale one in caller's frame, caller's return address
    [CALLER + 9n, TEXT + 0x305n, SENTINEL].forEach((word, i) => {
      machine.ram.writeU64(pa + 8 * i, word);
    });
    machine.set({ rip: LEAF + 7n, rsp: SP, rflags: 0x246n, rdi: HOLE, rax: 0x4141n, r10: 0x10n, rbp: 0n });
    machine.miss(HOLE, 'write');

    const [walk] = machine.events('walk');
    const [pgd, pud, pmd] = (walk?.levels ?? []).map(({ entry }) => entry.toString(16));
    const zero = '0000000000000000';
    const registers = [
      'RIP: 0010:leaf+0x7/0x10',
      `Code: ${'00 '.repeat(35)}0f 1f 80 00 00 00 00 <48> 89 07 c3${' 00'.repeat(18)}`,
      'RSP: 0018:ffffc90000203ef0 EFLAGS: 00010246',
      `RAX: 0000000000004141 RBX: ${zero} RCX: ${zero}`,
      `RDX: ${zero} RSI: ${zero} RDI: ffffc90000401008`,
      `RBP: ${zero} R08: ${zero} R09: ${zero}`,
      `R10: 0000000000000010 R11: ${zero} R12: ${zero}`,
      `R13: ${zero} R14: ${zero} R15: ${zero}`,
      `FS:  ${zero}(0000) GS:ffff888000000000(0000) knlGS:${zero}`,
      'CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033',
      'CR2: ffffc90000401008 CR3: 0000000000100000 CR4: 00000000003506f0',
    ];
    expect(machine.console()).toEqual([
      'BUG: unable to handle page fault for address: ffffc90000401008',
      '#PF: supervisor write access in kernel mode',
      '#PF: error_code(0x0002) - not-present page',
      `PGD ${pgd} P4D ${pgd} PUD ${pud} PMD ${pmd} PTE 0`,
      'Oops: Oops: 0002 [#1] SMP NOPTI',
      'CPU: 0 UID: 0 PID: 100 Comm: t Not tainted ',
      ...registers,
      'Call Trace:',
      ' <TASK>',
      ' caller+0x9/0x30',
      ' ? stale+0x5/0x20',
      ' ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
      'Modules linked in:',
      'CR2: ffffc90000401008',
      '---[ end trace 0000000000000000 ]---',
      ...registers,
      'note: t[100] exited with irqs disabled',
    ]);
    const levels = machine.events('console').map(({ level }) => level);
    expect(levels.slice(0, 4)).toEqual([1, 1, 1, 6]);
    expect(new Set(levels.slice(4, -1))).toEqual(new Set([4]));
    expect(levels.at(-1)).toBe(6);
  });

  test('of a jump to 0: the bytes at its address cannot be read, and the attempt is in CR2', () => {
    const machine = testMachine();
    machine.set({ rip: 0n });
    machine.miss(0n, 'fetch');
    const lines = machine.console();
    expect(lines.slice(0, 3)).toEqual([
      'BUG: kernel NULL pointer dereference, address: 0000000000000000',
      '#PF: supervisor instruction fetch in kernel mode',
      '#PF: error_code(0x0010) - not-present page',
    ]);
    expect(lines[3]).toBe('PGD 0 P4D 0 ');
    expect(lines).toContain('RIP: 0010:0x0');
    expect(lines).toContain('Code: Unable to access opcode bytes at 0xffffffffffffffd6.');
    expect(lines.filter((line) => line.startsWith('CR2:'))).toEqual([
      'CR2: ffffffffffffffd6 CR3: 0000000000100000 CR4: 00000000003506f0',
      'CR2: 0000000000000000',
      'CR2: ffffffffffffffd6 CR3: 0000000000100000 CR4: 00000000003506f0',
    ]);
  });

  test('the table line ends behind a leaf with a blank, and BAD stands for a table that cannot be read', () => {
    const machine = testMachine();
    machine.set({ rip: LEAF });
    const levels = machine.mmu.explain(HOLE, 'read', false, false).levels;
    const pmd = levels[2]?.entryPa ?? 0;
    machine.ram.writeU64(pmd, 0x2001a1n);
    machine.miss(HOLE, 'write');
    machine.ram.writeU64(pmd, 0x3f000000066n);
    machine.miss(HOLE, 'write');
    const lines = machine.console().filter((line) => /^PGD|^BAD/.test(line));
    expect(lines[0]).toMatch(/ PMD 2001a1 $/);
    expect(lines[1]).toMatch(/ PMD 3f000000066 $/);
    machine.ram.writeU64(pmd, 0x3f000000067n);
    machine.miss(HOLE, 'write');
    const last = machine.console().filter((line) => /^PGD|^BAD/.test(line));
    expect(last.slice(2)).toEqual([expect.stringMatching(/ PMD 3f000000067 $/), 'BAD']);
  });

  test('panic_on_oops', () => {
    const machine = testMachine({ panic_on_oops: true });
    machine.set({ rip: LEAF });
    machine.miss(HOLE, 'write');
    expect(machine.console().at(-1)).toBe('Kernel panic - not syncing: Fatal exception');
  });
});
