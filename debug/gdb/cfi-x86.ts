/** Where the frame is at each instruction of x86-64 code: of the kernel's own unwind tables, and the pushes. */
import { createRequire } from 'node:module';
import {
  ORC_REG_BP,
  ORC_REG_PREV_SP,
  ORC_REG_SP,
  ORC_TYPE_CALL,
  type OrcEntry,
} from '../../arch/x86/orc-entry.js';
import { validateCode } from '../../arch/x86/orc-validate.js';
import type { CfiRow } from './cfi.js';

/** DWARF's numbers of the System V ABI for x86-64, figure 3.36. */
const RBP = 6;
const RSP = 7;
export const X86_RETURN = 16;

const require = createRequire(import.meta.url);

/** Rows for a function. */
export function x86Rows(code: Uint8Array): CfiRow[] {
  const { entries } = validateCode(code, [], () => 'returns');
  const pushes = pushed(code);
  const rows: CfiRow[] = [];
  entries.forEach((entry, offset) => {
    rows.push(rowOf(offset, entry, pushes[offset] ?? new Map()));
  });
  return rows;
}

function rowOf(offset: number, entry: OrcEntry, pushes: ReadonlyMap<number, number>): CfiRow {
  const register = entry.sp_reg === ORC_REG_SP ? RSP : entry.sp_reg === ORC_REG_BP ? RBP : null;
  if (entry.type !== ORC_TYPE_CALL || register === null) return { offset, cfa: null, saved: new Map() };
  const saved = new Map([...pushes, [X86_RETURN, -8] as const]);
  if (entry.bp_reg === ORC_REG_PREV_SP) saved.set(RBP, entry.bp_offset);
  return { offset, cfa: { register, offset: entry.sp_offset }, saved };
}

/**
 * By offset: where callee-saved registers other than RBP are, of which the kernel's tables say nothing. A function
 * pushes them at its beginning; where it pops them it ends, and what stands behind that is in the middle again.
 */
function pushed(code: Uint8Array): ReadonlyMap<number, number>[] {
  const iced = require('iced-x86') as typeof import('iced-x86');
  const numbers = new Map<number, number>([
    [iced.Register.RBX, 3],
    [iced.Register.R12, 12],
    [iced.Register.R13, 13],
    [iced.Register.R14, 14],
    [iced.Register.R15, 15],
  ]);
  const decoder = new iced.Decoder(64, code, iced.DecoderOptions.None);
  const instruction = new iced.Instruction();
  const rows: ReadonlyMap<number, number>[] = [];
  try {
    let depth = 8;
    let saved: ReadonlyMap<number, number> = new Map();
    let body = { depth, saved };
    while (decoder.canDecode) {
      const at = decoder.position;
      decoder.decodeOut(instruction);
      for (let i = at; i < decoder.position; i++) rows[i] = saved;
      const number = numbers.get(instruction.op0Register);
      switch (instruction.mnemonic) {
        case iced.Mnemonic.Push:
          depth += 8;
          if (number !== undefined && !saved.has(number)) saved = new Map(saved).set(number, -depth);
          body = { depth, saved };
          break;
        case iced.Mnemonic.Pop:
          if (number !== undefined && saved.get(number) === -depth) {
            saved = new Map([...saved].filter(([register]) => register !== number));
          }
          depth -= 8;
          break;
        case iced.Mnemonic.Sub:
        case iced.Mnemonic.Add:
          if (instruction.op0Register === iced.Register.RSP && instruction.op1Kind !== iced.OpKind.Register) {
            const size = Number(BigInt.asIntN(64, instruction.immediate(1)));
            depth += instruction.mnemonic === iced.Mnemonic.Sub ? size : -size;
            if (instruction.mnemonic === iced.Mnemonic.Sub) body = { depth, saved };
          }
          break;
        case iced.Mnemonic.Leave:
          saved = new Map();
          break;
        case iced.Mnemonic.Ret:
        case iced.Mnemonic.Jmp:
          ({ depth, saved } = body);
          break;
        default:
          break;
      }
    }
    return rows;
  } finally {
    instruction.free();
    decoder.free();
  }
}
