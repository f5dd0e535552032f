/**
 * What the fault path must know of an x86 instruction: its length, and each memory access it makes, with
 * address, size, direction and segment.
 *
 * The engine asks for the read of a read-modify-write first; hardware checks the whole access as a write
 * and says so in the error code (W/R flag: Intel SDM volume 3, "Paging", section "Page-Fault Exceptions").
 * And a non-canonical address raises #SS instead of #GP when the access goes through SS (SDM volume 1,
 * section 3.3.7.1, "Canonical Addressing"). Both need the instruction.
 *
 * Decoding is done by iced-x86, which costs some 40 ms to load: it is loaded by the first instruction
 * that is not in the cache.
 */
import { createRequire } from 'node:module';
import type { Instruction, OpAccess, Register, UsedMemory } from 'iced-x86';

/** Where register values come from: a CPU, or a saved frame. Names are lower case, 64-bit: `rdi`, `rip`. */
export interface RegisterReader {
  read(register: string): bigint;
}

/** Direction of an access. Conditional forms count as done: hardware checks them as if they were. */
export type X86Access = 'read' | 'write' | 'readwrite';

/** No x86 instruction is longer, however many prefixes it carries. */
export const MAX_INSTRUCTION_LENGTH = 15;

/** Upper bound for operands whose size depends on enabled features (XSAVE and its family). */
const MAX_STATE_AREA = 16384;

const MASK_64 = (1n << 64n) - 1n;

/** A register as part of an address. */
interface AddressRegister {
  readonly name: string;
  readonly mask: bigint;
}

/** Bit-string instructions (`bts [rdi], rax`): the register moves the access away from the address. */
interface BitOffset {
  readonly name: string;
  readonly bits: 16 | 32 | 64;
}

interface OperandParts {
  readonly access: X86Access;
  readonly size: number;
  readonly stackSegment: boolean;
  readonly base: AddressRegister | null;
  readonly index: AddressRegister | null;
  readonly scale: bigint;
  readonly displacement: bigint;
  readonly ipRelative: boolean;
  /** Mask of the effective address: 32 bits with an address-size prefix. */
  readonly addressMask: bigint;
  /** `fs_base` or `gs_base`; the other segments have base 0 in 64-bit mode. */
  readonly segmentBase: string | null;
  readonly bitOffset: BitOffset | null;
  readonly scattered: boolean;
}

/** One memory access of an instruction, explicit or implied (push, call, string instructions, …). */
export class X86MemoryOperand {
  readonly #parts: OperandParts;
  readonly access: X86Access;
  /** Bytes; of one element for string instructions; 0 if it depends on enabled features (xsave). */
  readonly size: number;
  /** True when the access goes through SS: based on RSP or RBP, implied stack accesses, SS override. */
  readonly stackSegment: boolean;
  /** True for gathers and scatters: many addresses, `address` gives only the base. */
  readonly scattered: boolean;

  constructor(parts: OperandParts) {
    this.#parts = parts;
    this.access = parts.access;
    this.size = parts.size;
    this.stackSegment = parts.stackSegment;
    this.scattered = parts.scattered;
  }

  /**
   * Linear address of the first byte, unsigned.
   * @param registers state before the instruction; `rip` is the address of the instruction itself
   */
  address(registers: RegisterReader): bigint {
    const p = this.#parts;
    let offset = p.displacement;
    if (p.ipRelative) offset += registers.read('rip');
    if (p.base !== null) offset += registers.read(p.base.name) & p.base.mask;
    if (p.index !== null) offset += (registers.read(p.index.name) & p.index.mask) * p.scale;
    if (p.bitOffset !== null) offset += bitOffsetInBytes(registers.read(p.bitOffset.name), p.bitOffset.bits);
    offset &= p.addressMask;
    return p.segmentBase === null ? offset : (offset + registers.read(p.segmentBase)) & MASK_64;
  }

  /** Does the access touch the byte at linear address `va`? Scattered accesses may touch any byte. */
  covers(va: bigint, registers: RegisterReader): boolean {
    if (this.scattered) return true;
    const size = this.size === 0 ? MAX_STATE_AREA : this.size;
    return ((va - this.address(registers)) & MASK_64) < BigInt(size);
  }
}

/** Bytes by which a bit offset moves the access: whole operands, sign kept (SDM, "BT — Bit Test"). */
function bitOffsetInBytes(register: bigint, bits: 16 | 32 | 64): bigint {
  const width = BigInt(bits);
  const offset = BigInt.asIntN(bits, register);
  // >> rounds towards minus infinity, as the manual's DIV does here.
  return (offset >> (bits === 64 ? 6n : bits === 32 ? 5n : 4n)) * (width / 8n);
}

/** A decoded instruction, valid wherever these bytes stand: addresses are worked out on demand. */
export class X86Instruction {
  /** The one access's direction where there is only one: then no address needs to be worked out. */
  readonly #only: X86Access | null;
  /** True if some access writes. */
  readonly writesMemory: boolean;

  constructor(
    /** Bytes, 1 to 15. */
    readonly length: number,
    /** Lower case, without operands or prefixes, e.g. `cmpxchg16b`. */
    readonly mnemonic: string,
    /** Every memory access, in no particular order. Prefetches and `lea` have none. */
    readonly memory: readonly X86MemoryOperand[],
  ) {
    const [first] = memory;
    this.#only = first !== undefined && memory.length === 1 ? first.access : null;
    this.writesMemory = memory.some((operand) => operand.access !== 'read');
  }

  /** The first access that touches the byte at `va`, or null. See `X86MemoryOperand.address`. */
  operandAt(va: bigint, registers: RegisterReader): X86MemoryOperand | null {
    for (const operand of this.memory) if (operand.covers(va, registers)) return operand;
    return null;
  }

  /**
   * Is the data access that faults at `va` one that hardware reports as a write, although the engine
   * asked for a read? True for a read-modify-write of that byte. Where one instruction reads and writes
   * the byte by two separate accesses (`push [rsp-8]`, overlapping `movsb`), the read comes first and
   * faults as a read.
   */
  isWriteAt(va: bigint, registers: RegisterReader): boolean {
    if (!this.writesMemory) return false;
    if (this.#only !== null) return true;
    let writes = false;
    for (const operand of this.memory) {
      if (!operand.covers(va, registers)) continue;
      if (operand.access === 'read') return false;
      writes = true;
    }
    return writes;
  }

  /**
   * Does the access at `va` go through SS? Then a non-canonical `va` raises #SS(0), otherwise #GP(0).
   * The page-crossing access that starts below the hole is found by its first byte beyond.
   */
  usesStackSegmentAt(va: bigint, registers: RegisterReader): boolean {
    return this.operandAt(va, registers)?.stackSegment ?? false;
  }
}

/** A place of the cache: all the bytes that were given, since only the decoder knows which ones count. */
interface Slot {
  readonly bytes: Uint8Array;
  readonly count: number;
  readonly instruction: X86Instruction | null;
}

/** Places of the direct-mapped cache, a power of two: a new instruction takes the place of an old one. */
const SLOTS = 4096;

/** Decodes instructions of 64-bit mode and remembers them by their bytes. */
export class X86Decoder {
  readonly #slots: (Slot | undefined)[] = new Array<Slot | undefined>(SLOTS);
  /** The last answer: a loop asks for one instruction again and again. */
  #last: Slot = { bytes: new Uint8Array(0), count: 0, instruction: null };

  /**
   * @param bytes what stands at the instruction pointer: 15 bytes, or fewer where the code ends
   * @returns null if the bytes are no instruction, an incomplete one, or one of more than 15 bytes
   */
  decode(bytes: Uint8Array): X86Instruction | null {
    const count = Math.min(bytes.length, MAX_INSTRUCTION_LENGTH);
    if (!holds(this.#last, bytes, count)) this.#last = this.#find(bytes, count);
    return this.#last.instruction;
  }

  #find(bytes: Uint8Array, count: number): Slot {
    let hash = count;
    for (let i = 0; i < count; i++) hash = Math.imul(hash ^ (bytes[i] ?? 0), 0x01000193);
    const index = (hash ^ (hash >>> 15)) & (SLOTS - 1);
    const known = this.#slots[index];
    if (known !== undefined && holds(known, bytes, count)) return known;
    const copy = bytes.slice(0, count);
    const slot: Slot = { bytes: copy, count, instruction: decodeWithIced(copy) };
    this.#slots[index] = slot;
    return slot;
  }
}

function holds(slot: Slot, bytes: Uint8Array, count: number): boolean {
  if (slot.count !== count) return false;
  const own = slot.bytes;
  for (let i = 0; i < count; i++) if (own[i] !== bytes[i]) return false;
  return true;
}

const require = createRequire(import.meta.url);

type IcedModule = typeof import('iced-x86');

/** A CommonJS module that compiles its WebAssembly when required: synchronous, and cached by Node. */
function loadIced(): IcedModule {
  return require('iced-x86') as IcedModule;
}

function decodeWithIced(bytes: Uint8Array): X86Instruction | null {
  const iced = loadIced();
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  // Decoded at address 0, so that the displacement of a RIP-relative operand is relative to the start.
  decoder.ip = 0n;
  const instruction = decoder.decode();
  try {
    if (instruction.isInvalid) return null;
    // 64-bit mode ignores all overrides but FS and GS: [rbp] with DS is still in the stack segment, and
    // [rdi] with SS is not (SDM volume 1, "Canonical Addressing").
    const { FS, GS, None } = iced.Register;
    if (![FS, GS].includes(instruction.segmentPrefix)) instruction.segmentPrefix = None;
    return new X86Instruction(
      instruction.length,
      (iced.Mnemonic[instruction.mnemonic] ?? '').toLowerCase(),
      memoryOperands(iced, instruction),
    );
  } finally {
    instruction.free();
    decoder.free();
  }
}

function memoryOperands(iced: IcedModule, instruction: Instruction): X86MemoryOperand[] {
  const factory = new iced.InstructionInfoFactory();
  const info = factory.info(instruction);
  const operands: X86MemoryOperand[] = [];
  try {
    for (const used of info.usedMemory() as UsedMemory[]) {
      const access = foldAccess(iced, used.access);
      if (access !== null) operands.push(memoryOperand(iced, instruction, used, access));
      used.free();
    }
  } finally {
    info.free();
    factory.free();
  }
  return operands;
}

/** Conditional accesses are checked as if they were made; `cmpxchg` always writes back. */
function foldAccess(iced: IcedModule, access: OpAccess): X86Access | null {
  const { OpAccess } = iced;
  switch (access) {
    case OpAccess.Read:
    case OpAccess.CondRead:
      return 'read';
    case OpAccess.Write:
    case OpAccess.CondWrite:
      return 'write';
    case OpAccess.ReadWrite:
    case OpAccess.ReadCondWrite:
      return 'readwrite';
    default:
      return null;
  }
}

function memoryOperand(
  iced: IcedModule,
  instruction: Instruction,
  used: UsedMemory,
  access: X86Access,
): X86MemoryOperand {
  const { Register, RegisterExt, MemorySizeExt } = iced;
  const { base, index, segment } = used;
  const scattered = RegisterExt.isVectorRegister(index);
  // A repeated string instruction has no size of its own here, but its elements have.
  const size = MemorySizeExt.size(used.memorySize) || MemorySizeExt.size(instruction.memorySize);
  const ipRelative = instruction.isIpRelMemoryOperand && base === Register.None;
  const narrow =
    RegisterExt.isGPR32(base) ||
    RegisterExt.isGPR32(index) ||
    (ipRelative && instruction.memoryBase === Register.EIP);
  const segmentBase = segment === Register.FS ? 'fs_base' : segment === Register.GS ? 'gs_base' : null;
  return new X86MemoryOperand({
    access,
    size,
    stackSegment: segment === Register.SS,
    base: addressRegister(iced, base),
    index: scattered ? null : addressRegister(iced, index),
    scale: BigInt(used.scale),
    displacement: used.displacement,
    ipRelative,
    addressMask: narrow ? 0xffff_ffffn : MASK_64,
    segmentBase,
    bitOffset: bitOffset(iced, instruction),
    scattered,
  });
}

function addressRegister(iced: IcedModule, register: Register): AddressRegister | null {
  const { Register, RegisterExt } = iced;
  if (register === Register.None) return null;
  return {
    name: registerName(iced, register),
    mask: (1n << BigInt(8 * RegisterExt.size(register))) - 1n,
  };
}

function registerName(iced: IcedModule, register: Register): string {
  return (iced.Register[iced.RegisterExt.fullRegister(register)] ?? '').toLowerCase();
}

/** bt, bts, btr, btc with the bit offset in a register; an immediate one stays inside the operand. */
function bitOffset(iced: IcedModule, instruction: Instruction): BitOffset | null {
  const { Code } = iced;
  switch (instruction.code) {
    case Code.Bt_rm16_r16:
    case Code.Bts_rm16_r16:
    case Code.Btr_rm16_r16:
    case Code.Btc_rm16_r16:
      return { name: registerName(iced, instruction.op1Register), bits: 16 };
    case Code.Bt_rm32_r32:
    case Code.Bts_rm32_r32:
    case Code.Btr_rm32_r32:
    case Code.Btc_rm32_r32:
      return { name: registerName(iced, instruction.op1Register), bits: 32 };
    case Code.Bt_rm64_r64:
    case Code.Bts_rm64_r64:
    case Code.Btr_rm64_r64:
    case Code.Btc_rm64_r64:
      return { name: registerName(iced, instruction.op1Register), bits: 64 };
    default:
      return null;
  }
}
