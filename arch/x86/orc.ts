/**
 * Unwinder tables for kernel text: for each instruction, where the caller's frame is.
 *
 * The kernel gets them from objtool, which simulates the stack over all paths through a function
 * (tools/objtool/check.c, orc_gen.c; struct orc_entry in arch/x86/include/asm/orc_types.h, bpf-next merge
 * 8496d9020ff3). Here they are made the same way from the instructions, when a function is first looked
 * up. Left out: jump tables, unwind hints, dynamic stack realignment, and the registers other than RBP.
 */
import { createRequire } from 'node:module';
import type { Decoder, Instruction } from 'iced-x86';
import { fromSigned, toSigned } from '../../emu/address.js';
import type { TextFunction } from '../arch.js';

export const ORC_REG_UNDEFINED = 0;
export const ORC_REG_PREV_SP = 1;
export const ORC_REG_BP = 4;
export const ORC_REG_SP = 5;
export type OrcReg =
  | typeof ORC_REG_UNDEFINED
  | typeof ORC_REG_PREV_SP
  | typeof ORC_REG_BP
  | typeof ORC_REG_SP;

/** struct orc_entry: CFA = sp_reg + sp_offset, the return address is at CFA - 8. */
export interface OrcEntry {
  readonly sp_reg: OrcReg;
  readonly sp_offset: number;
  /** PREV_SP: the caller's RBP is at CFA + bp_offset. UNDEFINED: RBP still is the caller's. */
  readonly bp_reg: OrcReg;
  readonly bp_offset: number;
}

/** For code without tables: it is assumed to keep a frame pointer. BPF programs do. */
export const orc_fp_entry: OrcEntry = {
  sp_reg: ORC_REG_BP,
  sp_offset: 16,
  bp_reg: ORC_REG_PREV_SP,
  bp_offset: -16,
};

/** For a call through a null pointer: as if a function had just been entered. */
export const null_orc_entry: OrcEntry = {
  sp_reg: ORC_REG_SP,
  sp_offset: 8,
  bp_reg: ORC_REG_UNDEFINED,
  bp_offset: 0,
};

/** Where the stack pointer cannot be told. */
const UNDEFINED_ENTRY: OrcEntry = {
  sp_reg: ORC_REG_UNDEFINED,
  sp_offset: 0,
  bp_reg: ORC_REG_UNDEFINED,
  bp_offset: 0,
};

/** What the unwinder needs at an address; made once per address. */
export interface IpInfo {
  readonly ip: bigint;
  /** The same as a signed number. */
  readonly at: number;
  /** The address lies in a function with tables, and so in kernel text. */
  readonly known: boolean;
  /** Entry for the instruction at the address: the frame of an exception. */
  readonly exact: OrcEntry;
  /** Entry for a return address: the instruction before it. */
  readonly call: OrcEntry;
}

/** State of the simulation before an instruction; distances are CFA - register, NaN when not known. */
interface CfiState {
  readonly sp: number;
  /** NaN as long as RBP holds the caller's value or anything else. */
  readonly bp: number;
  /** CFA - address of the caller's saved RBP; 0 when it is not saved. */
  readonly saved: number;
}

interface OrcFunction {
  readonly start: number;
  readonly end: number;
  readonly code: Uint8Array;
  /** By offset into the code; null until the function is looked up. */
  entries: (OrcEntry | undefined)[] | null;
}

/** Addresses remembered at the most; stacks may hold any number of different ones over time. */
const REMEMBERED = 16384;

/** The tables of one machine. */
export class OrcTables {
  #functions: OrcFunction[] = [];
  readonly #infos = new Map<number, IpInfo>();
  /** Changes when what was said of an address may not be true any more. */
  generation = 0;

  /** Takes a function in, in the place of an earlier one at the same address. */
  add(fn: TextFunction): void {
    const start = toSigned(fn.start);
    const added: OrcFunction = { start, end: start + fn.code.length, code: fn.code.slice(), entries: null };
    this.#functions = this.#functions.filter((other) => other.start !== start);
    this.#functions.push(added);
    this.#functions.sort((a, b) => a.start - b.start);
    this.#infos.clear();
    this.generation += 1;
  }

  /** @param ip signed number */
  info(ip: number): IpInfo {
    const known = this.#infos.get(ip);
    if (known !== undefined) return known;
    const info: IpInfo = {
      ip: fromSigned(ip),
      at: ip,
      known: this.#functionAt(ip) !== null,
      exact: ip === 0 ? null_orc_entry : this.orc_find(ip),
      call: ip === 0 ? null_orc_entry : this.orc_find(ip - 1),
    };
    if (this.#infos.size >= REMEMBERED) this.#infos.clear();
    this.#infos.set(ip, info);
    return info;
  }

  /** Entry for an address; the frame-pointer entry where there are no tables. */
  orc_find(ip: number): OrcEntry {
    const fn = this.#functionAt(ip);
    if (fn === null) return orc_fp_entry;
    fn.entries ??= simulate(fn.code);
    return fn.entries[ip - fn.start] ?? orc_fp_entry;
  }

  #functionAt(ip: number): OrcFunction | null {
    const functions = this.#functions;
    let low = 0;
    let high = functions.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((functions[middle]?.start ?? 0) <= ip) low = middle + 1;
      else high = middle;
    }
    const fn = functions[low - 1];
    return fn !== undefined && ip < fn.end ? fn : null;
  }
}

type IcedModule = typeof import('iced-x86');

const require = createRequire(import.meta.url);

/** Compiles its WebAssembly when required: loaded with the first function that is looked up. */
function loadIced(): IcedModule {
  return require('iced-x86') as IcedModule;
}

/** Follows every path through the code from its first byte. The first state to come to an instruction counts. */
function simulate(code: Uint8Array): (OrcEntry | undefined)[] {
  const iced = loadIced();
  const entries: (OrcEntry | undefined)[] = new Array<OrcEntry | undefined>(code.length);
  if (code.length === 0) return entries;
  const decoder = new iced.Decoder(64, code, iced.DecoderOptions.None);
  const instruction = new iced.Instruction();
  const interned = new Map<string, OrcEntry>();
  const paths: { at: number; state: CfiState }[] = [{ at: 0, state: { sp: 8, bp: Number.NaN, saved: 0 } }];
  try {
    for (let path = paths.pop(); path !== undefined; path = paths.pop()) {
      let { at, state } = path;
      while (at >= 0 && at < code.length && entries[at] === undefined) {
        if (!decodeAt(decoder, instruction, at)) break;
        const { length } = instruction;
        entries.fill(intern(interned, state), at, Math.min(at + length, code.length));
        const flow = instruction.flowControl;
        const target = Number(BigInt.asIntN(64, instruction.nearBranchTarget));
        state = afterInstruction(iced, instruction, state);
        if (flow === iced.FlowControl.UnconditionalBranch) at = target;
        else if (endsPath(iced, instruction)) break;
        else {
          at += length;
          if (flow !== iced.FlowControl.ConditionalBranch) continue;
          // As objtool: the branch taken first, what follows it later.
          paths.push({ at, state });
          at = target;
        }
      }
    }
  } finally {
    instruction.free();
    decoder.free();
  }
  return entries;
}

function decodeAt(decoder: Decoder, instruction: Instruction, at: number): boolean {
  decoder.position = at;
  decoder.ip = BigInt(at);
  decoder.decodeOut(instruction);
  return !instruction.isInvalid;
}

function endsPath(iced: IcedModule, instruction: Instruction): boolean {
  switch (instruction.flowControl) {
    case iced.FlowControl.Return:
    case iced.FlowControl.IndirectBranch:
    case iced.FlowControl.Exception:
      return true;
    case iced.FlowControl.Interrupt:
      return instruction.mnemonic === iced.Mnemonic.Int3;
    default:
      return false;
  }
}

function intern(interned: Map<string, OrcEntry>, state: CfiState): OrcEntry {
  const key = `${state.sp} ${state.bp} ${state.saved}`;
  let entry = interned.get(key);
  if (entry === undefined) {
    entry = entryFor(state);
    interned.set(key, entry);
  }
  return entry;
}

/** The frame pointer counts as soon as there is one; before and after, the stack pointer does. */
function entryFor({ sp, bp, saved }: CfiState): OrcEntry {
  const bp_reg = saved === 0 ? ORC_REG_UNDEFINED : ORC_REG_PREV_SP;
  const bp_offset = saved === 0 ? 0 : -saved;
  if (saved !== 0 && !Number.isNaN(bp)) return { sp_reg: ORC_REG_BP, sp_offset: bp, bp_reg, bp_offset };
  if (!Number.isNaN(sp)) return { sp_reg: ORC_REG_SP, sp_offset: sp, bp_reg, bp_offset };
  return UNDEFINED_ENTRY;
}

/** The caller's RBP is back in RBP. */
function restored(sp: number): CfiState {
  return { sp, bp: Number.NaN, saved: 0 };
}

function afterInstruction(iced: IcedModule, insn: Instruction, state: CfiState): CfiState {
  const { Mnemonic, Register, OpKind } = iced;
  const { sp, bp, saved } = state;
  const first = insn.op0Kind === OpKind.Register ? insn.op0Register : Register.None;
  const second = insn.op1Kind === OpKind.Register ? insn.op1Register : Register.None;
  switch (insn.mnemonic) {
    case Mnemonic.Call:
      return state;
    case Mnemonic.Push: {
      const pushed = sp - insn.stackPointerIncrement;
      return { sp: pushed, bp, saved: first === Register.RBP ? saveSlot(state, pushed) : saved };
    }
    case Mnemonic.Pop: {
      const popped = sp - insn.stackPointerIncrement;
      if (first === Register.RBP) {
        return sp === saved ? restored(popped) : { sp: popped, bp: Number.NaN, saved };
      }
      return { sp: first === Register.RSP ? Number.NaN : popped, bp, saved };
    }
    case Mnemonic.Leave:
      return saved !== 0 && saved === bp ? restored(bp - 8) : { sp: bp - 8, bp: Number.NaN, saved };
    case Mnemonic.Enter: {
      if (insn.immediate8_2nd !== 0) return { sp: Number.NaN, bp: Number.NaN, saved };
      const frame = sp + 8;
      return { sp: frame + insn.immediate16, bp: frame, saved: saveSlot(state, frame) };
    }
    case Mnemonic.Mov:
      if (first === Register.RBP && second === Register.RSP) return { sp, bp: sp, saved };
      if (first === Register.RSP && second === Register.RBP) return { sp: bp, bp, saved };
      if (insn.op0Kind === OpKind.Memory && second === Register.RBP) {
        return { sp, bp, saved: saveSlot(state, slotOf(iced, insn, state)) };
      }
      if (first === Register.RBP && insn.op1Kind === OpKind.Memory) {
        return saved !== 0 && slotOf(iced, insn, state) === saved
          ? restored(sp)
          : { sp, bp: Number.NaN, saved };
      }
      break;
    case Mnemonic.Lea:
      if (first === Register.RSP) return { sp: slotOf(iced, insn, state), bp, saved };
      if (first === Register.RBP) return { sp, bp: slotOf(iced, insn, state), saved };
      break;
    case Mnemonic.Add:
    case Mnemonic.Sub: {
      if (insn.op1Kind === OpKind.Register || insn.op1Kind === OpKind.Memory) break;
      const immediate = Number(BigInt.asIntN(64, insn.immediate(1)));
      const change = insn.mnemonic === Mnemonic.Add ? -immediate : immediate;
      if (first === Register.RSP) return { sp: sp + change, bp, saved };
      if (first === Register.RBP) return { sp, bp: bp + change, saved };
      break;
    }
    default:
      break;
  }
  return afterOther(iced, insn, state);
}

/** `saved` after a store of RBP at `slot`: counts if RBP still is the caller's and not saved yet. */
function saveSlot({ bp, saved }: CfiState, slot: number): number {
  return saved === 0 && Number.isNaN(bp) && !Number.isNaN(slot) ? slot : saved;
}

/** CFA - address of a memory operand based on RSP or RBP alone; NaN for others. */
function slotOf(iced: IcedModule, insn: Instruction, { sp, bp }: CfiState): number {
  if (insn.memoryIndex !== iced.Register.None) return Number.NaN;
  const base = insn.memoryBase;
  const distance = base === iced.Register.RSP ? sp : base === iced.Register.RBP ? bp : Number.NaN;
  return distance - Number(BigInt.asIntN(64, insn.memoryDisplacement));
}

/** Anything else: pushes and pops of flags and the like, and writes that make a register unknown. */
function afterOther(iced: IcedModule, insn: Instruction, state: CfiState): CfiState {
  const { Register, RegisterExt, OpAccess } = iced;
  if (insn.isStackInstruction) return { ...state, sp: state.sp - insn.stackPointerIncrement };
  let { sp, bp } = state;
  const factory = new iced.InstructionInfoFactory();
  const info = factory.info(insn);
  try {
    for (const used of info.usedRegisters()) {
      const writes =
        used.access === OpAccess.Write ||
        used.access === OpAccess.ReadWrite ||
        used.access === OpAccess.CondWrite ||
        used.access === OpAccess.ReadCondWrite;
      const full = RegisterExt.fullRegister(used.register);
      used.free();
      if (!writes) continue;
      if (full === Register.RSP) sp = Number.NaN;
      if (full === Register.RBP) bp = Number.NaN;
    }
  } finally {
    info.free();
    factory.free();
  }
  return { sp, bp, saved: state.saved };
}
