import { createHash } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import type { Jit, JitFunction, JitPlace } from '../jit/jit.js';
import { JitError } from '../jit/jit.js';
import { PLAIN } from '../jit/jit-testing.js';
import { VerifierError } from './link.js';
import {
  ARCH,
  ARENA,
  CALL_BASE,
  fakeJit,
  link,
  listing,
  MAPS,
  rewritten,
  TARGETS,
  target,
} from './link-testing.js';

const tagOf = (hex: string): string =>
  createHash('sha256')
    .update(Buffer.from(hex.replaceAll(/\s/g, ''), 'hex'))
    .digest('hex')
    .slice(0, 16);

function refusal(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  return null;
}

describe('the arena of a program', () => {
  test('is the one that it names', () => {
    expect(link({ main: 'r1 = map[arena]\nr0 = 0\nexit' }).arena).toBe('arena');
    expect(link({ main: 'r1 = map[array]\nr0 = 0\nexit' }).arena).toBeNull();
    expect(link({ main: 'r0 = 0\nexit' }, { boundMaps: ['arena'] }).arena).toBe('arena');
  });

  test('there is one, and it has a user address', () => {
    const two = refusal(() => link({ main: 'r1 = map[arena]\nr1 = map[other_arena]\nr0 = 0\nexit' }));
    expect(two).toBeInstanceOf(VerifierError);
    expect(two).toMatchObject({ message: 'Only one arena per program', errno: -16, func: 'main', slot: 2 });
    const arena = ARENA.arena === null ? null : { ...ARENA.arena, user_vm_start: 0n };
    const maps = new Map([...MAPS, ['arena', { ...ARENA, arena }]]);
    expect(refusal(() => link({ main: 'r1 = map[arena]\nr0 = 0\nexit' }, { maps }))).toMatchObject({
      message: "arena's user address must be set via map_extra or mmap()",
      errno: -22,
    });
  });

  test('the JIT gets it for every function', () => {
    const seen: JitFunction[] = [];
    const arch = { ...ARCH, jit: fakeJit((fn) => seen.push(fn)) };
    link({ main: 'r1 = map[arena]\ncall sub\nexit', sub: 'r0 = 0\nexit' }, { arch });
    const { kern_vm_start, user_vm_start } = ARENA.arena ?? { kern_vm_start: 0n, user_vm_start: 0n };
    expect(seen.map(({ arena, is_subprog }) => [arena, is_subprog])).toEqual([
      [{ kern_vm_start, user_vm_start }, false],
      [{ kern_vm_start, user_vm_start }, true],
      [{ kern_vm_start, user_vm_start }, false],
      [{ kern_vm_start, user_vm_start }, true],
    ]);
  });
});

describe('calls', () => {
  const alloc = 'r2 = 0\nr3 = 1\nr4 = -1\nr5 = 0\ncall bpf_arena_alloc_pages\n';
  const main = `r1 = map[arena]\n${alloc}r0 = 0\nexit`;

  function targetsOf(text: string, sleepable: boolean): bigint[] {
    const found: bigint[] = [];
    const jit = fakeJit((fn, place) => {
      for (const [i, { code }] of fn.insns.entries()) if (code === 0x85) found.push(place.callTarget(i));
    });
    link({ main: text }, { sleepable, arch: { ...ARCH, jit } });
    return found.slice(found.length / 2);
  }

  // specialize_kfunc()
  test('where a program must not sleep, functions that need not', () => {
    expect(targetsOf(main, true)).toEqual([CALL_BASE + 0x1000n]);
    expect(targetsOf(main, false)).toEqual([CALL_BASE + 0x1100n]);
    expect(rewritten(main, { sleepable: false })[5]).toBe('(85) call kernel-function#4352');
  });

  test('each call by itself: behind a lock, and in front of it', () => {
    const again = `r1 = map[arena]\n${alloc}`;
    const lock = 'r1 = map[array][0]\ncall bpf_spin_lock\n';
    const unlock = 'r1 = map[array][0]\ncall bpf_spin_unlock\n';
    const found = targetsOf(`${again}${lock}${again}${unlock}${again}r0 = 0\nexit`, true);
    expect(found.filter((_, i) => i % 2 === 0)).toEqual([
      CALL_BASE + 0x1000n,
      CALL_BASE + 0x1100n,
      CALL_BASE + 0x1000n,
    ]);
  });

  // struct bpf_prog_aux *aux of bpf_stream_print_stack(): BPF_LD_IMM64(BPF_REG_2, (long)env->prog->aux).
  test('some are handed prog->aux, and whoever jumps to the call gets there in time', () => {
    const read = 'r3 = map[array][0]\nr3 = *(u64 *)(r3 + 0)\n';
    const text = `${read}r1 = 2\nif r3 == 2 goto print\nr1 = 1\nprint:\ncall bpf_stream_print_stack\nexit`;
    const program = link({ main: `call sub\n${text}`, sub: text });
    for (const fn of [0, 1]) {
      const at =
        program.functions[fn]?.insns.findIndex(({ code, dst_reg }) => code === 0x18 && dst_reg === 2) ?? -1;
      const insns = program.functions[fn]?.insns
        .slice(at - 2, at + 3)
        .map(({ code, dst_reg, src_reg, off, imm }) => [code, dst_reg, src_reg, off, imm >>> 0]);
      expect(insns).toEqual([
        [0x15, 3, 0, 1, 2],
        [0xb7, 1, 0, 0, 1],
        [0x18, 2, 0, 0, 0x0aaa_a000],
        [0, 0, 0, 0, 0xffff_8880],
        [0x85, 0, 2, 0, 0x1000],
      ]);
    }
    // Before the verifier's rewrites, as in the kernel.
    expect(program.functions[0]?.tag).toBe(
      link({ main: `call sub\n${text}`, sub: text }, { aux: () => 0xffff_8880_0bbb_b000n }).functions[0]?.tag,
    );
  });

  // check_and_resolve_insns(), arena_map_direct_value_addr()
  test('the value of a map has an end', () => {
    const small = { ...ARENA, map_direct_value_addr: (off: bigint) => (off < 0x4000n ? 0x1000n : -34) };
    const maps = new Map([...MAPS, ['arena', small]]);
    const at = (off: string): (() => unknown) => {
      return () => link({ main: `r0 = 0\nr1 = map[arena][0]+${off}\nexit` }, { maps });
    };
    expect(at('0x3fff')).not.toThrow();
    expect(refusal(at('0x4000'))).toMatchObject({
      message: 'invalid access to map value pointer, value_size=0 off=16384',
      errno: -34,
      slot: 1,
    });
    expect(refusal(at('0xfffffff0'))).toMatchObject({
      message: 'invalid access to map value pointer, value_size=0 off=4294967280',
    });
    expect(refusal(() => link({ main: 'r1 = map[array][0]+32\nr0 = 0\nexit' }))).toMatchObject({
      message: 'invalid access to map value pointer, value_size=32 off=32',
      errno: -22,
    });
  });

  test('what the JIT refuses is told at the slot of the text', () => {
    const jit: Jit = (fn) => {
      const slot = fn.insns.findIndex(({ code }) => code === 0x85);
      throw new JitError('Target call is out of range', slot, -22);
    };
    // Two slots for prog->aux come in front of the call, and dead code goes.
    const sub =
      'r6 = 1\nif r6 == 1 goto on\nr6 = 2\nr6 = 3\non: r1 = 1\ncall bpf_stream_print_stack\nr0 = 0\nexit';
    const error = refusal(() =>
      link({ main: sub.replace('r6 = 2', 'call sub'), sub }, { arch: { ...ARCH, jit } }),
    );
    expect(error).toMatchObject({
      func: 'main',
      insn: 5,
      errno: -22,
      message: 'Target call is out of range',
    });
    const late: Jit = (fn, place, options) => (fn.is_subprog ? jit : ARCH.jit)(fn, place, options);
    expect(
      refusal(() => link({ main: 'call sub\nexit', sub }, { arch: { ...ARCH, jit: late } })),
    ).toMatchObject({ func: 'sub', insn: 5 });
  });

  test('names and reach', () => {
    expect(refusal(() => link({ main: 'r0 = 0\ncall nobody\nexit' }))).toMatchObject({
      message: 'nobody() is no function of the program, no kfunc and no helper',
      slot: 1,
    });
    const far = new Map([['far', target({ address: CALL_BASE + 0x1_0000_0000n, id: 31 })]]);
    expect(() => link({ main: 'call far\nexit' }, { targets: far })).toThrow(
      'address of kernel func_id 31 is out of range',
    );
    const arch = { ...ARCH, far_kfunc_call: true };
    expect(listing(link({ main: 'call far\nexit' }, { targets: far, arch }), 0)[0]).toBe(
      '(85) call kernel-function#31',
    );
  });
});

describe('subprograms', () => {
  const functions = {
    main: 'r6 = r1\nr1 = 8\nr1 = addr_space_cast(r1, 0, 1)\ncall load\ncall twice\nr0 = 0\nexit',
    load: 'r0 = *(u64 *)(r1 + 0)\nr2 = 0\nexit',
    twice:
      '*(u64 *)(r10 - 16) = 0\nr1 = 16\nr1 = addr_space_cast(r1, 0, 1)\ncall load\nr1 = r0\nr0 = r1\nexit',
  };
  const fields = { boundMaps: ['arena'] };

  test('have the types of those who call them, and images of their own', () => {
    const program = link(functions, fields);
    expect(program.functions.map(({ name, image, stack_depth }) => [name, image, stack_depth])).toEqual([
      ['main', 0xffff_ffff_c000_0000n, 0],
      ['load', 0xffff_ffff_c000_0100n, 0],
      ['twice', 0xffff_ffff_c000_0200n, 16],
    ]);
    expect(listing(program, 1)[0]).toBe('(b9) r0 = *(u64 *)(r1 +0)');
    // BPF_CALL_IMM() of the image, and the number of the function.
    const call = program.functions[0]?.insns[3];
    expect(call).toEqual({ code: 0x85, dst_reg: 0, src_reg: 1, off: 1, imm: 0x3ee0_0100 });
    expect(program.functions[2]?.insns[3]?.off).toBe(1);
  });

  test('are called at their addresses in the last pass', () => {
    const targets: bigint[] = [];
    const jit = fakeJit((fn: JitFunction, place: JitPlace) => {
      for (const [i, { code }] of fn.insns.entries()) if (code === 0x85) targets.push(place.callTarget(i));
    });
    link(functions, { ...fields, arch: { ...ARCH, jit } });
    expect(targets.slice(3)).toEqual([
      0xffff_ffff_c000_0100n,
      0xffff_ffff_c000_0200n,
      0xffff_ffff_c000_0100n,
    ]);
  });

  test('which nobody calls are dropped', () => {
    const program = link({ main: 'call used\nexit', unused: 'r0 = 0\nexit', used: 'r0 = 1\nexit' });
    expect(program.functions.map(({ name }) => name)).toEqual(['main', 'used']);
    expect(program.functions[0]?.insns[0]?.off).toBe(1);
  });

  test('see the stack of who calls them, and may write it', () => {
    const program = link(
      {
        main: 'r1 = 8\nr1 = addr_space_cast(r1, 0, 1)\n*(u64 *)(r10 - 8) = r1\nr1 = r10\nr1 += -8\ncall sub\nr1 = *(u64 *)(r10 - 8)\nr0 = *(u64 *)(r1 + 0)\nexit',
        sub: 'r2 = *(u64 *)(r1 + 0)\nr0 = *(u32 *)(r2 + 0)\n*(u64 *)(r1 - 24) = 5\nexit',
      },
      fields,
    );
    expect(listing(program, 1)[1]).toBe('(a1) r0 = *(u32 *)(r2 +0)');
    expect(listing(program, 0)[7]).toBe('(b9) r0 = *(u64 *)(r1 +0)');
    expect(program.functions.map(({ stack_depth }) => stack_depth)).toEqual([32, 0]);
  });

  test('callbacks', () => {
    const program = link({
      main: 'r1 = 10\nr2 = step ll\nr3 = 0\nr4 = 0\ncall bpf_loop\nr0 = 0\nexit',
      step: 'r0 = 0\nexit',
    });
    const [insn, high] = program.functions[0]?.insns.slice(1, 3) ?? [];
    expect([insn?.src_reg, insn?.off, (insn?.imm ?? 0) >>> 0, (high?.imm ?? 0) >>> 0]).toEqual([
      4, 1, 0xc000_0100, 0xffff_ffff,
    ]);
  });

  test('limits', () => {
    expect(() => link({ main: 'call main\nexit' })).toThrow('recursive call from main() to main()');
    const big = '*(u8 *)(r10 - 257) = 0\n';
    expect(refusal(() => link({ main: `${big}call sub\nexit`, sub: `${big}r0 = 0\nexit` }))).toMatchObject({
      message: 'combined stack size of 2 calls is 544. Too large',
      errno: -13,
      func: 'sub',
    });
    const chain = Object.fromEntries(
      Array.from({ length: 9 }, (_, i) => [`f${i}`, i === 8 ? 'r0 = 0\nexit' : `call f${i + 1}\nexit`]),
    );
    // setup_func_entry(): curframe + 2
    expect(() => link(chain)).toThrow('the call stack of 9 frames is too deep');
    const { f8, ...shorter } = chain;
    expect(() => link({ ...shorter, f7: `${f8}` })).not.toThrow();
    expect(() => link({ main: 'call sub\nexit', sub: 'r0 = r10\nexit' })).toThrow(
      'cannot return stack pointer to the caller',
    );
  });
});

// Over the instructions as they are loaded, without maps; of subprograms over what is compiled.
describe('tags', () => {
  test('of a main program', () => {
    const { functions } = link({ main: 'r1 = map[arena]\nr1 = addr_space_cast(r1, 0, 1)\nr0 = 0\nexit' });
    expect(functions[0]?.tag).toBe(
      tagOf(`1811000000000000 0000000000000000 bf11010001000000 b700000000000000 9500000000000000`),
    );
  });

  test('of a main program with a subprogram, and of that', () => {
    const { functions } = link(
      {
        main: 'r1 = addr_space_cast(r1, 0, 1)\ncall sub\nexit',
        sub: 'r0 = *(u8 *)(r1 + 0)\ncall leaf\nexit',
        leaf: 'r0 = 0\nexit',
      },
      { boundMaps: ['arena'] },
    );
    expect(functions[0]?.tag).toBe(
      tagOf(`
        bf11010001000000 8510000001000000 9500000000000000
        7110000000000000 8510000001000000 9500000000000000
        b700000000000000 9500000000000000
      `),
    );
    expect(functions[1]?.tag).toBe(tagOf('b110000000000000 8510020001000000 9500000000000000'));
    expect(functions[2]?.tag).toBe(tagOf('b700000000000000 9500000000000000'));
  });
});

describe('source lines', () => {
  const main = `
    ; first(); @ progs/a.c:10
    r6 = 0
    r1 = 8
    ; second(); @ progs/a.c:11
    loop: may_goto out
    ; third(); @ progs/a.c:12
    r6 += 1
    goto loop
    out: r0 = 0
    exit
  `;

  // bpf_prog_fill_jited_linfo(): the first begins with the image, in front of its prologue.
  test('by their native offsets', () => {
    const [fn] = link({ main }).functions;
    expect(fn?.linfo).toEqual([
      { offset: 0, file: 'progs/a.c', line: 10, text: 'first();' },
      { offset: 2 + 4 * 4, file: 'progs/a.c', line: 11, text: 'second();' },
      { offset: 2 + 4 * 11, file: 'progs/a.c', line: 12, text: 'third();' },
    ]);
    expect(fn?.addrs.length).toBe((fn?.insns.length ?? 0) + 1);
  });

  test('of code that is gone go to what follows', () => {
    const text =
      '; a @ a.c:1\nr6 = 1\n; b @ a.c:2\nif r6 == 1 goto out\n; c @ a.c:3\nr6 = 2\nout: r0 = 0\nexit';
    expect(link({ main: text }).functions[0]?.linfo?.map(({ line, offset }) => [line, offset])).toEqual([
      [1, 0],
      [3, 6],
    ]);
  });

  test('none, or from the beginning of every function', () => {
    expect(link({ main: 'r0 = 0\nexit' }).functions[0]?.linfo).toBeNull();
    expect(() => link({ main, sub: 'r0 = 0\nexit' })).toThrow('missing bpf_line_info for func#1');
    expect(() => link({ main: 'r0 = 0\n; x @ a.c:1\nexit' })).toThrow('missing bpf_line_info for func#0');
  });
});

describe('what else can go wrong', () => {
  test('a JIT whose code changes its size', () => {
    let passes = 0;
    const jit: typeof ARCH.jit = (fn, place, options) => {
      passes += 1;
      const made = fakeJit()(fn, place, options);
      return { ...made, code: new Uint8Array(made.code.length + passes) };
    };
    expect(() => link({ main: 'r0 = 0\nexit' }, { arch: { ...ARCH, jit } })).toThrow(JitError);
  });

  test('may_goto without its function', () => {
    const targets = new Map([...TARGETS].filter(([name]) => name !== 'arch_bpf_timed_may_goto'));
    expect(() => link({ main: 'may_goto out\nr1 = 0\nout: r0 = 0\nexit' }, { targets })).toThrow(RangeError);
  });

  test('the JIT is told the address of the function that may_goto calls', () => {
    const seen: unknown[] = [];
    const jit: typeof ARCH.jit = (fn, place, options) => {
      seen.push(options);
      return fakeJit()(fn, place, options);
    };
    link({ main: 'r0 = 0\nexit' }, { arch: { ...ARCH, jit } });
    expect(seen[0]).toEqual({ ...PLAIN, arch_bpf_timed_may_goto: CALL_BASE + 0x3000n });
  });
});
