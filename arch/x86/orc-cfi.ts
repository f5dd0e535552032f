/**
 * What one instruction does to the frame, and the table entry for a frame: update_cfi_state() of
 * tools/objtool/check.c with the instructions that tools/objtool/arch/x86/decode.c hands to it, and
 * init_orc_entry() of its orc_gen.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: saved registers other than RBP (tables do not mention them), and warnings. Where objtool gives
 * up with an error, or does not see that RSP or RBP is overwritten, the frame is undefined here.
 */
import type { Instruction } from 'iced-x86';
import {
  ORC_REG_BP,
  ORC_REG_BP_INDIRECT,
  ORC_REG_DI,
  ORC_REG_DX,
  ORC_REG_PREV_SP,
  ORC_REG_R10,
  ORC_REG_R13,
  ORC_REG_SP,
  ORC_REG_SP_INDIRECT,
  ORC_REG_UNDEFINED,
  ORC_TYPE_CALL,
  ORC_TYPE_END_OF_STACK,
  ORC_TYPE_REGS,
  ORC_TYPE_REGS_PARTIAL,
  ORC_TYPE_UNDEFINED,
  type OrcEntry,
  type OrcReg,
  UNDEFINED_ENTRY,
} from './orc-entry.js';

export type IcedModule = typeof import('iced-x86');

/** Registers by their number in instruction encodings: CFI_AX … CFI_R15. */
const CFI_DX = 2;
const CFI_SP = 4;
const CFI_BP = 5;
const CFI_DI = 7;
const CFI_R10 = 10;
const CFI_R13 = 13;
/** The caller's stack pointer: canonical frame address. */
const CFI_CFA = 17;
const CFI_SP_INDIRECT = 18;
const CFI_BP_INDIRECT = 19;
const CFI_UNDEFINED = -1;

/** struct cfi_reg: a place in the stack. */
interface cfi_reg {
  readonly base: number;
  readonly offset: number;
}

const NOWHERE: cfi_reg = { base: CFI_UNDEFINED, offset: 0 };

/** struct cfi_state; never changed, only replaced. */
export interface cfi_state {
  readonly type: OrcEntry['type'];
  readonly signal: boolean;
  readonly cfa: cfi_reg;
  /** regs[CFI_BP]: where the caller's RBP is saved. */
  readonly savedBp: cfi_reg;
  readonly stack_size: number;
  /** Registers that hold an address on the stack, by number. */
  readonly vals: ReadonlyMap<number, cfi_reg>;
  /** The stack was realigned, and the frame is found through `drap_reg`. */
  readonly drap: boolean;
  readonly drap_reg: number;
  readonly drap_offset: number;
}

/** At the first instruction of a function. */
export const INITIAL_STATE: cfi_state = {
  type: ORC_TYPE_CALL,
  signal: false,
  cfa: { base: CFI_SP, offset: 8 },
  savedBp: NOWHERE,
  stack_size: 8,
  vals: new Map(),
  drap: false,
  drap_reg: CFI_UNDEFINED,
  drap_offset: -1,
};

/** Nobody can tell where the frame is. Once undefined, a frame stays so. */
export const UNDEFINED_STATE: cfi_state = { ...INITIAL_STATE, type: ORC_TYPE_UNDEFINED, cfa: NOWHERE };

/** insn_cfi_match(), as far as tables depend on it: paths with these states may meet. */
export function cfiMatch(a: cfi_state, b: cfi_state): boolean {
  return (
    a.type === b.type &&
    a.signal === b.signal &&
    samePlace(a.cfa, b.cfa) &&
    samePlace(a.savedBp, b.savedBp) &&
    a.drap === b.drap &&
    (!a.drap || (a.drap_reg === b.drap_reg && a.drap_offset === b.drap_offset))
  );
}

function samePlace(a: cfi_reg, b: cfi_reg): boolean {
  return a.base === b.base && a.offset === b.offset;
}

/** init_orc_entry() */
export function entryFor({ type, cfa, savedBp, signal }: cfi_state): OrcEntry {
  if (type === ORC_TYPE_UNDEFINED) return UNDEFINED_ENTRY;
  if (type === ORC_TYPE_END_OF_STACK) return { ...UNDEFINED_ENTRY, type };
  const sp_reg = ORC_REGISTERS.get(cfa.base);
  if (sp_reg === undefined) return UNDEFINED_ENTRY;
  const bp_reg =
    savedBp.base === CFI_CFA ? ORC_REG_PREV_SP : savedBp.base === CFI_BP ? ORC_REG_BP : ORC_REG_UNDEFINED;
  const bp_offset = bp_reg === ORC_REG_UNDEFINED ? 0 : savedBp.offset;
  return { type, sp_reg, sp_offset: cfa.offset, bp_reg, bp_offset, signal };
}

const ORC_REGISTERS: ReadonlyMap<number, OrcReg> = new Map<number, OrcReg>([
  [CFI_SP, ORC_REG_SP],
  [CFI_SP_INDIRECT, ORC_REG_SP_INDIRECT],
  [CFI_BP, ORC_REG_BP],
  [CFI_BP_INDIRECT, ORC_REG_BP_INDIRECT],
  [CFI_R10, ORC_REG_R10],
  [CFI_R13, ORC_REG_R13],
  [CFI_DI, ORC_REG_DI],
  [CFI_DX, ORC_REG_DX],
]);

/** UNWIND_HINT_* of assembly code: the frame at an instruction is told, not found. */
export interface UnwindHint {
  /** Offset of the instruction in its function. */
  readonly offset: number;
  readonly type: 'regs' | 'iret_regs' | 'func' | 'end_of_stack' | 'undefined';
  /** Distance from RSP to pt_regs, or for iret_regs to what hardware pushed. */
  readonly spOffset?: number;
  /** The hint describes an interrupted frame. */
  readonly signal?: boolean;
}

export function stateOfHint({ type, spOffset = 0, signal = true }: UnwindHint): cfi_state {
  const cfa = { base: CFI_SP, offset: spOffset };
  switch (type) {
    case 'regs':
      return { ...INITIAL_STATE, type: ORC_TYPE_REGS, cfa, signal };
    case 'iret_regs':
      return { ...INITIAL_STATE, type: ORC_TYPE_REGS_PARTIAL, cfa, signal };
    case 'func':
      return INITIAL_STATE;
    case 'end_of_stack':
      return { ...UNDEFINED_STATE, type: ORC_TYPE_END_OF_STACK };
    case 'undefined':
      return UNDEFINED_STATE;
  }
}

/** The state behind an instruction. Calls leave the stack as they found it. */
export function update_cfi_state(iced: IcedModule, insn: Instruction, state: cfi_state): cfi_state {
  if (state.cfa.base === CFI_UNDEFINED) return state;
  const regs = state.type === ORC_TYPE_REGS || state.type === ORC_TYPE_REGS_PARTIAL;
  const { Mnemonic, OpKind } = iced;
  const dest = insn.op0Kind === OpKind.Register ? numberOf(iced, insn.op0Register) : CFI_UNDEFINED;
  const src = insn.op1Kind === OpKind.Register ? numberOf(iced, insn.op1Register) : CFI_UNDEFINED;
  switch (insn.mnemonic) {
    case Mnemonic.Call:
      return state;
    case Mnemonic.Push:
      return push(state, insn.op0Kind === OpKind.Register ? dest : CFI_UNDEFINED, insn, regs);
    case Mnemonic.Pop:
      return pop(state, insn.op0Kind === OpKind.Register ? dest : CFI_UNDEFINED, insn, regs);
    case Mnemonic.Leave:
      return regs ? UNDEFINED_STATE : pop(moveRegister(state, CFI_SP, CFI_BP), CFI_BP, insn, false, 8);
    case Mnemonic.Enter: {
      if (regs || insn.immediate8_2nd !== 0) return UNDEFINED_STATE;
      const framed = moveRegister(push(state, CFI_BP, insn, false, 8), CFI_BP, CFI_SP);
      return addImmediate(framed, CFI_SP, CFI_SP, -insn.immediate16);
    }
    case Mnemonic.Mov:
      if (regs) break;
      if (dest >= 0 && src >= 0) {
        return is64(iced, insn.op0Register) ? moveRegister(state, dest, src) : overwrite(state, dest);
      }
      if (insn.op0Kind === OpKind.Memory && src >= 0 && is64(iced, insn.op1Register)) {
        return store(state, src, placeOf(iced, insn));
      }
      if (dest >= 0 && insn.op1Kind === OpKind.Memory && is64(iced, insn.op0Register)) {
        return load(state, dest, placeOf(iced, insn));
      }
      break;
    case Mnemonic.Lea:
      if (regs || !is64(iced, insn.op0Register)) break;
      return loadAddress(state, dest, placeOf(iced, insn));
    case Mnemonic.Add:
    case Mnemonic.Sub: {
      if (dest !== CFI_SP || insn.op1Kind === OpKind.Register || insn.op1Kind === OpKind.Memory) break;
      const immediate = Number(BigInt.asIntN(64, insn.immediate(1)));
      return addImmediate(state, CFI_SP, CFI_SP, insn.mnemonic === Mnemonic.Add ? immediate : -immediate);
    }
    case Mnemonic.And:
      if (regs || dest !== CFI_SP) break;
      return realign(state);
    default:
      break;
  }
  if (insn.isStackInstruction) {
    return insn.stackPointerIncrement < 0
      ? push(state, CFI_UNDEFINED, insn, regs)
      : pop(state, CFI_UNDEFINED, insn, regs);
  }
  let after = state;
  for (const register of writtenBy(iced, insn)) after = overwrite(after, register);
  return after;
}

/** A register gets a value that nobody follows. */
function overwrite(state: cfi_state, register: number): cfi_state {
  const { cfa, vals } = state;
  const based = cfa.base === CFI_SP_INDIRECT ? CFI_SP : cfa.base === CFI_BP_INDIRECT ? CFI_BP : cfa.base;
  if (register === based) return UNDEFINED_STATE;
  if (!vals.has(register)) return state;
  const others = new Map(vals);
  others.delete(register);
  return { ...state, vals: others };
}

function remember(state: cfi_state, register: number, value: cfi_reg): cfi_state {
  return { ...state, vals: new Map(state.vals).set(register, value) };
}

/** save_reg(): counts the first time only. */
function save(state: cfi_state, register: number, base: number, offset: number): cfi_state {
  if (register !== CFI_BP || state.savedBp.base !== CFI_UNDEFINED) return state;
  return { ...state, savedBp: { base, offset } };
}

/** restore_reg() */
function restore(state: cfi_state, register: number): cfi_state {
  return register === CFI_BP ? { ...state, savedBp: NOWHERE } : state;
}

function push(
  state: cfi_state,
  register: number,
  insn: Instruction,
  regs: boolean,
  size = -insn.stackPointerIncrement,
): cfi_state {
  const { cfa } = state;
  const byStack = cfa.base === CFI_SP || (regs && cfa.base === CFI_SP_INDIRECT);
  const grown: cfi_state = {
    ...state,
    stack_size: state.stack_size + size,
    cfa: byStack ? { ...cfa, offset: cfa.offset + size } : cfa,
  };
  if (register < 0 || regs) return grown;
  if (!grown.drap) return save(grown, register, CFI_CFA, 0 - grown.stack_size);
  if (register === cfa.base && register === state.drap_reg) {
    const offset = 0 - grown.stack_size;
    return { ...grown, cfa: { base: CFI_BP_INDIRECT, offset }, drap_offset: offset };
  }
  if (register === CFI_BP && cfa.base === state.drap_reg) return { ...grown, stack_size: 0 };
  return save(grown, register, CFI_BP, 0 - grown.stack_size);
}

function pop(
  state: cfi_state,
  register: number,
  insn: Instruction,
  regs: boolean,
  size = insn.stackPointerIncrement,
): cfi_state {
  let after = state;
  let { cfa } = state;
  if (regs) {
    if (cfa.base !== CFI_SP && cfa.base !== CFI_SP_INDIRECT) return state;
    return { ...state, cfa: { ...cfa, offset: cfa.offset - size } };
  }
  if (register === CFI_SP) {
    // The way back from a stack that was switched to; otherwise RSP gets what nobody knows.
    return cfa.base === CFI_SP_INDIRECT ? { ...state, cfa: { ...cfa, base: CFI_SP } } : UNDEFINED_STATE;
  }
  if (!state.drap && register >= 0 && register === cfa.base) cfa = { ...cfa, base: CFI_SP };
  if (
    state.drap &&
    cfa.base === CFI_BP_INDIRECT &&
    register === state.drap_reg &&
    state.drap_offset === -state.stack_size
  ) {
    cfa = { base: state.drap_reg, offset: 0 };
    after = { ...after, drap_offset: -1 };
  } else if (register === CFI_BP && state.stack_size === -state.savedBp.offset) {
    after = restore(after, register);
  }
  if (cfa.base === CFI_SP) cfa = { ...cfa, offset: cfa.offset - size };
  after = { ...after, cfa, stack_size: state.stack_size - size };
  return register >= 0 && register !== cfa.base ? overwrite(after, register) : after;
}

/** mov %src, %dest */
function moveRegister(state: cfi_state, dest: number, src: number): cfi_state {
  const { cfa, savedBp, vals, stack_size } = state;
  if (src === CFI_SP && dest === CFI_BP) {
    if (cfa.base === CFI_SP && savedBp.base === CFI_CFA && savedBp.offset === -cfa.offset) {
      return { ...state, cfa: { base: CFI_BP, offset: cfa.offset } };
    }
    if (state.drap) return { ...state, savedBp: { base: CFI_BP, offset: 0 - stack_size } };
  }
  if (src === CFI_SP && cfa.base === CFI_SP) {
    return remember(state, dest, { base: CFI_CFA, offset: 0 - stack_size });
  }
  if (src === CFI_BP && dest === CFI_SP && (cfa.base === CFI_BP || cfa.base === state.drap_reg)) {
    return { ...state, stack_size: 0 - savedBp.offset };
  }
  const known = vals.get(src);
  if (dest === CFI_SP && cfa.base === CFI_SP && known !== undefined) {
    if (known.base === CFI_CFA) {
      return { ...state, cfa: { ...cfa, offset: -known.offset }, stack_size: -known.offset };
    }
    if (known.offset === cfa.offset) return { ...state, cfa: { ...cfa, base: CFI_SP_INDIRECT } };
  }
  if (dest === cfa.base) return UNDEFINED_STATE;
  if (dest === CFI_SP && known?.base === CFI_SP_INDIRECT && known.offset === cfa.offset) {
    // Becomes a plain pop at the way back.
    return { ...state, stack_size: stack_size + 8 };
  }
  return overwrite(state, dest);
}

function addImmediate(state: cfi_state, dest: number, src: number, offset: number): cfi_state {
  const { cfa, savedBp, stack_size } = state;
  if (dest === CFI_SP && src === CFI_SP) {
    const byStack = cfa.base === CFI_SP;
    return {
      ...state,
      stack_size: stack_size - offset,
      cfa: byStack ? { ...cfa, offset: cfa.offset - offset } : cfa,
    };
  }
  if (dest === CFI_SP && src === CFI_BP) {
    if (cfa.base === CFI_SP) return UNDEFINED_STATE;
    return { ...state, stack_size: -(offset + savedBp.offset) };
  }
  if (
    !state.drap &&
    src === CFI_SP &&
    dest === CFI_BP &&
    cfa.base === CFI_SP &&
    savedBp.base === CFI_CFA &&
    savedBp.offset === -cfa.offset + offset
  ) {
    return { ...state, cfa: { base: CFI_BP, offset: cfa.offset - offset } };
  }
  if (src === CFI_SP && cfa.base === CFI_SP) {
    return remember({ ...state, drap_reg: dest }, dest, { base: CFI_CFA, offset: offset - stack_size });
  }
  if (state.drap && dest === CFI_SP && src === state.drap_reg) {
    const back = { base: CFI_SP, offset: -offset };
    return { ...state, cfa: back, stack_size: -offset, drap_reg: CFI_UNDEFINED, drap: false };
  }
  return overwrite(state, dest);
}

/** and $imm, %rsp */
function realign(state: cfi_state): cfi_state {
  const { cfa, drap_reg } = state;
  if (drap_reg === CFI_UNDEFINED) return cfa.base === CFI_BP ? state : UNDEFINED_STATE;
  if (cfa.base !== CFI_SP) return UNDEFINED_STATE;
  return { ...state, cfa: { base: drap_reg, offset: 0 }, stack_size: 0, drap: true };
}

/** lea place, %dest */
function loadAddress(state: cfi_state, dest: number, place: cfi_reg): cfi_state {
  if (place.base === CFI_UNDEFINED) return overwrite(state, dest);
  return place.offset === 0
    ? moveRegister(state, dest, place.base)
    : addImmediate(state, dest, place.base, place.offset);
}

/** mov %src, place */
function store(state: cfi_state, src: number, place: cfi_reg): cfi_state {
  const { cfa } = state;
  if (place.base === CFI_UNDEFINED) return state;
  if (state.drap) {
    if (place.base !== CFI_BP) return state;
    if (src === cfa.base && src === state.drap_reg) {
      return { ...state, cfa: { base: CFI_BP_INDIRECT, offset: place.offset }, drap_offset: place.offset };
    }
    return save(state, src, CFI_BP, place.offset);
  }
  if (place.base === cfa.base) return save(state, src, CFI_CFA, place.offset - cfa.offset);
  if (place.base === CFI_SP) return save(state, src, CFI_CFA, place.offset - state.stack_size);
  if (src === CFI_SP && place.offset === 0) {
    return remember(state, place.base, { base: CFI_SP_INDIRECT, offset: cfa.offset });
  }
  return state;
}

/** mov place, %dest */
function load(state: cfi_state, dest: number, place: cfi_reg): cfi_state {
  const { savedBp, stack_size } = state;
  if (place.base !== CFI_BP && place.base !== CFI_SP) return overwrite(state, dest);
  let after = state;
  if (!state.drap && dest === state.cfa.base && dest === CFI_BP) {
    after = { ...after, cfa: { base: CFI_SP, offset: stack_size } };
  }
  if (state.drap && place.base === CFI_BP && place.offset === state.drap_offset && dest === state.drap_reg) {
    return { ...after, cfa: { base: state.drap_reg, offset: 0 }, drap_offset: -1 };
  }
  if (dest === CFI_BP) {
    const { cfa } = after;
    const restores = state.drap
      ? place.base === CFI_BP && place.offset === savedBp.offset
      : (place.base === state.cfa.base && place.offset === savedBp.offset + state.cfa.offset) ||
        (place.base === cfa.base && place.offset === savedBp.offset + cfa.offset) ||
        (place.base === CFI_SP && place.offset === savedBp.offset + stack_size);
    if (restores) return restore(after, dest);
  }
  return dest === after.cfa.base ? UNDEFINED_STATE : overwrite(after, dest);
}

/** A memory operand with a base and no index, as a place; nowhere for others. */
function placeOf(iced: IcedModule, insn: Instruction): cfi_reg {
  const { Register } = iced;
  const { memoryBase } = insn;
  if (insn.memoryIndex !== Register.None || insn.segmentPrefix !== Register.None) return NOWHERE;
  if (memoryBase === Register.None || !is64(iced, memoryBase)) return NOWHERE;
  const offset = Number(BigInt.asIntN(64, insn.memoryDisplacement));
  return { base: numberOf(iced, memoryBase), offset };
}

/** Number of the 64-bit register that a register is part of; CFI_UNDEFINED for other ones. */
function numberOf(iced: IcedModule, register: number): number {
  const { Register, RegisterExt } = iced;
  const full = RegisterExt.fullRegister(register);
  return full >= Register.RAX && full <= Register.R15 ? full - Register.RAX : CFI_UNDEFINED;
}

function is64({ Register }: IcedModule, register: number): boolean {
  return register >= Register.RAX && register <= Register.R15;
}

/** Numbers of the registers that an instruction writes. */
function writtenBy(iced: IcedModule, insn: Instruction): number[] {
  const { OpAccess, InstructionInfoFactory } = iced;
  const written: number[] = [];
  const factory = new InstructionInfoFactory();
  const info = factory.info(insn);
  try {
    for (const used of info.usedRegisters()) {
      const { access, register } = used;
      used.free();
      const writes =
        access === OpAccess.Write ||
        access === OpAccess.ReadWrite ||
        access === OpAccess.CondWrite ||
        access === OpAccess.ReadCondWrite;
      const number = writes ? numberOf(iced, register) : CFI_UNDEFINED;
      if (number >= 0) written.push(number);
    }
  } finally {
    info.free();
    factory.free();
  }
  return written;
}
