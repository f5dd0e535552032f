import { describe, expect, test } from '@jest/globals';
import { instructionText, loadDisassembler } from '../../emu/disassembler.js';
import { type Arm64InstructionKind, classify } from './instruction.js';

/** Word, its text (Capstone must agree), kind, bytes accessed. */
type Row = readonly [number, string, Arm64InstructionKind, number];

const ROWS: readonly Row[] = [
  [0xf8200041, 'ldadd x0, x1, [x2]', 'atomic', 8],
  [0x38e00041, 'ldaddalb w0, w1, [x2]', 'atomic', 1],
  [0x7823109f, 'stclrh w3, [x4]', 'atomic', 2],
  [0xf8e083e1, 'swpal x0, x1, [sp]', 'atomic', 8],
  [0xb82570e6, 'ldumin w5, w6, [x7]', 'atomic', 4],
  [0xc8a07c41, 'cas x0, x1, [x2]', 'atomic', 8],
  [0x08e0fc41, 'casalb w0, w1, [x2]', 'atomic', 1],
  [0x48207c82, 'casp x0, x1, x2, x3, [x4]', 'atomic', 16],
  [0x0860fc82, 'caspal w0, w1, w2, w3, [x4]', 'atomic', 8],
  [0xc85f7c20, 'ldxr x0, [x1]', 'load-exclusive', 8],
  [0x085ffc20, 'ldaxrb w0, [x1]', 'load-exclusive', 1],
  [0xc87f0440, 'ldxp x0, x1, [x2]', 'load-exclusive', 16],
  [0x887f8440, 'ldaxp w0, w1, [x2]', 'load-exclusive', 8],
  [0xc8007c41, 'stxr w0, x1, [x2]', 'store-exclusive', 8],
  [0x4800fc41, 'stlxrh w0, w1, [x2]', 'store-exclusive', 2],
  [0xc8200861, 'stxp w0, x1, x2, [x3]', 'store-exclusive', 16],
  [0x88208861, 'stlxp w0, w1, w2, [x3]', 'store-exclusive', 8],
  [0xc8dffc20, 'ldar x0, [x1]', 'load-acquire', 8],
  [0x08df7c20, 'ldlarb w0, [x1]', 'load-acquire', 1],
  [0x78bfc020, 'ldaprh w0, [x1]', 'load-acquire', 2],
  [0xd9408020, 'ldapur x0, [x1, #8]', 'load-acquire', 8],
  [0x999fc020, 'ldapursw x0, [x1, #-4]', 'load-acquire', 4],
  [0x889ffc20, 'stlr w0, [x1]', 'store-release', 4],
  [0xc89f7c20, 'stllr x0, [x1]', 'store-release', 8],
  [0x19001020, 'stlurb w0, [x1, #1]', 'store-release', 1],
  [0xf8400841, 'ldtr x1, [x2]', 'load-unprivileged', 8],
  [0x38c00841, 'ldtrsb w1, [x2]', 'load-unprivileged', 1],
  [0xb8804841, 'ldtrsw x1, [x2, #4]', 'load-unprivileged', 4],
  [0x78400841, 'ldtrh w1, [x2]', 'load-unprivileged', 2],
  [0xb8000841, 'sttr w1, [x2]', 'store-unprivileged', 4],
  [0x381ff841, 'sttrb w1, [x2, #-1]', 'store-unprivileged', 1],
  [0xd5087621, 'dc ivac, x1', 'cache-maintenance', 0],
  [0xd50b7a21, 'dc cvac, x1', 'cache-maintenance', 0],
  [0xd50b7b21, 'dc cvau, x1', 'cache-maintenance', 0],
  [0xd50b7c21, 'dc cvap, x1', 'cache-maintenance', 0],
  // dc cvadp, x1: not known to Capstone 5 by its name.
  [0xd50b7d21, 'sys #3, c7, c13, #1, x1', 'cache-maintenance', 0],
  [0xd50b7e21, 'dc civac, x1', 'cache-maintenance', 0],
  [0xd50b7521, 'ic ivau, x1', 'cache-maintenance', 0],
  [0xd50b7423, 'dc zva, x3', 'dc-zva', 0],
  [0xd5087800, 'at s1e1r, x0', 'address-translation', 0],
  [0xd5087860, 'at s1e0w, x0', 'address-translation', 0],
  // Neighbours in the encoding that are none of these.
  [0xf9400020, 'ldr x0, [x1]', 'none', 0],
  [0x38626820, 'ldrb w0, [x1, x2]', 'none', 0],
  [0xa9bf7bfd, 'stp x29, x30, [sp, #-0x10]!', 'none', 0],
  [0xa8400440, 'ldnp x0, x1, [x2]', 'none', 0],
  [0xf85f8020, 'ldur x0, [x1, #-8]', 'none', 0],
  [0xf8008420, 'str x0, [x1], #8', 'none', 0],
  [0xf8200420, 'ldraa x0, [x1]', 'none', 0],
  [0xf9800000, 'prfm pldl1keep, [x0]', 'none', 0],
  [0x3dc00020, 'ldr q0, [x1]', 'none', 0],
  [0xd5087640, 'dc isw, x0', 'none', 0],
  [0xd5087a40, 'dc csw, x0', 'none', 0],
  [0xd508751f, 'ic iallu', 'none', 0],
  [0xd5033f9f, 'dsb sy', 'none', 0],
  [0xd5384100, 'mrs x0, sp_el0', 'none', 0],
  [0x8b020020, 'add x0, x1, x2', 'none', 0],
];

describe('classify', () => {
  test('agrees with the instruction that Capstone sees in the word', async () => {
    const disassembler = await loadDisassembler();
    const bytes = new Uint8Array(4);
    const seen = ROWS.map(([word, , , size]) => {
      new DataView(bytes.buffer).setUint32(0, word, true);
      const [instruction] = disassembler.disassemble('arm64', bytes, 0n);
      const facts = classify(word);
      const text = instruction === undefined ? '' : instructionText(instruction);
      return [word, text, facts.kind, size === 0 ? 0 : facts.size];
    });
    expect(seen).toEqual(ROWS);
  });

  test('takes the word signed or unsigned', () => {
    for (const [word, , kind] of ROWS) expect(classify(word | 0).kind).toBe(kind);
  });

  test('no field besides registers and offset decides', () => {
    for (const [word, , kind] of ROWS) {
      if (kind === 'none') continue;
      // Rt for maintenance, Rn (5 to 9) and Rt for the others.
      const registers = word >>> 22 === 0xd5080000 >>> 22 ? 0x1f : 0x3ff;
      expect(classify((word & ~registers) >>> 0).kind).toBe(kind);
      expect(classify((word | registers) >>> 0).kind).toBe(kind);
    }
  });

  test('alignment that faults whatever the memory type: atomics, exclusives, acquire and release', () => {
    expect(classify(0x48207c82)).toMatchObject({ isAtomic: true, alignment: 16 });
    expect(classify(0xc87f0440)).toMatchObject({ isLoadExclusive: true, alignment: 16 });
    expect(classify(0x4800fc41)).toMatchObject({ isStoreExclusive: true, alignment: 2 });
    expect(classify(0xc8dffc20)).toMatchObject({ kind: 'load-acquire', alignment: 8 });
    expect(classify(0xf8400841)).toMatchObject({ isUnprivileged: true, alignment: 1 });
    expect(classify(0xf9400020)).toMatchObject({ kind: 'none', alignment: 1 });
  });

  test('names the maintenance operation, and keeps DC ZVA apart', () => {
    expect(classify(0xd50b7e21)).toMatchObject({ isCacheMaintenance: true, cacheOp: 'dc civac' });
    expect(classify(0xd5087621)).toMatchObject({ isCacheMaintenance: true, cacheOp: 'dc ivac' });
    expect(classify(0xd50b7521)).toMatchObject({ isCacheMaintenance: true, cacheOp: 'ic ivau' });
    expect(classify(0xd50b7423)).toMatchObject({ isCacheMaintenance: false, isDcZva: true, cacheOp: null });
  });
});
