/**
 * The tables of the ORC unwinder: struct orc_entry and its constants, arch/x86/include/asm/orc_types.h, and
 * the entries that arch/x86/kernel/unwind_orc.c brings itself, bpf-next merge 8496d9020ff3.
 */

export const ORC_REG_UNDEFINED = 0;
export const ORC_REG_PREV_SP = 1;
export const ORC_REG_DX = 2;
export const ORC_REG_DI = 3;
export const ORC_REG_BP = 4;
export const ORC_REG_SP = 5;
export const ORC_REG_R10 = 6;
export const ORC_REG_R13 = 7;
export const ORC_REG_BP_INDIRECT = 8;
export const ORC_REG_SP_INDIRECT = 9;

export type OrcReg =
  | typeof ORC_REG_UNDEFINED
  | typeof ORC_REG_PREV_SP
  | typeof ORC_REG_DX
  | typeof ORC_REG_DI
  | typeof ORC_REG_BP
  | typeof ORC_REG_SP
  | typeof ORC_REG_R10
  | typeof ORC_REG_R13
  | typeof ORC_REG_BP_INDIRECT
  | typeof ORC_REG_SP_INDIRECT;

export const ORC_TYPE_UNDEFINED = 0;
export const ORC_TYPE_END_OF_STACK = 1;
export const ORC_TYPE_CALL = 2;
export const ORC_TYPE_REGS = 3;
export const ORC_TYPE_REGS_PARTIAL = 4;

export type OrcType =
  | typeof ORC_TYPE_UNDEFINED
  | typeof ORC_TYPE_END_OF_STACK
  | typeof ORC_TYPE_CALL
  | typeof ORC_TYPE_REGS
  | typeof ORC_TYPE_REGS_PARTIAL;

/**
 * struct orc_entry: the caller's frame begins at sp_reg + sp_offset. With type CALL the return address is
 * the word below that; with the types REGS, pt_regs begin there.
 */
export interface OrcEntry {
  readonly type: OrcType;
  readonly sp_reg: OrcReg;
  readonly sp_offset: number;
  /** PREV_SP: the caller's RBP is at frame + bp_offset. BP: at RBP + bp_offset. UNDEFINED: it is in RBP. */
  readonly bp_reg: OrcReg;
  readonly bp_offset: number;
  /** The frame that is found is an interrupted one: its address is exact, not a return address. */
  readonly signal: boolean;
}

/** For code without tables: it is assumed to keep a frame pointer. BPF programs do. */
export const orc_fp_entry: OrcEntry = {
  type: ORC_TYPE_CALL,
  sp_reg: ORC_REG_BP,
  sp_offset: 16,
  bp_reg: ORC_REG_PREV_SP,
  bp_offset: -16,
  signal: false,
};

/** For a call through a null pointer: as if a function had just been entered. */
export const null_orc_entry: OrcEntry = {
  type: ORC_TYPE_CALL,
  sp_reg: ORC_REG_SP,
  sp_offset: 8,
  bp_reg: ORC_REG_UNDEFINED,
  bp_offset: 0,
  signal: false,
};

/** For text that no path leads to, and for frames that cannot be told. */
export const UNDEFINED_ENTRY: OrcEntry = {
  type: ORC_TYPE_UNDEFINED,
  sp_reg: ORC_REG_UNDEFINED,
  sp_offset: 0,
  bp_reg: ORC_REG_UNDEFINED,
  bp_offset: 0,
  signal: false,
};
