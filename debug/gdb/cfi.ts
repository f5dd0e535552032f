/** Unwind tables for gdb: `.debug_frame` as in DWARF 4, 6.4. */

/** Where the caller's frame and registers are, from an offset in the function on. Registers by DWARF's numbers. */
export interface CfiRow {
  readonly offset: number;
  /** The caller's stack pointer is register + offset; null: nobody can tell, the stack ends here. */
  readonly cfa: { readonly register: number; readonly offset: number } | null;
  /** Registers that are saved, by their place from there. The others have their values still. */
  readonly saved: ReadonlyMap<number, number>;
}

export interface CfiFunction {
  readonly start: bigint;
  readonly size: number;
  readonly rows: readonly CfiRow[];
}

const DW_CFA_advance_loc4 = 0x04;
const DW_CFA_offset_extended_sf = 0x11;
const DW_CFA_undefined = 0x07;
const DW_CFA_same_value = 0x08;
const DW_CFA_def_cfa_sf = 0x12;

/** Places are multiples of it. */
const DATA_ALIGN = -8;

/** The section: one entry of common information, and one for each function. */
export function debugFrame(returnRegister: number, functions: readonly CfiFunction[]): Uint8Array {
  const cie = entry(0xffff_ffff, [1, 0, ...uleb(1), ...sleb(DATA_ALIGN), returnRegister]);
  const parts = [cie];
  for (const { start, size, rows } of functions) {
    const range = [...word64(start), ...word64(BigInt(size))];
    parts.push(entry(0, [...range, ...instructions(returnRegister, rows)]));
  }
  return Uint8Array.from(Buffer.concat(parts));
}

function entry(id: number, body: readonly number[]): Uint8Array {
  const length = 4 + body.length;
  const padding = (8 - ((length + 4) % 8)) % 8;
  const bytes = new Uint8Array(4 + length + padding);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, length + padding, true);
  view.setUint32(4, id, true);
  // DW_CFA_nop is 0.
  bytes.set(body, 8);
  return bytes;
}

function instructions(returnRegister: number, rows: readonly CfiRow[]): number[] {
  const out: number[] = [];
  let at = 0;
  let before: CfiRow | null = null;
  for (const row of rows) {
    if (before !== null && sameRow(before, row)) continue;
    if (row.offset > at) out.push(DW_CFA_advance_loc4, ...word32(row.offset - at));
    at = row.offset;
    if (row.cfa === null) {
      out.push(DW_CFA_undefined, ...uleb(returnRegister));
      // There has to be one.
      if (before === null) out.push(DW_CFA_def_cfa_sf, ...uleb(returnRegister), 0);
    } else {
      out.push(DW_CFA_def_cfa_sf, ...uleb(row.cfa.register), ...sleb(row.cfa.offset / DATA_ALIGN));
      for (const [register, place] of row.saved) {
        out.push(DW_CFA_offset_extended_sf, ...uleb(register), ...sleb(place / DATA_ALIGN));
      }
      const gone = [...(before?.saved.keys() ?? [])].filter((register) => !row.saved.has(register));
      if (before?.cfa === null && !row.saved.has(returnRegister)) gone.push(returnRegister);
      for (const register of gone) out.push(DW_CFA_same_value, ...uleb(register));
    }
    before = row;
  }
  return out;
}

function sameRow(a: CfiRow, b: CfiRow): boolean {
  if (a.cfa === null || b.cfa === null) return a.cfa === b.cfa;
  return (
    a.cfa.register === b.cfa.register &&
    a.cfa.offset === b.cfa.offset &&
    a.saved.size === b.saved.size &&
    [...a.saved].every(([register, place]) => b.saved.get(register) === place)
  );
}

function word32(value: number): number[] {
  return [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
}

function word64(value: bigint): number[] {
  return [0, 8, 16, 24, 32, 40, 48, 56].map((shift) => Number((value >> BigInt(shift)) & 0xffn));
}

function uleb(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  do {
    out.push((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    rest >>>= 7;
  } while (rest > 0);
  return out;
}

function sleb(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  for (;;) {
    const low = rest & 0x7f;
    rest >>= 7;
    const done = (rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0);
    out.push(done ? low : low | 0x80);
    if (done) return out;
  }
}
