import { describe, expect, test } from '@jest/globals';
import { OrcTables, orc_fp_entry } from './orc.js';
import { X86PtRegs } from './regs.js';
import { HOLE, SENTINEL, STACK_TOP, TEXT, type TestMachine, testMachine } from './testing.js';

/** Rules of a function by offset of the instruction, as `base+offset` with `bp@` where the caller's RBP is. */
function rules(code: readonly number[], offsets: readonly number[]): string[] {
  const orc = new OrcTables();
  orc.add({ name: 'f', start: TEXT, code: Uint8Array.from(code) });
  const at = Number(BigInt.asIntN(64, TEXT));
  return offsets.map((offset) => {
    const { sp_reg, sp_offset, bp_reg, bp_offset } = orc.orc_find(at + offset);
    const base = sp_reg === 5 ? 'sp' : sp_reg === 4 ? 'bp' : '?';
    return `${base}+${sp_offset}${bp_reg === 1 ? ` bp@${bp_offset}` : ''}`;
  });
}

describe('tables from instructions', () => {
  test('a function with a frame pointer', () => {
    // push rbp; mov rbp,rsp; push rbx; sub rsp,0x20; add rsp,0x20; pop rbx; pop rbp; ret
    const code = [
      0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec, 0x20, 0x48, 0x83, 0xc4, 0x20, 0x5b, 0x5d, 0xc3,
    ];
    expect(rules(code, [0, 1, 4, 5, 9, 14, 15])).toEqual([
      'sp+8',
      'sp+16 bp@-16',
      'bp+16 bp@-16',
      'bp+16 bp@-16',
      'bp+16 bp@-16',
      'bp+16 bp@-16',
      'sp+8',
    ]);
  });

  test('leave ends a frame', () => {
    // push rbp; mov rbp,rsp; and rsp,-32; sub rsp,rax; leave; ret
    const code = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xe0, 0x48, 0x29, 0xc4, 0xc9, 0xc3];
    expect(rules(code, [8, 11, 12])).toEqual(['bp+16 bp@-16', 'bp+16 bp@-16', 'sp+8']);
  });

  test('without a frame pointer the stack pointer counts; RBP may be saved all the same', () => {
    // push rbx; push rbp; sub rsp,0x18; mov rbp,rdi; lea rsp,[rsp+0x18]; pop rbp; pop rbx; ret
    const code = [
      0x53, 0x55, 0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0xfd, 0x48, 0x8d, 0x64, 0x24, 0x18, 0x5d, 0x5b, 0xc3,
    ];
    expect(rules(code, [1, 2, 6, 9, 14, 15, 16])).toEqual([
      'sp+16',
      'sp+24 bp@-24',
      'sp+48 bp@-24',
      'sp+48 bp@-24',
      'sp+24 bp@-24',
      'sp+16',
      'sp+8',
    ]);
  });

  test('both sides of a branch are followed, with the state at the branch', () => {
    // test edi,edi; je +3; push rax; pop rax; ret; (target) pushfq; popfq; ret
    const code = [0x85, 0xff, 0x74, 0x03, 0x50, 0x58, 0xc3, 0x9c, 0x9d, 0xc3];
    expect(rules(code, [4, 5, 6, 7, 8, 9])).toEqual(['sp+8', 'sp+16', 'sp+8', 'sp+8', 'sp+16', 'sp+8']);
  });

  test('loops come to an end, and what nothing reaches counts as having a frame pointer', () => {
    // push rax; dec ecx; jne -4; pop rax; ret; then padding
    const code = [0x50, 0xff, 0xc9, 0x75, 0xfc, 0x58, 0xc3, 0xcc, 0xcc];
    expect(rules(code, [1, 5, 6, 7])).toEqual(['sp+16', 'sp+16', 'sp+8', 'bp+16 bp@-16']);
    expect(new OrcTables().orc_find(-4096)).toBe(orc_fp_entry);
  });

  test('the bytes of an instruction share its rule: return addresses are looked up one byte early', () => {
    // sub rsp,8; call +0; add rsp,8; ret
    const code = [0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 0x08, 0xc3];
    expect(rules(code, [4, 8, 9, 13])).toEqual(['sp+16', 'sp+16', 'sp+16', 'sp+8']);
  });
});

const SP = STACK_TOP - 0x400n;

/** Puts words on the stack from SP upwards, and the machine at `rip` with these registers. */
function stack(machine: TestMachine, words: readonly bigint[]): void {
  const pa = machine.mmu.peek(SP);
  words.forEach((word, i) => {
    machine.ram.writeU64(pa + 8 * i, word);
  });
}

/** What stackAddresses() gives while the arena is asked. */
function addresses(machine: TestMachine, rip: bigint): readonly bigint[] {
  let found: readonly bigint[] = [];
  machine.set({ rip, rsp: SP });
  const { kernel, here } = machine;
  kernel.bpf_arena_handle_page_fault = () => {
    found = here.arch.stackAddresses(here);
    return here.trace.immediate(true);
  };
  machine.miss(HOLE, 'write');
  return found;
}

/** What arch_bpf_stack_walk() visits while the arena is asked. stackAddresses() must say the same. */
function walk(machine: TestMachine, rip: bigint, limit = 100): string[] {
  const seen: string[] = [];
  const ips: bigint[] = [];
  machine.set({ rip, rsp: SP });
  const { kernel, here } = machine;
  kernel.bpf_arena_handle_page_fault = function* () {
    here.arch.arch_bpf_stack_walk(here, (ip, sp, bp) => {
      ips.push(ip);
      seen.push(`${kernel.sprint_symbol(ip)} sp ${(sp - SP).toString(16)} bp ${bp.toString(16)}`);
      return seen.length < limit;
    });
    expect(here.arch.stackAddresses(here).slice(0, limit)).toEqual(ips);
    return true;
  };
  machine.miss(HOLE, 'write');
  return seen;
}

/** leaf: no frame at all. framed: push rbp; mov rbp,rsp; call; pop rbp; ret. prog: the same as a BPF image. */
function code(machine: TestMachine): { leaf: bigint; framed: bigint; prog: bigint } {
  const frame = [0x55, 0x48, 0x89, 0xe5, 0xe8, 0, 0, 0, 0, 0x5d, 0xc3];
  return {
    leaf: machine.text('leaf', 0x100, [0x48, 0x89, 0x07, 0xc3]),
    framed: machine.text('framed', 0x200, frame),
    prog: machine.text('bpf_prog', 0x300, frame, frame.length, true),
  };
}

describe('arch_bpf_stack_walk', () => {
  test('finds the caller of a leaf without a frame, goes through a program, and ends at the sentinel', () => {
    const machine = testMachine();
    const { leaf, framed, prog } = code(machine);
    const rbp = SP + 0x8n;
    machine.set({ rbp });
    stack(machine, [framed + 9n, SP + 0x18n, prog + 9n, 0n, SENTINEL, leaf]);
    expect(walk(machine, leaf)).toEqual([
      `leaf+0x0/0x4 sp 0 bp ${rbp.toString(16)}`,
      `framed+0x9/0xb sp 8 bp ${rbp.toString(16)}`,
      `bpf_prog+0x9/0xb sp 18 bp ${(SP + 0x18n).toString(16)}`,
      `0x${SENTINEL.toString(16)} sp 28 bp 0`,
    ]);
  });

  test('stops when the visitor has enough', () => {
    const machine = testMachine();
    const { leaf, framed } = code(machine);
    machine.set({ rbp: SP + 0x8n });
    stack(machine, [framed + 9n, 0n, SENTINEL]);
    expect(walk(machine, leaf, 1)).toHaveLength(1);
  });

  test('visits nothing when the code itself is no kernel text', () => {
    const machine = testMachine();
    const { framed } = code(machine);
    stack(machine, [framed + 9n, SENTINEL]);
    expect(walk(machine, HOLE)).toEqual([]);
    expect(walk(machine, 0n)).toEqual([]);
  });

  test('visits nothing with the frame-pointer unwinder', () => {
    const machine = testMachine({ UNWINDER: 'frame_pointer' });
    const { leaf, framed } = code(machine);
    stack(machine, [framed + 9n, SENTINEL]);
    expect(walk(machine, leaf)).toEqual([]);
  });

  test('visits nothing outside of an exception', () => {
    const machine = testMachine();
    const seen: bigint[] = [];
    machine.here.arch.arch_bpf_stack_walk(machine.here, (ip) => seen.push(ip) > 0);
    expect(seen).toEqual([]);
  });

  test.each([
    ['a frame pointer that points down', SP - 0x40n],
    ['one that points to itself', SP - 8n],
    ['one out of the stack', STACK_TOP],
    ['one that no address can be', 0x4141414141414141n],
    ['one that is not aligned', SP + 0x9n],
  ])('ends at %s', (_what, rbp) => {
    const machine = testMachine();
    const { leaf, framed } = code(machine);
    machine.set({ rbp });
    stack(machine, [framed + 9n, framed + 9n, framed + 9n]);
    expect(walk(machine, leaf)).toHaveLength(2);
  });

  test('a fault in the middle of a prologue finds the caller', () => {
    const machine = testMachine();
    const { framed } = code(machine);
    machine.set({ rbp: 0x1234n });
    stack(machine, [0x1234n, framed + 9n, SENTINEL]);
    // Between push rbp and mov rbp, rsp.
    expect(walk(machine, framed + 1n)[1]).toMatch(/^framed\+0x9/);
  });
});

describe('stackAddresses', () => {
  test('is the same array for as long as walks come to the same addresses, and another one after that', () => {
    const machine = testMachine();
    const { leaf, framed, prog } = code(machine);
    machine.set({ rbp: SP + 0x8n });
    stack(machine, [framed + 9n, SP + 0x18n, prog + 9n, 0n, SENTINEL]);
    const first = addresses(machine, leaf);
    expect(first).toEqual([leaf, framed + 9n, prog + 9n, SENTINEL]);
    expect(addresses(machine, leaf)).toBe(first);

    // Another caller in the middle, a shorter stack, and the first one again.
    stack(machine, [framed + 9n, SP + 0x18n, prog + 4n, 0n, SENTINEL]);
    expect(addresses(machine, leaf)).toEqual([leaf, framed + 9n, prog + 4n, SENTINEL]);
    stack(machine, [SENTINEL]);
    expect(addresses(machine, leaf)).toEqual([leaf, SENTINEL]);
    stack(machine, [framed + 9n, SP + 0x18n, prog + 9n, 0n, SENTINEL]);
    expect(addresses(machine, leaf)).toEqual(first);
    expect(first).toHaveLength(4);
  });

  test('sees new unwinder tables', () => {
    const machine = testMachine();
    const { framed, prog } = code(machine);
    machine.set({ rbp: SP + 0x10n });
    stack(machine, [framed + 9n, prog + 9n, 0n, SENTINEL]);
    // nop; mov [rdi], rax; ret, and then push rbx in the place of the nop.
    const f = machine.text('f', 0x400, [0x90, 0x48, 0x89, 0x07, 0xc3]);
    expect(addresses(machine, f + 1n)).toEqual([f + 1n, framed + 9n, SENTINEL]);
    machine.text('f', 0x400, [0x53, 0x48, 0x89, 0x07, 0x5b, 0xc3]);
    expect(addresses(machine, f + 1n)).toEqual([f + 1n, prog + 9n, SENTINEL]);
  });

  test('follows registers that the handler changes', () => {
    const machine = testMachine();
    const { leaf, framed } = code(machine);
    machine.set({ rip: leaf, rsp: SP, rbp: SP + 0x8n });
    stack(machine, [framed + 9n, 0n, SENTINEL]);
    const { kernel, here } = machine;
    const seen: (readonly bigint[])[] = [];
    kernel.bpf_arena_handle_page_fault = () => {
      seen.push(here.arch.stackAddresses(here));
      if (here.regs instanceof X86PtRegs) here.regs.ip = leaf + 3n;
      seen.push(here.arch.stackAddresses(here));
      return here.trace.immediate(true);
    };
    machine.miss(HOLE, 'write');
    expect(seen.map(([first]) => first)).toEqual([leaf, leaf + 3n]);
  });
});
