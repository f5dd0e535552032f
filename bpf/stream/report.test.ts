import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { HandlerFrame, ThisCpu } from '../../arch/arch.js';
import type { Path } from '../../emu/path.js';
import { ENOENT } from '../../kernel/errno.js';
import { bpf_arena_handle_page_fault } from '../arena/arena_fault.js';
import { FakeMachine, ka } from '../fake-machine.js';
import type { bpf_prog } from '../program.js';
import { bpf_prog_report_arena_violation, hexDigits } from './report.js';
import { BPF_STDERR, bpf_stream_get, bpf_stream_push_str, bpf_stream_read, utf8 } from './stream.js';
import { bpf_stream_print_stack } from './stream_kfuncs.js';

/** The example of the kernel's text, with a line table of the program. */
function setup() {
  const machine = new FakeMachine();
  const arena = machine.arena();
  const linfo = [
    { offset: 0, file: 'progs/prog.bpf.c', line: 40, text: 'int test(void)' },
    { offset: 0x20, file: 'progs/prog.bpf.c', line: 42, text: '\tmy_kfunc(p);' },
  ];
  const prog = machine.program('test', 0, { arena, linfo, tag: '0a349df717208e67' });
  machine.callFrom(prog);
  const symbol = { name: prog.aux.ksym.name, start: prog.bpf_func, size: 256, kind: 'bpf' } as const;
  machine.cpu.kallsyms.add(symbol);
  const fault = (n: number, is_write = false, here: ThisCpu = machine.here) =>
    machine.run(bpf_arena_handle_page_fault(here, machine.env, ka(arena, n), is_write, 0n));
  const violation = (write: boolean, addr: bigint) => {
    const ip = prog.bpf_func + 0x2an;
    machine.run(bpf_prog_report_arena_violation(machine.here, machine.env, write, addr, ip));
  };
  return { machine, arena, prog, fault, violation };
}

/** Writes to a program's stderr, as if the program did. */
function write(machine: FakeMachine, prog: bpf_prog, text: string): void {
  const stream = bpf_stream_get(BPF_STDERR, prog);
  const { here, env } = machine;
  if (stream !== null) bpf_stream_push_str(here, env, prog, stream, utf8(text), text.length);
}

/** A line of `bytes` bytes, its end included. */
const line = (bytes: number) => `${'z'.repeat(bytes - 1)}\n`;

const KERNEL_SIDE_TEXT = `\
ERROR: Arena READ access at unmapped address 0x7f7d26203000
CPU: 0 UID: 0 PID: 123 Comm: test_progs
Call trace:
bpf_stream_stage_dump_stack+0xe6/0x1a0
bpf_arena_handle_page_fault+0xd4/0x140
page_fault_oops+0x92/0x2d0
exc_page_fault+0x71/0x120
asm_exc_page_fault+0x26/0x30
my_kfunc+0x12/0x40
bpf_prog_0a349df717208e67_test+0x2a/0x100
  my_kfunc(p); @ prog.bpf.c:42
bpf_test_run+0x1b0/0x3a0

`;

describe('the text of a report', () => {
  test('for the kernel side', () => {
    const { machine, prog, fault } = setup();
    fault(3);
    expect(machine.stderr(prog)).toBe(KERNEL_SIDE_TEXT);
  });

  test('for the program side: byte-exact address, the frames of the exception table', () => {
    const { machine, prog, violation } = setup();
    machine.cpu.stack = machine.cpu.stack.slice(1);
    violation(true, 0x26200000n + 0x7fffn);
    expect(machine.stderr(prog)).toBe(`\
ERROR: Arena WRITE access at unmapped address 0x7f7d26207fff
CPU: 0 UID: 0 PID: 123 Comm: test_progs
Call trace:
bpf_stream_stage_dump_stack+0xe6/0x1a0
bpf_prog_report_arena_violation+0x90/0xb0
ex_handler_bpf+0x4a/0xa0
asm_exc_page_fault+0x26/0x30
bpf_prog_0a349df717208e67_test+0x2a/0x100
  my_kfunc(p); @ prog.bpf.c:42
bpf_test_run+0x1b0/0x3a0

`);
  });

  test('an exception of another kind at the same address has its own frames', () => {
    const { machine, prog, violation } = setup();
    const others: readonly HandlerFrame[] = [{ fn: 'ex_handler_bpf', offset: 0x10 }];
    const usual = machine.here.arch.progSideFrames(machine.here);
    for (const frames of [usual, others, usual]) {
      Object.assign(machine.here.arch, { progSideFrames: () => frames });
      violation(true, 0x26207fffn);
    }
    const inner = machine.stderr(prog).split('Call trace:\n').slice(1);
    expect(inner.map((text) => text.slice(0, text.indexOf('+')))).toEqual([
      'bpf_stream_stage_dump_stack',
      'ex_handler_bpf',
      'bpf_stream_stage_dump_stack',
    ]);
  });

  test('the program side leaves the page alone', () => {
    const { machine, arena, violation } = setup();
    violation(false, 0x26203010n);
    expect(machine.stateAt(arena, ka(arena, 3))).toBe('none');
  });

  test('a program may print its stack on either stream', () => {
    const { machine, prog } = setup();
    const print = (id: number) => machine.run(bpf_stream_print_stack(machine.here, machine.env, prog, id));
    expect([print(BPF_STDERR), print(3), print(0xbadcafe)]).toEqual([0, -ENOENT, -ENOENT]);
    expect(machine.stderr(prog).split('\n').slice(0, 4)).toEqual([
      'CPU: 0 UID: 0 PID: 123 Comm: test_progs',
      'Call trace:',
      'bpf_stream_stage_dump_stack+0xe6/0x1a0',
      'my_kfunc+0x12/0x40',
    ]);
  });

  test('a negative sum prints below the 4 GiB of the arena, one above them behind', () => {
    const { machine, prog, violation } = setup();
    violation(false, -0x8000n);
    violation(false, 0xffff_ffffn + 0x7fffn);
    expect(machine.reports(prog)).toEqual([
      'ERROR: Arena READ access at unmapped address 0x7f7cffff8000',
      'ERROR: Arena READ access at unmapped address 0x7f7e00007ffe',
    ]);
  });

  test('an address outside of every program is nobody to report to', () => {
    const { machine, prog } = setup();
    machine.run(bpf_prog_report_arena_violation(machine.here, machine.env, true, 0n, 0x1234n));
    expect(machine.stderr(prog)).toBe('');
  });

  test('no frame at all where the architecture cannot walk', () => {
    const { machine, prog, violation } = setup();
    machine.cpu.stack = [];
    violation(false, 0n);
    expect(machine.stderr(prog).split('\n').slice(2)).toEqual(['Call trace:', '', '']);
  });

  test('a line that is too long for an element ends the dump and stays counted', () => {
    const machine = new FakeMachine();
    const arena = machine.arena();
    const linfo = [{ offset: 0, file: 'f.c', line: 1, text: 'x'.repeat(1200) }];
    const prog = machine.program('long', 0, { arena, linfo });
    machine.callFrom(prog);
    machine.run(bpf_arena_handle_page_fault(machine.here, machine.env, ka(arena, 1), false, 0n));
    const text = machine.stderr(prog);
    expect(text.endsWith('my_kfunc+0x12/0x40\n')).toBe(true);
    const stream = bpf_stream_get(BPF_STDERR, prog);
    const symbol = `0x${(prog.bpf_func + 0x2an).toString(16)}`;
    expect(stream?.capacity).toBe(text.length + `${symbol}\n  ${'x'.repeat(1200)} @ f.c:1\n`.length);
  });

  test('the task, CPU and symbols are those of the time of the report', () => {
    const { machine, prog, fault } = setup();
    fault(3);
    machine.here.current.comm = 'other';
    machine.here.current.uid = 1000;
    fault(4, true, machine.otherCpu(1));
    const gone = machine.program('gone', 1);
    machine.env.programs.unload(gone);
    for (const symbol of [...machine.cpu.kallsyms.symbols]) machine.cpu.kallsyms.remove(symbol);
    const text = machine.stderr(prog);
    expect(text.startsWith(KERNEL_SIDE_TEXT)).toBe(true);
    expect(text).toContain('CPU: 1 UID: 1000 PID: 123 Comm: other\n');
  });
});

describe('the length of a report', () => {
  test('is known without its text', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }), fc.nat(64), (value, shift) => {
        const shifted = value >> BigInt(shift);
        expect(hexDigits(shifted)).toBe(shifted.toString(16).length);
      }),
      { seed: 20260525, numRuns: 2000 },
    );
    for (let bits = 0n; bits <= 64n; bits++) {
      for (const value of [(1n << bits) - 1n, bits < 64n ? 1n << bits : 0n]) {
        expect(hexDigits(value)).toBe(value.toString(16).length);
      }
    }
  });

  test('is what the stream reserves and what reading frees', () => {
    const { machine, prog, fault, violation } = setup();
    fault(3);
    violation(true, 0x10n);
    violation(false, -0x7f7d_0000_0000n);
    const stream = bpf_stream_get(BPF_STDERR, prog);
    if (stream === null) throw new Error('no stream');
    const { capacity } = stream;
    let bytes = 0;
    // biome-ignore lint/correctness/useYield: it decides nothing
    const count = function* (_offset: number, part: Uint8Array): Path<number> {
      bytes += part.length;
      return 0;
    };
    const read = machine.run(bpf_stream_read(machine.here, stream, 100_000, count));
    expect([read, bytes, stream.capacity]).toEqual([capacity, capacity, 0]);
  });
});

describe('a full stream', () => {
  test('drops a report whole and changes nothing else', () => {
    const { machine, arena, prog, fault } = setup();
    const stream = bpf_stream_get(BPF_STDERR, prog);
    for (let i = 0; i < 99; i++) write(machine, prog, line(1000));
    write(machine, prog, line(900));
    expect(fault(3)).toBe(true);
    expect(machine.stateAt(arena, ka(arena, 3))).toBe('scratch');
    expect(machine.reports(prog)).toEqual([]);
    expect(stream?.capacity).toBe(99_900);
  });

  test('takes a report that just fits: 99999 bytes, not 100000', () => {
    const fits = (room: number) => {
      const { machine, prog, fault } = setup();
      const fill = 99_999 - KERNEL_SIDE_TEXT.length - room;
      for (let left = fill; left > 0; left -= 1000) {
        write(machine, prog, line(Math.min(left, 1000)));
      }
      fault(3);
      return machine.reports(prog).length;
    };
    expect([fits(0), fits(-1)]).toEqual([1, 0]);
  });

  test('costs a sweep of faults neither memory nor formatting', () => {
    const { machine, arena, prog, violation } = setup();
    const { env, here } = machine;
    machine.here.trace.sink = { emit: () => undefined };
    for (let n = 0; n < 20_000; n++) violation((n & 1) === 0, BigInt(n));
    const stream = bpf_stream_get(BPF_STDERR, prog);
    const reports = stream?.log.length;
    expect(env.dumps.formatted).toBe(1);
    for (let n = 0; n < 20_000; n++) {
      machine.run(bpf_arena_handle_page_fault(here, env, ka(arena, n & 15), false, 0n));
    }
    expect(env.dumps.formatted).toBe(2);
    expect(stream?.log.length).toBe(reports);
  });
});

describe('a text of a report that is lost', () => {
  /** The report of a fault of which the elements with these numbers have no memory. */
  function lose(...lost: number[]) {
    const { machine, prog, fault } = setup();
    let asked = 0;
    machine.env.allocationFails = (what) => what === 'bpf_stream_elem' && lost.includes(asked++);
    expect(fault(3)).toBe(true);
    return { text: machine.stderr(prog), capacity: bpf_stream_get(BPF_STDERR, prog)?.capacity, machine };
  }
  const LINES = KERNEL_SIDE_TEXT.split('\n').map((text) => `${text}\n`);
  const [FIRST = '', CPU = '', TRACE = ''] = LINES;

  test('is none: the same report, text by text', () => {
    expect(lose()).toMatchObject({ text: KERNEL_SIDE_TEXT, capacity: KERNEL_SIDE_TEXT.length });
  });

  test('does not keep the dump from following when it is the first', () => {
    const { text, capacity } = lose(0);
    expect(text).toBe(KERNEL_SIDE_TEXT.slice(FIRST.length));
    expect(capacity).toBe(KERNEL_SIDE_TEXT.length);
  });

  test('ends the dump at once, and stays counted', () => {
    expect(lose(1)).toMatchObject({ text: FIRST, capacity: FIRST.length + CPU.length });
    expect(lose(2)).toMatchObject({ text: FIRST + CPU, capacity: (FIRST + CPU + TRACE).length });
    const { text } = lose(4);
    expect(text).toBe(LINES.slice(0, 4).join(''));
  });

  test('is each, and nothing counted, when all buffers of the CPU are taken', () => {
    const { machine, prog, fault } = setup();
    machine.env.bprintf.setLevel(0, 3);
    expect(fault(3)).toBe(true);
    expect([machine.stderr(prog), bpf_stream_get(BPF_STDERR, prog)?.capacity]).toEqual(['', 0]);
    expect(machine.cpu.warnings).toEqual(['kernel/bpf/helpers.c bpf_try_get_buffers']);
    machine.env.bprintf.setLevel(0, 2);
    fault(4);
    expect(machine.reports(prog)).toHaveLength(1);
    expect(machine.env.bprintf.level(0)).toBe(2);
  });
});
