/**
 * Where the frame is at each instruction of arm64 code: the stack pointer, the frame pointer and what is saved are
 * followed along all branches. Instructions as in the Arm Architecture Reference Manual, C4.1.
 */
import type { CfiRow } from './cfi.js';

/** DWARF's numbers are those of the architecture; sp is 31. */
const SP = 31;
const FP = 29;
export const ARM64_LR = 30;

/** Caller's stack pointer - register, in bytes; null: not known. */
interface Frame {
  readonly sp: number | null;
  readonly fp: number | null;
  /** By register: its place from the caller's stack pointer. */
  readonly saved: ReadonlyMap<number, number>;
}

const ENTRY: Frame = { sp: 0, fp: null, saved: new Map() };

/** Rows for a function; one that ends the stack when there is nothing but filler. */
export function arm64Rows(code: Uint8Array): CfiRow[] {
  const words = new DataView(code.buffer, code.byteOffset, code.byteLength);
  const count = Math.floor(code.length / 4);
  const frames: (Frame | undefined)[] = new Array(count);
  const work: { at: number; frame: Frame }[] = [{ at: 0, frame: ENTRY }];
  for (let next = work.pop(); next !== undefined; next = work.pop()) {
    let { at, frame } = next;
    while (at >= 0 && at < count && frames[at] === undefined) {
      frames[at] = frame;
      const word = words.getUint32(at * 4, true);
      frame = behind(word, frame);
      const target = branchTarget(word);
      if (target !== null) work.push({ at: at + target, frame });
      if (endsPath(word)) break;
      at += 1;
    }
  }
  let last: Frame = ENTRY;
  return frames.length === 0
    ? []
    : Array.from(frames, (frame, i) => {
        last = frame ?? last;
        return rowOf(i * 4, last);
      });
}

function rowOf(offset: number, { sp, fp, saved }: Frame): CfiRow {
  if (fp !== null) return { offset, cfa: { register: FP, offset: fp }, saved };
  return { offset, cfa: sp === null ? null : { register: SP, offset: sp }, saved };
}

/** Distance of a direct branch within the function, in instructions; null if it is none. */
function branchTarget(word: number): number | null {
  if ((word & 0xfc00_0000) >>> 0 === 0x1400_0000) return (word << 6) >> 6;
  const conditional = (word & 0xff00_0000) >>> 0 === 0x5400_0000 || (word & 0x7e00_0000) === 0x3400_0000;
  if (conditional) return (word << 8) >> 13;
  if ((word & 0x7e00_0000) === 0x3600_0000) return (word << 13) >> 18;
  return null;
}

/** b, br, ret, eret. */
function endsPath(word: number): boolean {
  if ((word & 0xfc00_0000) >>> 0 === 0x1400_0000) return true;
  const register = (word & 0xfe00_0000) >>> 0 === 0xd600_0000;
  return register && ((word >>> 21) & 0x7) !== 1;
}

/** The frame behind an instruction. */
function behind(word: number, frame: Frame): Frame {
  return pair(word, frame) ?? single(word, frame) ?? add(word, frame) ?? frame;
}

/** stp and ldp of 64-bit registers, with the base sp. */
function pair(word: number, frame: Frame): Frame | null {
  if ((word & 0xfe00_0000) >>> 0 !== 0xa800_0000) return null;
  const base = (word >>> 5) & 31;
  const registers = [word & 31, (word >>> 10) & 31];
  return access(
    frame,
    base,
    registers,
    ((word << 10) >> 25) * 8,
    (word >>> 23) & 3,
    (word & 0x40_0000) !== 0,
  );
}

/** str and ldr of a 64-bit register: before or behind a change of the base, or with an offset. */
function single(word: number, frame: Frame): Frame | null {
  const load = (word & 0x40_0000) !== 0;
  const base = (word >>> 5) & 31;
  if ((word & 0xff80_0000) >>> 0 === 0xf900_0000) {
    return access(frame, base, [word & 31], ((word >>> 10) & 0xfff) * 8, 2, load);
  }
  if ((word & 0xffa0_0000) >>> 0 !== 0xf800_0000) return null;
  const kind = (word >>> 10) & 3;
  const mode = kind === 1 ? 1 : kind === 3 ? 3 : 2;
  return access(frame, base, [word & 31], (word << 11) >> 23, mode, load);
}

/** @param mode 1 post-indexed, 2 offset, 3 pre-indexed, 0 offset (non-temporal) */
function access(
  frame: Frame,
  base: number,
  registers: readonly number[],
  offset: number,
  mode: number,
  load: boolean,
): Frame | null {
  if (base !== SP || frame.sp === null) return frame;
  const place = (mode === 1 ? 0 : offset) - frame.sp;
  const saved = new Map(frame.saved);
  let { fp } = frame;
  registers.forEach((register, i) => {
    if (register < 19 || register > 30) return;
    const at = place + 8 * i;
    if (!load) {
      if (!saved.has(register)) saved.set(register, at);
    } else if (saved.get(register) === at) {
      saved.delete(register);
      if (register === FP) fp = null;
    }
  });
  const moved = mode === 1 || mode === 3 ? frame.sp - offset : frame.sp;
  return { sp: moved, fp, saved };
}

/** add and sub of an immediate, among sp and x29; mov between them is one. */
function add(word: number, frame: Frame): Frame | null {
  const opcode = (word & 0xff80_0000) >>> 0;
  if (opcode !== 0x9100_0000 && opcode !== 0xd100_0000) return null;
  const to = word & 31;
  const from = (word >>> 5) & 31;
  if (to !== SP && to !== FP) return null;
  const shifted = ((word >>> 10) & 0xfff) << ((word & 0x40_0000) === 0 ? 0 : 12);
  const change = (word & 0x4000_0000) === 0 ? shifted : -shifted;
  const known = from === SP ? frame.sp : from === FP ? frame.fp : null;
  const value = known === null ? null : known - change;
  if (to === SP) return { ...frame, sp: value };
  // Only where the caller's is saved, it becomes a frame pointer.
  return frame.saved.has(FP) ? { ...frame, fp: value } : frame;
}
