import { describe, expect, test } from '@jest/globals';
import {
  clearStack,
  entryCode,
  FRAMED,
  FRAMELESS,
  LEAF,
  regsWords,
  SP,
  STACK,
  STACK_TOP,
  store,
  TASK_REGS,
  trace,
} from './fake-stack.js';
import { SENTINEL, type TestMachine, testMachine } from './testing.js';
import { declareStack } from './unwind-stacks.js';

interface Functions {
  readonly leaf: bigint;
  readonly framed: bigint;
  readonly plain: bigint;
  readonly stale: bigint;
}

function functions(machine: TestMachine): Functions {
  clearStack(machine);
  machine.kernel.symbols.push({ name: 'ret_from_fork_asm', start: SENTINEL - 0x1an, size: 0x30, bpf: false });
  return {
    leaf: machine.text('leaf', 0x100, LEAF),
    framed: machine.text('framed', 0x200, FRAMED),
    plain: machine.text('plain', 0x300, FRAMELESS),
    stale: machine.text('stale', 0x400, [0xc3], 0x20),
  };
}

describe('a trace by ORC', () => {
  test('shows every word that is text: the frames, and between them what is left over', () => {
    const machine = testMachine();
    const { leaf, plain, framed, stale } = functions(machine);
    // leaf <- plain <- framed, whose frame is at SP + 0x20
    store(machine, SP, [plain + 9n, stale + 5n, framed + 9n, 0n, 0x1234n, SENTINEL, stale + 7n, stale + 7n]);
    expect(trace(machine, { ip: leaf, sp: SP, bp: SP + 0x20n })).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' plain+0x9/0xe',
      ' ? stale+0x5/0x20',
      ' framed+0x9/0xb',
      ' ret_from_fork_asm+0x1a/0x30',
      ' ? stale+0x7/0x20',
      ' ? stale+0x7/0x20',
      ' </TASK>',
    ]);
  });

  test('a call that is the last instruction belongs to the caller, whose frame is that of the call', () => {
    const machine = testMachine();
    const { leaf, stale } = functions(machine);
    // push rax; call stale2; and nothing behind it
    const caller = machine.text('caller', 0x500, [0x50, 0xe8, 0xfa, 0xfe, 0xff, 0xff]);
    machine.text('next', 0x506, LEAF);
    store(machine, SP, [caller + 6n, stale + 1n, SENTINEL]);
    expect(trace(machine, { ip: leaf, sp: SP }).slice(2, 5)).toEqual([
      ' caller+0x6/0x6',
      ' ? stale+0x1/0x20',
      ' ret_from_fork_asm+0x1a/0x30',
    ]);
  });

  test('a call through a null pointer: what was called has no code, its caller is the first line', () => {
    const machine = testMachine();
    const { plain } = functions(machine);
    store(machine, SP, [plain + 9n, 0n, SENTINEL]);
    expect(trace(machine, { ip: 0n, sp: SP }).slice(2, 4)).toEqual([
      ' plain+0x9/0xe',
      ' ret_from_fork_asm+0x1a/0x30',
    ]);
  });

  test('a jump to where no code can be goes on by the frame pointer', () => {
    const machine = testMachine();
    const { plain, framed } = functions(machine);
    store(machine, SP, [plain + 9n, SP + 0x20n, framed + 9n, 0n, 0x1234n, SENTINEL]);
    expect(trace(machine, { ip: 0x4141n, sp: SP, bp: SP + 0x8n }).slice(2, 5)).toEqual([
      ' ? plain+0x9/0xe',
      ' framed+0x9/0xb',
      ' ret_from_fork_asm+0x1a/0x30',
    ]);
  });

  test('text without a frame that is known leaves only leftovers', () => {
    const machine = testMachine();
    const { leaf, plain } = functions(machine);
    const odd = machine.text('odd', 0x600, [0x48, 0x8b, 0x27, 0x90, 0xe8, 0, 0, 0, 0, 0xc3]);
    store(machine, SP, [odd + 9n, plain + 9n, SENTINEL]);
    expect(trace(machine, { ip: leaf, sp: SP }).slice(2, 5)).toEqual([
      ' odd+0x9/0xa',
      ' ? plain+0x9/0xe',
      ' ? ret_from_fork_asm+0x1a/0x30',
    ]);
  });

  test('a stack that leads downwards is said so, once since boot', () => {
    const machine = testMachine();
    const { leaf, framed } = functions(machine);
    store(machine, SP, [framed + 9n, SP - 0x40n, SENTINEL]);
    const downwards = { ip: leaf, sp: SP, bp: SP - 0x80n };
    store(machine, SP - 0x80n, [0n, framed + 9n]);
    expect(trace(machine, downwards)).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' framed+0x9/0xb',
      'WARNING: stack going in the wrong direction? at framed+0x9/0xb',
      ' ? ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
    ]);
    expect(trace(machine, downwards)).not.toContainEqual(expect.stringContaining('WARNING'));
  });
});

const REGISTER_LINES = [
  'RAX: 0000000000000000 RBX: 0000000000000000 RCX: 0000000000000000',
  'RDX: 0000000000000000 RSI: 0000000000000000 RDI: 0000000000000000',
];

describe('registers on the stack', () => {
  test('of interrupted kernel code: a block, and the trace goes on behind it', () => {
    const machine = testMachine();
    const { leaf, plain, stale } = functions(machine);
    const entry = entryCode(machine, 'asm_exc_page_fault', 0x700, 0x30);
    const victim = machine.text('victim', 0x800, LEAF);
    // leaf <- plain <- asm_exc_page_fault with pt_regs: victim, called by plain.
    const outer = SP + 0x200n;
    store(machine, SP, [
      plain + 9n,
      stale + 1n,
      entry + 0x26n,
      ...regsWords({ ip: victim, sp: outer, flags: 0x246n }),
    ]);
    // What victim's stack pointer had already left behind is no frame.
    store(machine, outer - 8n, [stale + 3n, plain + 9n, 0n, SENTINEL]);
    const lines = trace(machine, { ip: leaf, sp: SP });
    expect(lines.filter((line) => !line.startsWith('Code: '))).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' plain+0x9/0xe',
      ' ? stale+0x1/0x20',
      ' asm_exc_page_fault+0x26/0x30',
      'RIP: 0010:victim+0x0/0x4',
      `RSP: 0018:${outer.toString(16)} EFLAGS: 00000246`,
      ...REGISTER_LINES,
      'RBP: 0000000000000000 R08: 0000000000000000 R09: 0000000000000000',
      'R10: 0000000000000000 R11: 0000000000000000 R12: 0000000000000000',
      'R13: 0000000000000000 R14: 0000000000000000 R15: 0000000000000000',
      ' ? stale+0x3/0x20',
      ' plain+0x9/0xe',
      ' ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
    ]);
    expect(lines[6]).toMatch(/^Code: (00 ){42}<48> 89 07 c3/);
  });

  test('the instruction of an interrupted frame is exact: its own frame counts, not that of the one before', () => {
    const machine = testMachine();
    const { leaf } = functions(machine);
    const entry = entryCode(machine, 'asm_exc_page_fault', 0x700, 0x30);
    // push rax; (here) pop rax; ret
    const victim = machine.text('victim', 0x800, [0x50, 0x58, 0xc3]);
    const outer = SP + 0x200n;
    store(machine, SP, [entry + 0x26n, ...regsWords({ ip: victim + 1n, sp: outer })]);
    store(machine, outer, [0x1234n, SENTINEL]);
    expect(trace(machine, { ip: leaf, sp: SP }).slice(-2)).toEqual([
      ' ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
    ]);
  });

  test('of user code: the block ends the trace', () => {
    const machine = testMachine();
    const { leaf, plain } = functions(machine);
    const entry = entryCode(machine, 'entry_SYSCALL_64_after_hwframe', 0x700, 0x7e);
    const user = regsWords({
      ip: 0x401000n,
      cs: 0x33n,
      ss: 0x2bn,
      sp: 0x7ffe_0000n,
      flags: 0x246n,
      orig_ax: 1n,
    });
    store(machine, TASK_REGS - 0x18n, [plain + 9n, 0n, entry + 0x76n, ...user]);
    const lines = trace(machine, { ip: leaf, sp: TASK_REGS - 0x18n });
    expect(lines).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' plain+0x9/0xe',
      ' entry_SYSCALL_64_after_hwframe+0x76/0x7e',
      'RIP: 0033:0x401000',
      'Code: Unable to access opcode bytes at 0x400fd6.',
      'RSP: 002b:000000007ffe0000 EFLAGS: 00000246 ORIG_RAX: 0000000000000001',
      ...REGISTER_LINES,
      'RBP: 0000000000000000 R08: 0000000000000000 R09: 0000000000000000',
      'R10: 0000000000000000 R11: 0000000000000000 R12: 0000000000000000',
      'R13: 0000000000000000 R14: 0000000000000000 R15: 0000000000000000',
      ' </TASK>',
    ]);
  });

  test('of user code in the middle of a stack end the walk, wherever RBP points', () => {
    const machine = testMachine();
    const { leaf, framed } = functions(machine);
    const entry = entryCode(machine, 'asm_exc_page_fault', 0x700, 0x30);
    const outer = SP + 0x200n;
    const user = regsWords({ ip: 0x401000n, cs: 0x33n, sp: 0x7ffe_0000n, bp: outer });
    store(machine, SP, [entry + 0x26n, ...user]);
    store(machine, outer, [0n, framed + 9n]);
    expect(trace(machine, { ip: leaf, sp: SP }).slice(-2)).toEqual([' ? framed+0x9/0xb', ' </TASK>']);
  });

  test('in entry code only what hardware pushed is there', () => {
    const machine = testMachine();
    const { leaf, plain } = functions(machine);
    const entry = entryCode(machine, 'asm_exc_page_fault', 0x700, 0x30);
    const victim = machine.text('victim', 0x800, LEAF);
    const outer = SP + 0x200n;
    // A return into the part before error_entry(): error code, then ip, cs, flags, sp, ss.
    store(machine, SP, [entry + 0xcn, 2n, victim, 0x10n, 0x246n, outer, 0x18n]);
    store(machine, outer, [plain + 9n, 0n, SENTINEL]);
    expect(trace(machine, { ip: leaf, sp: SP }).filter((line) => !line.startsWith('Code: '))).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' asm_exc_page_fault+0xc/0x30',
      'RIP: 0010:victim+0x0/0x4',
      `RSP: 0018:${outer.toString(16)} EFLAGS: 00000246`,
      ' plain+0x9/0xe',
      ' ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
    ]);
  });

  test('that do not lie on the stack end the walk with a warning', () => {
    const machine = testMachine();
    const { leaf } = functions(machine);
    const entry = entryCode(machine, 'asm_exc_page_fault', 0x700, 0x30);
    store(machine, STACK_TOP - 0x20n, [entry + 0x26n, 0n, 0n, 0n]);
    expect(trace(machine, { ip: leaf, sp: STACK_TOP - 0x20n })).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' asm_exc_page_fault+0x26/0x30',
      // As the kernel asks which stack they would be on instead: the same one.
      'WARNING: stack recursion on stack type 1',
      "WARNING: can't access registers at asm_exc_page_fault+0x26/0x30",
      ' </TASK>',
    ]);
  });
});

describe('stacks', () => {
  test('a stack pointer in the guard page shows the stack above it', () => {
    const machine = testMachine();
    const { leaf, framed, stale } = functions(machine);
    store(machine, STACK, [stale + 1n, 0n, SENTINEL]);
    const lines = trace(machine, { ip: leaf, sp: STACK - 0x10n });
    expect(lines).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' ? stale+0x1/0x20',
      ' ? ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
    ]);
    // A frame pointer into the stack is followed.
    const inside = trace(machine, { ip: framed + 4n, sp: STACK - 0x10n, bp: STACK + 8n });
    expect(inside.slice(2, 4)).toEqual([' ? stale+0x1/0x20', ' ret_from_fork_asm+0x1a/0x30']);
  });

  test.each([
    ['far from any stack', STACK - 0x10000n],
    ['at the end of the stack', STACK_TOP],
    ['a user address', 0x7fff_0000n],
    ['not canonical', 0x4141_4141_4141_4141n],
    ['zero', 0n],
    ['the last address', 0xffff_ffff_ffff_ffffn],
  ])('a stack pointer %s: no lines', (_, sp) => {
    const machine = testMachine();
    const { leaf } = functions(machine);
    expect(trace(machine, { ip: leaf, sp, bp: SP })).toEqual(['Call Trace:']);
  });

  test('one that is not aligned is rounded up', () => {
    const machine = testMachine();
    const { leaf, stale, plain } = functions(machine);
    store(machine, SP, [plain + 9n, stale + 1n, SENTINEL]);
    expect(trace(machine, { ip: leaf, sp: SP + 3n }).slice(2, 4)).toEqual([
      ' ? stale+0x1/0x20',
      ' ? ret_from_fork_asm+0x1a/0x30',
    ]);
  });

  test('code on the IRQ stack: its part, and then that of the task', () => {
    const machine = testMachine();
    const { leaf, plain } = functions(machine);
    // push rbp; mov rbp,rsp; mov [r11],rsp; mov rsp,r11; call; pop rsp; pop rbp; ret
    const code = [
      0x55, 0x48, 0x89, 0xe5, 0x49, 0x89, 0x23, 0x4c, 0x89, 0xdc, 0xe8, 0, 0, 0, 0, 0x5c, 0x5d, 0xc3,
    ];
    const switching = machine.text('call_on_irq_stack', 0x700, code);
    const irq = 0xffffc90000210000n;
    for (let page = 0; page < 4; page++) {
      machine.map(irq + BigInt(page * 4096), BigInt(0x240000 + page * 4096) | 0x8000000000000163n);
    }
    declareStack(machine.here, 'IRQ', irq, 0x4000);
    const top = irq + 0x4000n;
    const frame = SP + 0x10n;
    // On the IRQ stack: leaf <- plain <- call_on_irq_stack, and where it came from.
    store(machine, top - 0x20n, [plain + 9n, 0n, switching + 0xfn, frame]);
    store(machine, frame, [0n, plain + 9n, 0n, SENTINEL]);
    expect(trace(machine, { ip: leaf, sp: top - 0x20n, bp: frame })).toEqual([
      'Call Trace:',
      ' <IRQ>',
      ' plain+0x9/0xe',
      ' call_on_irq_stack+0xf/0x12',
      ' </IRQ>',
      ' <TASK>',
      ' plain+0x9/0xe',
      ' ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
    ]);

    // It came from itself.
    store(machine, top - 8n, [irq + 0x100n]);
    const lines = trace(machine, { ip: leaf, sp: top - 0x20n, bp: frame });
    expect(lines.slice(-2)).toEqual([' </IRQ>', 'WARNING: stack recursion on stack type 2']);
  });

  test('an exception stack: registers of the interrupted code are at its end', () => {
    const machine = testMachine();
    const { leaf, plain } = functions(machine);
    const entry = entryCode(machine, 'asm_exc_page_fault', 0x700, 0x30);
    const df = 0xffffc90000210000n;
    machine.map(df, 0x240000n | 0x8000000000000163n);
    declareStack(machine.here, '#DF', df, 0x1000);
    const regs = df + 0x1000n - 168n;
    store(machine, regs - 8n, [entry + 0x26n, ...regsWords({ ip: leaf, sp: SP })]);
    store(machine, SP, [plain + 9n, 0n, SENTINEL]);
    const lines = trace(machine, { ip: leaf, sp: regs - 8n });
    expect(lines.filter((line) => /^ |^RIP/.test(line))).toEqual([
      ' <#DF>',
      ' asm_exc_page_fault+0x26/0x30',
      'RIP: 0010:leaf+0x0/0x4',
      ' </#DF>',
      ' <TASK>',
      ' plain+0x9/0xe',
      ' ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
    ]);
  });
});
