import { describe, expect, test } from '@jest/globals';
import { link } from './link-testing.js';

/** What the verifier says of slot 2, behind two moves. */
function refusal(insn: string): unknown {
  try {
    link({ main: `r0 = 5\nr1 = 6\n${insn}\nexit` }, { boundMaps: ['arena'] });
  } catch (error) {
    return error;
  }
  return null;
}

describe('opcodes', () => {
  // BPF_INSN_MAP(): 53 of arithmetic, 48 of jumps, 20 of memory; and 8 more of bpf_opcode_in_insntable().
  test('there are 129 of 256', () => {
    const unknown = Array.from({ length: 256 }, (_, code) => code).filter((code) =>
      String(refusal(`.insn ${code}, 0, 0, 0, 0`)).includes('unknown opcode'),
    );
    expect(unknown).toHaveLength(256 - 129);
  });

  // Neighbours of those that exist: other classes, X for K, modes and sizes of the verifier's own.
  test.each([
    ['ff', 'no operation'],
    ['df', 'byte swap with BPF_X in 64 bits'],
    ['8c', 'NEG of a register'],
    ['8d', 'CALL by register'],
    ['86', 'CALL in BPF_JMP32'],
    ['96', 'EXIT in BPF_JMP32'],
    ['e6', 'JCOND in BPF_JMP32'],
    ['0e', 'indirect goto in BPF_JMP32'],
    ['99', 'sign-extending load of 64 bits'],
    ['a1', 'BPF_PROBE_MEM32'],
    ['e3', 'BPF_PROBE_ATOMIC'],
    ['c2', 'BPF_NOSPEC'],
    ['38', 'BPF_ABS of 64 bits'],
  ])('%s: %s', (code) => {
    const message = `unknown opcode ${code}`;
    expect(refusal(`.insn 0x${code}, 0, 0, 0, 0`)).toMatchObject({ message, errno: -22, slot: 2 });
  });
});

// check_alu_fields(), check_jmp_fields(), check_insn_fields(); one field at a time.
describe('reserved fields', () => {
  test.each([
    ['87, 1, 0, 0, 1', 'BPF_NEG'],
    ['87, 1, 0, 1, 0', 'BPF_NEG'],
    ['87, 1, 1, 0, 0', 'BPF_NEG'],
    ['d4, 1, 0, 0, 8', 'BPF_END'],
    ['dc, 1, 0, 1, 16', 'BPF_END'],
    ['d7, 1, 1, 0, 16', 'BPF_END'],
    ['bf, 1, 0, 8, 1', 'BPF_MOV'],
    ['bf, 1, 0, 24, 0', 'BPF_MOV'],
    ['bc, 1, 0, 32, 0', 'BPF_MOV'],
    ['bc, 1, 0, 1, 1', 'BPF_MOV'],
    ['b7, 1, 1, 0, 7', 'BPF_MOV'],
    ['b7, 1, 0, 8, 7', 'BPF_MOV'],
    ['0f, 1, 0, 0, 1', 'BPF_ALU'],
    ['07, 1, 1, 0, 1', 'BPF_ALU'],
    ['07, 1, 0, 1, 1', 'BPF_ALU'],
    ['3f, 1, 0, 2, 0', 'BPF_ALU'],
    ['05, 0, 0, 0, 1', 'BPF_JA'],
    ['06, 0, 0, 1, 0', 'BPF_JA'],
    ['05, 1, 0, 0, 0', 'BPF_JA'],
    ['0d, 1, 0, 0, 1', 'BPF_JA|BPF_X'],
    ['15, 1, 1, 0, 0', 'BPF_JMP/JMP32'],
    ['1e, 1, 0, 0, 1', 'BPF_JMP/JMP32'],
    ['85, 1, 0, 0, 1', 'BPF_CALL'],
    ['85, 0, 0, 1, 1', 'BPF_CALL'],
    ['85, 0, 3, 0, 1', 'BPF_CALL'],
    ['95, 0, 0, 0, 1', 'BPF_EXIT'],
    ['95, 0, 1, 0, 0', 'BPF_EXIT'],
    ['79, 1, 10, -8, 1', 'BPF_LDX'],
    ['7b, 10, 1, -8, 1', 'BPF_STX'],
    ['7a, 10, 1, -8, 1', 'BPF_ST'],
    ['20, 1, 0, 0, 0', 'BPF_LD_[ABS|IND]'],
    ['20, 0, 1, 0, 0', 'BPF_LD_[ABS|IND]'],
  ])('0x%s', (fields, what) => {
    const message = `${what} uses reserved fields`;
    expect(refusal(`.insn 0x${fields}`)).toMatchObject({ message, errno: -22, slot: 2 });
  });

  test.each([
    ['.insn 0xe5, 0, 0, 0, 4', 'invalid may_goto imm 4'],
    ['.insn 0xbf, 1, 0, 1, 2', 'addr_space_cast insn can only convert between address space 1 and 0'],
    ['.insn 0x18, 1, 0, 1, 0\n.insn 0, 0, 0, 0, 0', 'BPF_LD_IMM64 uses reserved fields'],
    ['.insn 0x18, 1, 0, 0, 0\n.insn 0, 0, 1, 0, 0', 'invalid bpf_ld_imm64 insn'],
    ['.insn 0x18, 1, 7, 0, 0\n.insn 0, 0, 0, 0, 0', 'unrecognized bpf_ld_imm64 insn'],
    ['.insn 0x18, 1, 1, 0, 9\n.insn 0, 0, 0, 0, 1', 'unrecognized bpf_ld_imm64 insn'],
    ['.insn 0x0d, 1, 0, 0, 0', 'no jump tables found for subprog starting at 0'],
    ['.insn 0x20, 0, 0, 0, 0', 'BPF_LD_[ABS|IND] instructions not allowed for this program type'],
    ['.insn 0x85, 0, 1, 0, 0', 'a call into the middle of a function is not followed here'],
  ])('%j', (insn, message) => {
    expect(refusal(insn)).toMatchObject({ message, errno: -22 });
  });

  test('what names would stand for', () => {
    expect(refusal('.insn 0x18, 1, 1, 0, 9\n.insn 0, 0, 0, 0, 0')).toMatchObject({
      message: 'fd 9 is not pointing to valid bpf_map',
      errno: -9,
    });
    expect(refusal('.insn 0x18, 1, 3, 0, 9\n.insn 0, 0, 0, 0, 0')).toMatchObject({
      message: 'ldimm64 insn specifies invalid btf_id 9.',
      errno: -2,
    });
  });
});

describe('immediate operands of arithmetic', () => {
  // check_alu_op()
  test.each([
    ['r1 /= 0', 'div by zero'],
    ['w1 %= 0', 'div by zero'],
    ['r1 s/= 0', 'div by zero'],
    ['r1 <<= 64', 'invalid shift 64'],
    ['w1 >>= 32', 'invalid shift 32'],
    ['r1 s>>= -1', 'invalid shift -1'],
  ])('%s', (insn, message) => {
    expect(refusal(insn)).toMatchObject({ message, errno: -22, slot: 2 });
  });

  test.each(['r1 <<= 63', 'w1 s>>= 31', 'r1 >>= 0', 'r1 /= -1', 'r1 /= r0', 'r1 <<= r0'])('%s', (insn) => {
    expect(refusal(insn)).toBeNull();
  });
});

test('the form of the whole comes first, then each instruction, then what can be reached', () => {
  expect(refusal('.insn 0xff, 0, 0, 0, 0\ngoto +7')).toMatchObject({
    message: 'jump out of range from insn 3 to 11',
  });
  expect(refusal('exit\n.insn 0xff, 0, 0, 0, 0')).toMatchObject({ message: 'unknown opcode ff' });
});
