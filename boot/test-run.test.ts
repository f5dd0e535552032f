import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Arch } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { x86 } from '../arch/x86/index.js';
import type { bpf_prog } from '../bpf/program.js';
import { BPF_STDERR, streamText } from '../bpf/stream/stream.js';
import { assembleBpf } from '../bpf/text/asm.js';
import { EventLog } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { GuestRefusal } from '../kernel/guest-refusal.js';
import { BPF_FUNCTIONS } from './bpf-functions.js';
import { System } from './system.js';

const engine = new NativeEngine(undefined, { reuse: true });

/** A program that calls a function with a number, and returns 7. */
const CODE: Record<Arch['name'], (argument: number, distance: number) => Uint8Array> = {
  // push rbp; mov rbp, rsp; mov edi, n; call; mov eax, 7; pop rbp; ret
  'x86-64': (argument, distance) => {
    const code = Buffer.from('554889e5bf00000000e80000000' + '0b8070000005dc3', 'hex');
    code.writeInt32LE(argument, 5);
    code.writeInt32LE(distance - 14, 10);
    return code;
  },
  // stp x29, x30, [sp, #-16]!; mov x29, sp; mov w0, n; bl; mov w0, #7; ldp x29, x30, [sp], #16; ret
  arm64: (argument, distance) => {
    const bl = (0x94000000 | (((distance - 12) >> 2) & 0x3ffffff)) >>> 0;
    const mov = 0x52800000 | (argument << 5);
    return new Uint8Array(
      Uint32Array.of(0xa9bf7bfd, 0x910003fd, mov, bl, 0x528000e0, 0xa8c17bfd, 0xd65f03c0).buffer,
    );
  },
};

/** Below the program, outermost last: published reports of both architectures. */
const CALLERS: Record<Arch['name'], readonly string[]> = {
  'x86-64': [
    'bpf_prog_test_run_syscall+0x102/0x240',
    '__sys_bpf+0xd68/0x2bf0',
    '__x64_sys_bpf+0x1e/0x30',
    'do_syscall_64+0x68/0x140',
    'entry_SYSCALL_64_after_hwframe+0x76/0x7e',
  ],
  arm64: [
    'bpf_prog_test_run_syscall+0x100/0x328',
    '__sys_bpf+0x508/0xb98',
    '__arm64_sys_bpf+0x2c/0x48',
    'invoke_syscall+0x50/0x120',
    'el0_svc_common.constprop.0+0x48/0xf8',
    'do_el0_svc+0x28/0x40',
    'el0_svc+0x48/0xf8',
    'el0t_64_sync_handler+0xa0/0xe8',
    'el0t_64_sync+0x198/0x1a0',
  ],
};

describe.each([x86, arm64])('BPF_PROG_TEST_RUN on $name', (arch) => {
  let system: System;
  beforeEach(() => {
    system = System.boot({ arch, engine, sink: new EventLog() });
  });
  afterEach(() => system.close());

  const load = (name: string, argument: number): bpf_prog => {
    const start = system.textBase('bpf');
    const distance = Number(system.callables.addressOf(name) - start);
    return system.loadProgram({ name: 'p', start, code: CODE[arch.name](argument, distance) });
  };
  const returned = (): bigint => system.here().cpu.read(arch.returnRegister) & 0xffff_ffffn;
  /** Lines of the stack on stderr, from the program outwards. */
  const stack = (prog: bpf_prog): string[] => {
    const lines = streamText(prog.aux.stream[1]).trimEnd().split('\n');
    return lines.slice(lines.findIndex((line) => line.startsWith('bpf_prog_') && line.includes('_p+')) + 1);
  };

  test('runs a program below the frames of the system call, and says what it returned', () => {
    const prog = load('bpf_stream_print_stack', BPF_STDERR);
    expect(drain(system.testRun(0, prog, 0n, 'syscall'))).toEqual({ kind: 'returned' });
    expect(returned()).toBe(7n);
    expect(stack(prog)).toEqual(CALLERS[arch.name]);
  });

  test('socket filters are run by other functions', () => {
    const prog = load('bpf_stream_print_stack', BPF_STDERR);
    expect(drain(system.testRun(0, prog, 0n, 'skb')).kind).toBe('returned');
    const names = stack(prog).map((line) => line.replace(/\+.*/, ''));
    expect(names.slice(0, 3)).toEqual(['bpf_test_run', 'bpf_prog_test_run_skb', '__sys_bpf']);
    // And the next one of the first kind by the first again.
    expect(drain(system.testRun(0, prog, 0n, 'syscall')).kind).toBe('returned');
    expect(stack(prog).slice(-CALLERS[arch.name].length)).toEqual(CALLERS[arch.name]);
  });

  test('a kfunc that is told which program calls needs no unwinder, and native code whose caller nobody knows is refused', () => {
    const walks = arch.name === 'arm64';
    const blind = System.boot({ arch, engine, sink: new EventLog(), config: { UNWINDER: 'frame_pointer' } });
    try {
      const text = assembleBpf('r1 = 2\ncall bpf_stream_print_stack\nexit', { constant: () => null });
      const { functions } = blind.loadBpf({
        functions: [{ name: 'p', text }],
        maps: new Map(),
        arena: null,
        functionsOfText: new Map(),
        symbols: new Map(),
        sleepable: true,
        context: [],
      });
      const prog = functions[0]?.prog;
      if (prog === undefined) throw new Error('no program');
      expect(drain(blind.testRun(0, prog, 0n, 'syscall'))).toEqual({ kind: 'returned' });
      const [cpu, trace, ...frames] = streamText(prog.aux.stream[1]).split('\n');
      expect([cpu, trace]).toEqual(['CPU: 0 UID: 0 PID: 100 Comm: kfault', 'Call trace:']);
      expect(frames.length > 2).toBe(walks);

      const start = blind.textBase('bpf');
      const distance = Number(blind.callables.addressOf('bpf_stream_print_stack') - start);
      const native = blind.loadProgram({ name: 'q', start, code: CODE[arch.name](BPF_STDERR, distance) });
      const run = (): unknown => drain(blind.testRun(0, native, 0n, 'syscall'));
      if (walks) expect(run()).toEqual({ kind: 'returned' });
      else expect(run).toThrow('which is none, and no BPF program is on the stack');
    } finally {
      blind.close();
    }
  });

  test('what is no map is refused with a message', () => {
    const prog = load('bpf_arena_reserve_pages', 5);
    expect(() => drain(system.testRun(0, prog, 0n, 'syscall'))).toThrow(GuestRefusal);
  });

  test('the functions that programs call have their places from the start, and no memory', () => {
    const { callables, kernel } = system;
    expect(callables.names).toEqual(BPF_FUNCTIONS);
    const place = callables.addresses.get('bpf_arena_alloc_pages') ?? 0n;
    expect(place).toBe(arch.layout.text.start + 0xc0000n);
    expect(system.here().mmu.peek(place)).toBe(-1);
    callables.place();
    expect(kernel.kallsyms.kallsyms_lookup_name('bpf_arena_alloc_pages')).toBe(place);
    expect(system.here().mmu.peek(place)).toBeGreaterThan(0);
  });
});
