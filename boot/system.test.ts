import { describe, expect, test } from '@jest/globals';
import type { Arch } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { x86 } from '../arch/x86/index.js';
import { arena_map_alloc } from '../bpf/arena/arena.js';
import { BPF_F_MMAPABLE } from '../bpf/arena/arena_struct.js';
import { EventLog } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { System } from './system.js';

const engine = new NativeEngine();

/** A kernel function that reads the word its first argument points to, and a program that calls it. */
const CODE: Record<Arch['name'], { kfunc: string; program: (distance: number) => Uint8Array }> = {
  'x86-64': {
    // push rbp; mov rbp, rsp; mov rax, [rdi]; pop rbp; ret
    kfunc: '554889e5488b075dc3',
    program: (distance) => {
      const code = Buffer.from('554889e5e800000000c9c3', 'hex');
      code.writeInt32LE(distance - 9, 5);
      return code;
    },
  },
  arm64: {
    // stp x29, x30, [sp, #-16]!; mov x29, sp; ldr x0, [x0]; ldp x29, x30, [sp], #16; ret
    kfunc: 'fd7bbfa9fd030091000040f9fd7bc1a8c0035fd6',
    program: (distance) => {
      const code = Buffer.from('fd7bbfa9fd03009100000094fd7bc1a8c0035fd6', 'hex');
      code.writeUInt32LE((0x94000000 | (((distance - 8) >> 2) & 0x3ffffff)) >>> 0, 8);
      return code;
    },
  },
};

describe.each([x86, arm64])('a booted $name machine', (arch) => {
  test('recovers a read of an unallocated arena page and returns', () => {
    const log = new EventLog();
    const system = System.boot({ arch, engine, sink: log });
    try {
      const here = system.here();
      const map = drain(
        arena_map_alloc(here, system.bpf, {
          key_size: 0,
          value_size: 0,
          max_entries: 16,
          map_flags: BPF_F_MMAPABLE,
          map_extra: 0x7f7d26200000n,
          name: 'a',
        }),
      );
      if (typeof map === 'number' || map.arena === null) throw new Error(`no arena: ${map}`);
      const code = CODE[arch.name];
      const kfunc = system.textBase('kernel');
      system.loadText({ name: 'read_word', start: kfunc, code: Buffer.from(code.kfunc, 'hex') });
      const start = system.textBase('bpf');
      const prog = system.loadProgram({
        name: 'demo',
        start,
        code: code.program(Number(kfunc - start)),
        arena: map.arena,
      });
      const page = map.arena.kern_vm_start + 0x26203000n;
      const argument = arch.generalRegisters.includes('rdi') ? 'rdi' : 'x0';
      const outcome = drain(system.call(0, start, new Map([[argument, page + 0x10n]])));
      expect(outcome).toEqual({ kind: 'returned' });
      expect(here.cpu.read(arch.returnRegister)).toBe(0n);
      expect(log.events.filter(({ type }) => type === 'fault')).toHaveLength(1);
      const report = log.events.find(({ type }) => type === 'stream');
      expect(report?.type === 'stream' ? report.text() : '').toMatch(
        /^ERROR: Arena READ access at unmapped address 0x7f7d26203000\n/,
      );
      expect(prog.aux.stream[0].capacity).toBe(0);
      expect(prog.aux.stream[1].capacity).toBeGreaterThan(0);
    } finally {
      system.close();
    }
  });
});

test('arm64: LDTR that the host writes over code that has run uses the rights of EL0', () => {
  const system = System.boot({ arch: arm64, engine, sink: new EventLog() });
  try {
    const start = system.textBase('kernel');
    // ldr x0, [x0]; ret
    system.loadText({ name: 'read_word', start, code: Buffer.from('000040f9c0035fd6', 'hex') });
    const registers = new Map([['x0', start]]);
    expect(drain(system.call(0, start, registers))).toMatchObject({ kind: 'returned' });
    // ldtr x0, [x0]
    expect(system.writeVirtual(0, start, Buffer.from('000840f8', 'hex'))).toBe(true);
    expect(drain(system.call(0, start, registers))).toMatchObject({ kind: 'oops' });
  } finally {
    system.close();
  }
});
