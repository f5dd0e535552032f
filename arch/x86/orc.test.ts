import { describe, expect, test } from '@jest/globals';
import type { Kernel } from '../kernel.js';
import { OrcTables } from './orc.js';
import type { UnwindHint } from './orc-cfi.js';
import {
  null_orc_entry,
  ORC_REG_BP,
  ORC_REG_BP_INDIRECT,
  ORC_REG_PREV_SP,
  ORC_REG_R10,
  ORC_REG_SP,
  ORC_REG_SP_INDIRECT,
  ORC_TYPE_CALL,
  ORC_TYPE_END_OF_STACK,
  ORC_TYPE_REGS,
  ORC_TYPE_REGS_PARTIAL,
  ORC_TYPE_UNDEFINED,
  type OrcEntry,
  orc_fp_entry,
} from './orc-entry.js';
import { TEXT } from './testing.js';

const START = Number(BigInt.asIntN(64, TEXT));

/** Where BPF images are. */
const BPF = 0xffff_ffff_c000_0000n;
const KERNEL = { is_bpf_text_address: (ip: bigint) => ip >= BPF && ip < BPF + 0x1000n } as Kernel;

const BASES = new Map<number, string>([
  [ORC_REG_SP, 'sp'],
  [ORC_REG_BP, 'bp'],
  [ORC_REG_R10, 'r10'],
  [ORC_REG_BP_INDIRECT, '*bp'],
  [ORC_REG_SP_INDIRECT, '*sp'],
]);
const TYPES = new Map<number, string>([
  [ORC_TYPE_UNDEFINED, 'undefined'],
  [ORC_TYPE_END_OF_STACK, 'end'],
  [ORC_TYPE_CALL, ''],
  [ORC_TYPE_REGS, 'regs '],
  [ORC_TYPE_REGS_PARTIAL, 'iret '],
]);

/** `base+offset`, with `bp@` where the caller's RBP is. */
function show(entry: OrcEntry | null): string {
  if (entry === null) return 'none';
  const { type, sp_reg, sp_offset, bp_reg, bp_offset, signal } = entry;
  if (type === ORC_TYPE_UNDEFINED || type === ORC_TYPE_END_OF_STACK) return TYPES.get(type) ?? '';
  const saved =
    bp_reg === ORC_REG_PREV_SP ? ` bp@${bp_offset}` : bp_reg === ORC_REG_BP ? ` bp@bp${bp_offset}` : '';
  const sign = sp_offset < 0 ? '' : '+';
  return `${TYPES.get(type)}${BASES.get(sp_reg)}${sign}${sp_offset}${saved}${signal ? ' signal' : ''}`;
}

/** Rules of a function by offset of the instruction. */
function rules(
  code: readonly number[],
  offsets: readonly number[],
  hints: readonly UnwindHint[] = [],
): string[] {
  const orc = new OrcTables();
  orc.add({ name: 'f', start: TEXT, code: Uint8Array.from(code) }, hints);
  return offsets.map((offset) => show(orc.orc_find(START + offset, KERNEL)));
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

  test('loops come to an end, and what nothing reaches is undefined', () => {
    // push rax; dec ecx; jne -4; pop rax; ret; then padding
    const code = [0x50, 0xff, 0xc9, 0x75, 0xfc, 0x58, 0xc3, 0xcc, 0xcc];
    expect(rules(code, [1, 5, 6, 7])).toEqual(['sp+16', 'sp+16', 'sp+8', 'undefined']);
  });

  test('the bytes of an instruction share its rule: return addresses are looked up one byte early', () => {
    // sub rsp,8; call +0; add rsp,8; ret
    const code = [0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 0x08, 0xc3];
    expect(rules(code, [4, 8, 9, 13])).toEqual(['sp+16', 'sp+16', 'sp+16', 'sp+8']);
  });

  test('paths with different frames that meet leave it undefined, to the end', () => {
    // test edi,edi; je 1f; push rax; 1: nop; nop; ret
    const code = [0x85, 0xff, 0x74, 0x01, 0x50, 0x90, 0x90, 0xc3];
    expect(rules(code, [2, 4, 5, 6, 7])).toEqual(['sp+8', 'sp+8', 'undefined', 'undefined', 'undefined']);
  });

  test('paths whose stack pointers differ may meet when there is a frame pointer', () => {
    // push rbp; mov rbp,rsp; test edi,edi; je 1f; push rax; 1: nop; leave; ret
    const code = [0x55, 0x48, 0x89, 0xe5, 0x85, 0xff, 0x74, 0x01, 0x50, 0x90, 0xc9, 0xc3];
    expect(rules(code, [8, 9, 10, 11])).toEqual(['bp+16 bp@-16', 'bp+16 bp@-16', 'bp+16 bp@-16', 'sp+8']);
  });

  test.each([
    ['mov rsp,[rdi]', [0x48, 0x8b, 0x27]],
    ['xchg rsp,rax', [0x48, 0x94]],
    ['and rsp,-16 without a frame pointer', [0x48, 0x83, 0xe4, 0xf0]],
    ['pop rsp', [0x5c]],
    ['add rsp,rax', [0x48, 0x01, 0xc4]],
  ])('%s: nobody knows the frame any more', (_, insn) => {
    expect(rules([...insn, 0x90, 0xc3], [0, insn.length])).toEqual(['sp+8', 'undefined']);
  });

  test('the frame pointer as a scratch register: undefined while it is the frame', () => {
    // push rbp; mov rbp,rsp; mov rbp,rdi; nop
    expect(rules([0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0xfd, 0x90], [4, 7])).toEqual([
      'bp+16 bp@-16',
      'undefined',
    ]);
    // push rbp; mov rbp,rdi; pop rbp; ret
    expect(rules([0x55, 0x48, 0x89, 0xfd, 0x5d, 0xc3], [1, 4, 5])).toEqual([
      'sp+16 bp@-16',
      'sp+16 bp@-16',
      'sp+8',
    ]);
  });

  test('a copy of the stack pointer brings it back', () => {
    // mov rcx,rsp; sub rsp,0x20; mov rsp,rcx; lea rdx,[rsp+8]; push rax; mov rsp,rdx; nop
    const code = [
      0x48, 0x89, 0xe1, 0x48, 0x83, 0xec, 0x20, 0x48, 0x89, 0xcc, 0x48, 0x8d, 0x54, 0x24, 0x08, 0x50, 0x48,
      0x89, 0xd4, 0x90,
    ];
    expect(rules(code, [3, 7, 10, 15, 16, 19])).toEqual(['sp+8', 'sp+40', 'sp+8', 'sp+8', 'sp+16', 'sp+0']);
  });

  test('another stack is switched to and left again', () => {
    // mov [rdi],rsp; mov rsp,rdi; push rax; pop rax; pop rsp; ret
    const code = [0x48, 0x89, 0x27, 0x48, 0x89, 0xfc, 0x90, 0x5c, 0xc3];
    expect(rules(code, [3, 6, 7, 8])).toEqual(['sp+8', '*sp+8', '*sp+8', 'sp+8']);
  });

  test('RBP stored by mov instead of push', () => {
    // sub rsp,0x10; mov [rsp+8],rbp; mov rbp,[rsp+8]; add rsp,0x10; ret
    const code = [
      0x48, 0x83, 0xec, 0x10, 0x48, 0x89, 0x6c, 0x24, 0x08, 0x48, 0x8b, 0x6c, 0x24, 0x08, 0x48, 0x83, 0xc4,
      0x10, 0xc3,
    ];
    expect(rules(code, [4, 9, 14, 18])).toEqual(['sp+24', 'sp+24 bp@-16', 'sp+24', 'sp+8']);
  });

  test('code behind a tail call, an endless loop or int3 is not reached; behind ud2 it is when it is code', () => {
    // jmp far away; nop
    expect(rules([0xe9, 0, 0x10, 0, 0, 0x90], [0, 5])).toEqual(['sp+8', 'undefined']);
    // 1: push rax; pop rax; jmp 1b; nop
    expect(rules([0x50, 0x58, 0xeb, 0xfc, 0x90], [0, 1, 2, 4])).toEqual([
      'sp+8',
      'sp+16',
      'sp+8',
      'undefined',
    ]);
    expect(rules([0xcc, 0xc3], [0, 1])).toEqual(['sp+8', 'undefined']);
    // push rax; ud2; pop rax; ret, as WARN() makes it
    expect(rules([0x50, 0x0f, 0x0b, 0x58, 0xc3], [1, 3, 4])).toEqual(['sp+16', 'sp+16', 'sp+8']);
    // push rax; ud2; nop, as BUG() at the end of a function
    expect(rules([0x50, 0x0f, 0x0b, 0x90], [1, 3])).toEqual(['sp+16', 'undefined']);
  });

  test('an instruction cut off at the end, and a jump into the middle of one, do no harm', () => {
    expect(rules([0x50, 0x48], [0, 1])).toEqual(['sp+8', 'undefined']);
    // jmp +1 into mov eax, imm32 whose immediate is push rax; pop rax; ret
    expect(rules([0xeb, 0x01, 0xb8, 0x50, 0x58, 0xc3, 0x90], [0, 3, 4, 5])).toEqual([
      'sp+8',
      'sp+8',
      'sp+16',
      'sp+8',
    ]);
  });
});

describe('calls that do not return', () => {
  /** f: test edi,edi; je 1f; push rax; call target; 1: ret */
  const CALLER = [0x85, 0xff, 0x74, 0x06, 0x50, 0xe8, 0xf3, 0x0f, 0, 0, 0xc3];
  const TARGET = TEXT + 0xffdn;

  function behindTheCall(name: string, target: readonly number[]): string {
    const orc = new OrcTables();
    orc.add({ name: 'f', start: TEXT, code: Uint8Array.from(CALLER) });
    if (target.length > 0) orc.add({ name, start: TARGET, code: Uint8Array.from(target) });
    return show(orc.orc_find(START + 10, KERNEL));
  }

  test('a function that is known to return makes the frames meet', () => {
    expect(behindTheCall('g', [0xc3])).toBe('undefined');
  });
  test('one without a return, one that only jumps to such a one, and one with a name that says so', () => {
    // 1: hlt; jmp 1b
    expect(behindTheCall('g', [0xf4, 0xeb, 0xfd])).toBe('sp+8');
    expect(behindTheCall('panic', [0xc3])).toBe('sp+8');
  });
  test('one that is not known is taken for what fits', () => {
    expect(behindTheCall('', [])).toBe('sp+8');
    expect(behindTheCall('g', [0xcc, 0xcc])).toBe('sp+8');
  });
  test('a function whose sibling call returns does return', () => {
    expect(behindTheCall('g', [0xe9, 0, 0x10, 0, 0])).toBe('undefined');
  });
});

describe('hints of assembly code', () => {
  test('registers on the stack, followed through pushes and pops', () => {
    // call; pop rax; push rax; nop
    const code = [0xe8, 0, 0, 0, 0, 0x58, 0x50, 0x90];
    expect(rules(code, [0, 5, 6, 7], [{ offset: 0, type: 'regs' }])).toEqual([
      'regs sp+0 signal',
      'regs sp+0 signal',
      'regs sp-8 signal',
      'regs sp+0 signal',
    ]);
    expect(rules(code, [0, 6], [{ offset: 0, type: 'iret_regs', spOffset: 16 }])).toEqual([
      'iret sp+16 signal',
      'iret sp+8 signal',
    ]);
  });
  test('the end of the stack, code that nobody can unwind, and functions again', () => {
    const code = [0x90, 0x90, 0x90, 0xc3];
    const hints: UnwindHint[] = [
      { offset: 0, type: 'end_of_stack' },
      { offset: 1, type: 'undefined' },
      { offset: 2, type: 'func' },
    ];
    expect(rules(code, [0, 1, 2], hints)).toEqual(['end', 'undefined', 'sp+8']);
  });
});

describe('orc_find', () => {
  test('tables for functions, nothing between them, frame pointers in BPF images, nothing elsewhere', () => {
    const orc = new OrcTables();
    orc.add({ name: 'f', start: TEXT, code: Uint8Array.of(0xc3) });
    orc.add({ name: 'g', start: TEXT + 0x100n, code: Uint8Array.of(0xc3) });
    const find = (ip: bigint): OrcEntry | null => orc.orc_find(Number(BigInt.asIntN(64, ip)), KERNEL);
    expect(show(find(TEXT))).toBe('sp+8');
    expect(show(find(TEXT + 1n))).toBe('undefined');
    expect(show(find(TEXT + 0x101n))).toBe('none');
    expect(find(BPF + 8n)).toBe(orc_fp_entry);
    expect(find(BPF + 0x2000n)).toBeNull();
    expect(find(0n)).toBe(null_orc_entry);
    // A return address of 1 belongs to the instruction at 0.
    expect(orc.info(1, KERNEL).call).toBe(null_orc_entry);
    expect(orc.info(0, KERNEL).call).toBeNull();
  });
});
