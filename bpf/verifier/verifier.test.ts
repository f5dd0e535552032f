import { describe, expect, test } from '@jest/globals';
import { encodeInsns } from '../insn.js';
import { VerifierError } from './link.js';
import { ARCH, ARENA, link, listing, MAPS, rewritten } from './link-testing.js';

/** With an arena: its map is named first. */
const inArena = (text: string, fields: Parameters<typeof rewritten>[1] = {}): string[] =>
  rewritten(text, { boundMaps: ['arena'], ...fields });

describe('accesses to arena memory', () => {
  const cast = 'r1 = 0x7f7d26200010 ll\nr1 = addr_space_cast(r1, 0, 1)\n';

  // Modes 0xa0 (PROBE_MEM32), 0xc0 (PROBE_MEM32SX), 0xe0 (PROBE_ATOMIC).
  test.each([
    ['r2 = *(u8 *)(r1 + 1)', '(b1) r2 = *(u8 *)(r1 +1)'],
    ['r2 = *(u16 *)(r1 + 2)', '(a9) r2 = *(u16 *)(r1 +2)'],
    ['r2 = *(u32 *)(r1 + 4)', '(a1) r2 = *(u32 *)(r1 +4)'],
    ['r2 = *(u64 *)(r1 + 8)', '(b9) r2 = *(u64 *)(r1 +8)'],
    ['r2 = *(s8 *)(r1 + 1)', '(d1) r2 = *(s8 *)(r1 +1)'],
    ['r2 = *(s16 *)(r1 + 2)', '(c9) r2 = *(s16 *)(r1 +2)'],
    ['r2 = *(s32 *)(r1 + 4)', '(c1) r2 = *(s32 *)(r1 +4)'],
    ['*(u8 *)(r1 + 1) = 7', '(b2) *(u8 *)(r1 +1) = 7'],
    ['*(u64 *)(r1 + 8) = 7', '(ba) *(u64 *)(r1 +8) = 7'],
    ['*(u16 *)(r1 + 2) = r6', '(ab) *(u16 *)(r1 +2) = r6'],
    ['*(u32 *)(r1 + 4) = r6', '(a3) *(u32 *)(r1 +4) = r6'],
    ['lock *(u64 *)(r1 + 8) += r6', '(fb) lock *(u64 *)(r1 +8) += r6'],
    ['r6 = xchg_32(r1 + 8, w6)', '(e3) r6 = atomic_xchg((u32 *)(r1 +8), r6)'],
    ['r2 = load_acquire((u16 *)(r1 + 0))', '(eb) r2 = load_acquire((u16 *)(r1 +0))'],
    ['store_release((u8 *)(r1 + 0), r6)', '(f3) store_release((u8 *)(r1 +0), r6)'],
  ])('%s', (insn, expected) => {
    const lines = inArena(`r6 = 0\n${cast}${insn.replace('r6 = xchg_32', 'w6 = xchg_32')}\nr0 = 0\nexit`);
    expect(lines.slice(2)).toEqual(['(bc) w1 = w1', expected, '(b7) r0 = 0', '(95) exit']);
  });

  // The program by hand that the minimum loader is described with.
  test('a whole program, byte by byte', () => {
    const { functions } = link(
      {
        main: `
          r1 = 0x1122334455667788 ll
          r1 = addr_space_cast(r1, 0, 1)
          r2 = 1
          *(u32 *)(r1 + 0x7fff) = r2
          r0 = 0
          exit
        `,
      },
      { boundMaps: ['arena'] },
    );
    const bytes = Buffer.from(encodeInsns(functions[0]?.insns ?? [])).toString('hex');
    expect(bytes).toBe(
      '18010000887766550000000044332211' +
        'bc11000000000000' +
        'b702000001000000' +
        'a321ff7f00000000' +
        'b700000000000000' +
        '9500000000000000',
    );
  });

  test('copies and spilled pointers stay what they are; narrow copies do not', () => {
    const lines = inArena(
      `${cast}r2 = r1\n*(u64 *)(r10 - 8) = r2\nr3 = *(u64 *)(r10 - 8)\nr0 = *(u64 *)(r3 + 0)\nexit`,
    );
    expect(lines.slice(3, 6)).toEqual([
      '(7b) *(u64 *)(r10 -8) = r2',
      '(79) r3 = *(u64 *)(r10 -8)',
      '(b9) r0 = *(u64 *)(r3 +0)',
    ]);
    expect(() => inArena(`${cast}w2 = w1\nr0 = *(u64 *)(r2 + 0)\nexit`)).toThrow(
      "R2 invalid mem access 'scalar'",
    );
    const partly = `${cast}*(u64 *)(r10 - 8) = r1\n*(u8 *)(r10 - 8) = 0\nr3 = *(u64 *)(r10 - 8)\nr0 = *(u64 *)(r3 + 0)\nexit`;
    expect(() => inArena(partly)).toThrow("R3 invalid mem access 'scalar'");
  });

  test('what is read from an arena is a number, and so are addresses of its globals and casts for user space', () => {
    expect(() => inArena(`${cast}r1 = *(u64 *)(r1 + 0)\nr0 = *(u64 *)(r1 + 0)\nexit`)).toThrow(
      "R1 invalid mem access 'scalar'",
    );
    expect(() => rewritten('r1 = map[arena][0]+16\nr0 = *(u64 *)(r1 + 0)\nexit')).toThrow(
      "R1 invalid mem access 'scalar'",
    );
    const user = `${cast}r1 = addr_space_cast(r1, 1, 0)\nr0 = *(u64 *)(r1 + 0)\nexit`;
    expect(() => inArena(user)).toThrow("R1 invalid mem access 'scalar'");
  });

  test('the address of a global is the user address', () => {
    expect(rewritten('r1 = map[arena][0]+0xfffffff0\nr0 = 0\nexit')[0]).toBe('(18) r1 = 0x7f7e261ffff0');
  });
});

describe('arithmetic', () => {
  // 64-bit operations with an arena pointer on either side become 32-bit ones, and give one.
  test.each([
    ['r1 += r6', '(0c) w1 += w6', 'r1'],
    ['r6 += r1', '(0c) w6 += w1', 'r6'],
    ['r1 += 4096', '(04) w1 += 4096', 'r1'],
    ['r6 ^= r1', '(ac) w6 ^= w1', 'r6'],
    ['r1 <<= 3', '(64) w1 <<= 3', 'r1'],
    ['w1 += 8', '(04) w1 += 8', 'r1'],
    ['r6 = r6', '(bf) r6 = r6', 'r1'],
  ])('%s', (insn, expected, base) => {
    const text = `r6 = 12\nr1 = 8192\nr1 = addr_space_cast(r1, 0, 1)\n${insn}\nr0 = *(u8 *)(${base} + 0)\nexit`;
    const lines = inArena(text);
    expect(lines[3]).toBe(expected);
    expect(lines[4]).toMatch(/^\(b1\)/);
  });

  test('on some path only is enough', () => {
    const lines = inArena(`
      r6 = r1
      r1 = 0
      if r6 == 0 goto skip
      r1 = addr_space_cast(r6, 0, 1)
      skip: r1 += 8
      r0 = 0
      exit
    `);
    expect(lines[4]).toBe('(04) w1 += 8');
  });

  test('other pointers', () => {
    expect(() => rewritten('r2 = r10\nr2 &= 7\nr0 = 0\nexit')).toThrow(
      'R2 bitwise operator &= on pointer prohibited',
    );
    expect(() => rewritten('r2 = r10\nw2 += 7\nr0 = 0\nexit')).toThrow(
      'R2 32-bit pointer arithmetic prohibited',
    );
    expect(() => rewritten('r2 = r10\nr2 += r1\nr0 = 0\nexit')).toThrow('R2 pointer += pointer prohibited');
    expect(() => rewritten('r2 = 1\nr2 -= r1\nr0 = 0\nexit')).toThrow(
      'R2 tried to subtract pointer from scalar',
    );
    expect(() => rewritten('r2 = map[arena]\nr2 += 8\nr0 = 0\nexit')).toThrow(
      'R2 pointer arithmetic on map_ptr prohibited',
    );
  });

  // kernel/bpf/fixups.c
  test('divisions', () => {
    expect(rewritten('r1 = 5\nr0 = 7\nr0 /= r1\nexit').slice(2, 6)).toEqual([
      '(55) if r1 != 0x0 goto pc+2',
      '(ac) w0 ^= w0',
      '(05) goto pc+1',
      '(3f) r0 /= r1',
    ]);
    expect(rewritten('w1 = 5\nw0 = 7\nw0 %= w1\nexit').slice(2, 6)).toEqual([
      '(16) if w1 == 0x0 goto pc+2',
      '(9c) w0 %= w1',
      '(05) goto pc+1',
      '(bc) w0 = w0',
    ]);
    expect(rewritten('r1 = 5\nr0 = 7\nr0 s/= r1\nexit').slice(2, 10)).toEqual([
      '(bf) r11 = r1',
      '(07) r11 += 1',
      '(25) if r11 > 0x1 goto pc+4',
      '(15) if r11 == 0x0 goto pc+1',
      '(b7) r0 = 0',
      '(87) r0 = -r0',
      '(05) goto pc+1',
      '(3f) r0 s/= r1',
    ]);
    expect(rewritten('w1 = 5\nw0 = 7\nw0 s%= w1\nexit').slice(2, 11)).toEqual([
      '(bf) r11 = r1',
      '(04) w11 += 1',
      '(26) if w11 > 0x1 goto pc+3',
      '(16) if w11 == 0x1 goto pc+4',
      '(b4) w0 = 0',
      '(05) goto pc+1',
      '(9c) w0 s%= w1',
      '(05) goto pc+1',
      '(bc) w0 = w0',
    ]);
    expect(rewritten('r0 = 7\nr0 s/= -1\nexit')[1]).toBe('(87) r0 = -r0');
    expect(rewritten('r0 = 7\nr0 s%= -1\nexit')[1]).toBe('(b4) w0 = 0');
    expect(rewritten('r0 = 7\nr0 /= 3\nexit')[1]).toBe('(37) r0 /= 3');
  });
});

describe('casts', () => {
  const text = 'r1 = 5 ll\nr1 = addr_space_cast(r1, 0, 1)\nr1 = addr_space_cast(r1, 1, 0)\nr0 = 0\nexit';

  test('the one for user space is for the JIT', () => {
    expect(inArena(text).slice(1, 3)).toEqual(['(bc) w1 = w1', '(bf) r1 = addr_space_cast(r1, 1, 0)']);
  });

  test('BPF_F_NO_USER_CONV makes both of them moves', () => {
    const arena = ARENA.arena === null ? null : { ...ARENA.arena, map_flags: 1 << 18 };
    const maps = new Map([...MAPS, ['arena', { ...ARENA, arena }]]);
    expect(inArena(text, { maps }).slice(1, 3)).toEqual(['(bc) w1 = w1', '(bc) w1 = w1']);
  });

  test('refused', () => {
    const message = 'addr_space_cast insn can only be used in a program that has an associated arena';
    expect(() => rewritten(text)).toThrow(message);
    expect(() => inArena('r1 = addr_space_cast(r1, 2, 1)\nr0 = 0\nexit')).toThrow(
      'addr_space_cast insn can only convert between address space 1 and 0',
    );
  });
});

describe('other memory', () => {
  test('loads through pointers that may be stale can fault', () => {
    const body = 'r1 = a_struct ll\nr2 = *(u32 *)(r1 + 8)\nr3 = *(s16 *)(r1 + 0)\nr0 = 0\nexit';
    expect(rewritten(body).slice(1, 3)).toEqual(['(21) r2 = *(u32 *)(r1 +8)', '(49) r3 = *(s16 *)(r1 +0)']);
    const trusted = 'call bpf_get_cpumask\nr0 = *(u32 *)(r0 + 8)\nexit';
    expect(rewritten(trusted)[1]).toBe('(61) r0 = *(u32 *)(r0 +8)');
    expect(() => rewritten('r1 = a_struct ll\n*(u32 *)(r1 + 0) = 0\nr0 = 0\nexit')).toThrow(
      'only read is supported',
    );
    expect(rewritten('r1 = a_number ll\n*(u32 *)(r1 + 0) = 0\nr0 = 0\nexit')[1]).toBe(
      '(62) *(u32 *)(r1 +0) = 0',
    );
  });

  // arm64: BPF_PROBE_MEM is wrapped in a comparison of the upper half of the address.
  test('with a limit for user addresses, their page tables are not asked', () => {
    const arch = { ...ARCH, uaddress_limit: 1n << 48n };
    const body =
      'r1 = a_struct ll\nif r0 == 0 goto +0\nr2 = *(u32 *)(r1 + 8)\nr3 = *(u64 *)(r1 + 0)\nr0 = 0\nexit';
    expect(rewritten(body.replace('if r0 == 0 goto +0\n', ''), { arch }).slice(1, 14)).toEqual([
      '(bf) r11 = r1',
      '(07) r11 += 8',
      '(77) r11 >>= 32',
      '(b5) if r11 <= 0x10000 goto pc+2',
      '(21) r2 = *(u32 *)(r1 +8)',
      '(05) goto pc+1',
      '(b7) r2 = 0',
      '(bf) r11 = r1',
      '(77) r11 >>= 32',
      '(b5) if r11 <= 0x10000 goto pc+2',
      '(39) r3 = *(u64 *)(r1 +0)',
      '(05) goto pc+1',
      '(b7) r3 = 0',
    ]);
  });

  test('fields of the context', () => {
    const text = 'r6 = *(u64 *)(r1 + 8)\nr0 = *(u32 *)(r6 + 0)\nexit';
    expect(rewritten(text, { context: [{ offset: 8, kind: 'btf_id' }] })[1]).toBe(
      '(21) r0 = *(u32 *)(r6 +0)',
    );
    expect(rewritten(text, { context: [{ offset: 8, kind: 'trusted' }] })[1]).toBe(
      '(61) r0 = *(u32 *)(r6 +0)',
    );
    expect(() => rewritten(text)).toThrow("R6 invalid mem access 'scalar'");
  });

  test('values of maps', () => {
    expect(rewritten('r1 = map[array][0]+16\nr0 = *(u64 *)(r1 + 8)\nexit')).toEqual([
      '(18) r1 = 0xffffc90080000020',
      '(79) r0 = *(u64 *)(r1 +8)',
      '(95) exit',
    ]);
    expect(() => rewritten('r1 = map[array][0]+16\nr0 = *(u64 *)(r1 + 16)\nexit')).toThrow(
      'invalid access to map value, value_size=32 off=32 size=8',
    );
    expect(() => rewritten('r1 = map[hash][0]\nr0 = 0\nexit')).toThrow(
      'no direct value access support for this map type',
    );
  });

  test('the stack has 512 bytes', () => {
    expect(link({ main: '*(u8 *)(r10 - 17) = 1\nr0 = 0\nexit' }).functions[0]?.stack_depth).toBe(24);
    expect(() => rewritten('*(u64 *)(r10 - 520) = 1\nr0 = 0\nexit')).toThrow(
      'invalid write to stack R10 off=-520 size=8',
    );
    expect(() => rewritten('r2 = r10\nr2 += -16\nr0 = *(u64 *)(r2 + 16)\nexit')).toThrow(
      'invalid read from stack R2 off=0 size=8',
    );
  });
});

describe('compare and exchange of 32 bits', () => {
  const text = (use: string, base: string): string => `
    r2 = 1
    r0 = 2
    ${base}
    w0 = cmpxchg_32(r3 + 0, w0, w2)
    ${use}
    r0 = 0
    exit
  `;
  const stack = '*(u64 *)(r10 - 8) = 0\nr3 = r10\nr3 += -8';

  // A zero extension behind it, where all 64 bits count and the memory is no arena's.
  test('extends its result where that is used', () => {
    expect(rewritten(text('r4 = r0', stack))).toContain('(bc) w0 = w0');
    expect(rewritten(text('w4 = w0', stack))).not.toContain('(bc) w0 = w0');
    const lines = inArena(text('r4 = r0', 'r3 = 8\nr3 = addr_space_cast(r3, 0, 1)'));
    expect(lines).not.toContain('(bc) w0 = w0');
    expect(lines).toContain('(e3) r0 = atomic_cmpxchg((u32 *)(r3 +0), r0, r2)');
  });

  test('returned by a subprogram, it is extended where the caller uses it', () => {
    const sub = `*(u64 *)(r10 - 8) = 0\nr2 = 1\nr0 = 2\nw0 = cmpxchg_32(r10 - 8, w0, w2)\nexit`;
    const linked = (use: string): string[] =>
      listing(link({ main: `call sub\n${use}\nr0 = 0\nexit`, sub }), 1);
    expect(linked('r4 = r0')).toContain('(bc) w0 = w0');
    expect(linked('w4 = w0')).not.toContain('(bc) w0 = w0');
  });
});

describe('paths', () => {
  test('one instruction, an arena and the stack', () => {
    const text = `
      r6 = r1
      r2 = r10
      r2 += -8
      if r6 == 0 goto use
      r2 = addr_space_cast(r6, 0, 1)
      use: r0 = *(u64 *)(r2 + 0)
      exit
    `;
    let error: unknown;
    try {
      inArena(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(VerifierError);
    expect(error).toMatchObject({
      message: 'same insn cannot be used with different pointers',
      errno: -22,
      func: 'main',
      slot: 5,
    });
  });

  test('a check for NULL tells them apart', () => {
    const text = `
      r6 = r1
      r2 = 0
      if r6 == 0 goto check
      r2 = addr_space_cast(r6, 0, 1)
      check: if r2 == 0 goto out
      r0 = *(u64 *)(r2 + 0)
      out: r0 = 0
      exit
    `;
    expect(inArena(text)[5]).toBe('(b9) r0 = *(u64 *)(r2 +0)');
    expect(() => inArena(text.replace('if r2 == 0 goto out', 'r3 = 1'))).toThrow(
      "R2 invalid mem access 'scalar'",
    );
  });

  test('loops: what the back edge brings along counts', () => {
    const text = `
      r6 = 100
      r1 = addr_space_cast(r1, 0, 1)
      loop: r0 = *(u64 *)(r1 + 0)
      r1 += 8
      r6 += -1
      if r6 != 0 goto loop
      r0 = 0
      exit
    `;
    expect(inArena(text).slice(2, 4)).toEqual(['(b9) r0 = *(u64 *)(r1 +0)', '(04) w1 += 8']);
    expect(() => inArena(text.replace('r1 += 8', 'r1 = map[array][0]'))).toThrow(
      'same insn cannot be used with different pointers',
    );
  });

  test('slots join, too', () => {
    const text = `
      r1 = addr_space_cast(r1, 0, 1)
      *(u64 *)(r10 - 8) = r1
      r6 = *(u64 *)(r1 + 0)
      if r6 == 0 goto use
      *(u64 *)(r10 - 8) = r10
      use: r1 = *(u64 *)(r10 - 8)
      r0 = *(u8 *)(r1 - 9)
      exit
    `;
    expect(() => inArena(text)).toThrow('same insn cannot be used with different pointers');
    expect(inArena(text.replace('= r10\n', '= r1\n'))[6]).toBe('(b1) r0 = *(u8 *)(r1 -9)');
  });

  test('where a number equals a constant, it is that', () => {
    const text =
      'r1 = addr_space_cast(r1, 0, 1)\nr6 = *(u64 *)(r1 + 0)\nif r6 != 3 goto out\nif r6 == 3 goto out\nr0 = *(u8 *)(r6 + 0)\nout: r0 = 0\nexit';
    expect(inArena(text)).not.toContain('(71) r0 = *(u8 *)(r6 +0)');
  });

  test('registers that hold nothing', () => {
    expect(() => rewritten('r0 = r2\nexit')).toThrow('R2 !read_ok');
    expect(() => rewritten('exit')).toThrow('R0 !read_ok');
    expect(() => rewritten('if r1 == 0 goto skip\nr0 = 1\nskip: exit')).toThrow('R0 !read_ok');
    expect(() => rewritten('r2 = 0\ncall bpf_get_cpumask\nr0 = r2\nexit')).toThrow('R2 !read_ok');
    expect(() => rewritten('r1 = 0\nr2 = 0\nr3 = 0\ncall bpf_arena_free_pages\nexit')).toThrow('R0 !read_ok');
    expect(() => rewritten('r10 = 0\nr0 = 0\nexit')).toThrow('frame pointer is read only');
  });

  test('a subprogram may return nothing, a main program and a callback may not', () => {
    expect(() => link({ main: 'call sub\nr0 = 0\nexit', sub: 'exit' })).not.toThrow();
    expect(() => link({ main: 'call sub\nexit', sub: 'exit' })).toThrow('R0 !read_ok');
    const main = 'r1 = 1\nr2 = sub ll\nr3 = 0\nr4 = 0\ncall bpf_loop\nr0 = 0\nexit';
    expect(() => link({ main, sub: 'exit' })).toThrow('R0 not a scalar value');
    expect(() => link({ main, sub: 'r0 = r10\nexit' })).toThrow('R0 not a scalar value');
    expect(() => link({ main, sub: 'r0 = 0\nexit' })).not.toThrow();
  });

  test('form', () => {
    expect(() => rewritten('r0 = 0\ngoto +5\nexit')).toThrow('jump out of range from insn 1 to 7');
    expect(() => rewritten('r0 = 0\nexit\nr0 = 1\nexit')).toThrow('unreachable insn 2');
    expect(() => rewritten('r0 = 0')).toThrow('last insn is not an exit or jmp');
    expect(() => rewritten('goto +1\nr1 = 5 ll\nr0 = 0\nexit')).toThrow('unreachable insn 1');
    expect(() => rewritten('if r1 == 0 goto +1\nr1 = 5 ll\nr0 = 0\nexit')).toThrow(
      'jump into the middle of ldimm64 insn 1',
    );
    expect(() => rewritten('r0 = 0\nagain: goto again')).toThrow('infinite loop detected at insn 1');
  });

  // bpf_opt_hard_wire_dead_code_branches() and what follows it.
  test('code that constants keep from running is gone', () => {
    const text = 'r6 = 1\nif r6 == 1 goto out\nr6 = 2\nr0 = *(u64 *)(r6 + 0)\nout: r0 = 0\nexit';
    expect(rewritten(text)).toEqual(['(b7) r6 = 1', '(b7) r0 = 0', '(95) exit']);
    expect(rewritten('r6 = 1\nif r6 != 1 goto bad\nr0 = 0\nexit\nbad: r0 = 1\nexit')).toEqual([
      '(b7) r6 = 1',
      '(b7) r0 = 0',
      '(95) exit',
    ]);
    expect(rewritten('may_goto +1\nmay_goto +0\nr0 = 0\nexit')).toEqual(['(b7) r0 = 0', '(95) exit']);
  });
});

// kernel/bpf/fixups.c
describe('may_goto', () => {
  test('counts in the stack, and asks for the time', () => {
    const program = link({
      main: `
        *(u64 *)(r10 - 8) = 0
        r6 = 0
        loop: may_goto out
        r6 += 1
        goto loop
        out: r0 = r6
        exit
      `,
    });
    const [fn] = program.functions;
    expect(fn?.stack_depth).toBe(24);
    expect(rewritten('loop: may_goto out\ngoto loop\nout: r0 = 0\nexit')).toEqual([
      '(7a) *(u64 *)(r10 -16) = 65535',
      '(7a) *(u64 *)(r10 -8) = 0',
      '(79) r11 = *(u64 *)(r10 -16)',
      '(15) if r11 == 0x0 goto pc+6',
      '(17) r11 -= 1',
      '(55) if r11 != 0x0 goto pc+2',
      '(b7) r11 = -16',
      '(85) call unknown#12288',
      '(7b) *(u64 *)(r10 -16) = r11',
      '(05) goto pc-8',
      '(b7) r0 = 0',
      '(95) exit',
    ]);
    expect(fn?.origins.slice(0, 5)).toEqual([null, null, 0, 1, 2]);
  });

  test('a jump backwards', () => {
    expect(rewritten('r6 = 0\nloop: r6 += 1\nmay_goto loop\nr0 = 0\nexit')[5]).toBe(
      '(15) if r11 == 0x0 goto pc-3',
    );
  });
});

describe('what the JIT cannot do', () => {
  const arch = { ...ARCH, supports_insn: (): boolean => false };

  test('is refused in arena memory', () => {
    const cast = 'r6 = 0\nr1 = addr_space_cast(r1, 0, 1)\n';
    const refuse =
      (insn: string): (() => unknown) =>
      () =>
        inArena(`${cast}${insn}\nr0 = 0\nexit`, { arch });
    expect(refuse('r6 = atomic_fetch_or((u64 *)(r1 + 0), r6)')).toThrow(
      'BPF_ATOMIC stores into R1 arena is not allowed',
    );
    expect(refuse('r6 = load_acquire((u64 *)(r1 + 0))')).toThrow(
      'BPF_ATOMIC loads from R1 arena is not allowed',
    );
    expect(refuse('r6 = *(s8 *)(r1 + 0)')).toThrow('sign extending loads from arena are not supported yet');
    expect(refuse('r6 = *(u8 *)(r1 + 0)')).not.toThrow();
  });
});
