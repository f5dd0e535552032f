/**
 * Offsets inside the library's own structures, found by looking instead of being written down: they
 * differ between builds. Each is found by making the engine store known values; a build in which that
 * does not lead to exactly one place is refused.
 */
import { type Bindings, NativeBuffer, type NativeSlots } from './bindings.js';
import {
  UC_ARM64_REG_PC,
  UC_ARM64_REG_SP,
  UC_ARM64_REG_X0,
  UC_ARM64_REG_X29,
  UC_ARM64_REG_X30,
  UC_ERR_EXCEPTION,
  UC_PROT_ALL,
  UC_X86_REG_GDTR,
  UC_X86_REG_R8,
  UC_X86_REG_RAX,
  UC_X86_REG_RBP,
  UC_X86_REG_RBX,
  UC_X86_REG_RCX,
  UC_X86_REG_RDI,
  UC_X86_REG_RDX,
  UC_X86_REG_RFLAGS,
  UC_X86_REG_RIP,
  UC_X86_REG_RSI,
  UC_X86_REG_RSP,
} from './constants.js';
import { findLive, findRegisters, type LiveLayout, type RegisterOffsets } from './live-state.js';
import { type Isa, RawEngine, type SavedContext } from './raw-engine.js';

/** What was looked for cannot be found in this library. */
export class CalibrationError extends Error {
  override name = 'CalibrationError';
}

/** Offsets from the start of the engine's structure. */
export interface EngineLayout {
  /** u64: the exact address of the last refused translation. */
  readonly invalidAddr: number;
  /** u64: instructions begun in the last start, the one over the limit included. */
  readonly emuCounter: number;
  /** General registers and pc in a saved context. */
  readonly registers: RegisterOffsets;
  /** Where a saved context is copied from; null when that was not found. */
  readonly live: LiveLayout | null;
}

/** One byte of a saved context that says at which privilege the CPU runs. */
export interface PrivilegeByte {
  readonly offset: number;
  readonly mask: number;
  readonly kernel: number;
  readonly user: number;
}

export interface X86Layout extends EngineLayout {
  /** Offset in a saved context of the i32 that makes a second exception a double fault. */
  readonly oldException: number;
  /** Offset in a saved context of the u64 operand from which lazily kept flags are computed. */
  readonly ccSource: number;
  /** Offset in a saved context of the u32 that says what left the flags; see `CC_OP_EFLAGS`. */
  readonly ccOp: number;
  readonly privilege: readonly PrivilegeByte[];
}

/** Selectors of the flat descriptors that the kernel uses (arch/x86/include/asm/segment.h). */
const KERNEL_CS = 0x10n;
const KERNEL_DS = 0x18n;
export const USER_CS = 0x33n;
export const USER_DS = 0x2bn;

/** The descriptors behind those selectors, index = selector / 8. */
const GDT = [
  0n,
  0n,
  0x00af9b000000ffffn,
  0x00cf93000000ffffn,
  0x00cffb000000ffffn,
  0x00cff3000000ffffn,
  0x00affb000000ffffn,
];

/** The operation of flags that are kept as flags, as after a write to them (qemu/target/i386/cpu.h). */
export const CC_OP_EFLAGS = 1;

/** Registers that are read one by one and often. */
const GENERAL: Record<Isa, readonly number[]> = {
  'x86-64': [
    ...[UC_X86_REG_RAX, UC_X86_REG_RBX, UC_X86_REG_RCX, UC_X86_REG_RDX, UC_X86_REG_RSI, UC_X86_REG_RDI],
    ...[UC_X86_REG_RBP, UC_X86_REG_RSP, UC_X86_REG_RIP],
    ...Array.from({ length: 8 }, (_, n) => UC_X86_REG_R8 + n),
  ],
  arm64: [
    ...Array.from({ length: 29 }, (_, n) => UC_ARM64_REG_X0 + n),
    ...[UC_ARM64_REG_X29, UC_ARM64_REG_X30, UC_ARM64_REG_SP, UC_ARM64_REG_PC],
  ],
};

/** The probe's only page: code from 0, the descriptor table and the stack behind it. */
const PROBE_VA = 0x10000;
const PROBE_PA = 0x1000;
const GDT_OFFSET = 0x800;
const FRAME_OFFSET = 0x900;
const STACK_OFFSET = 0xf00;

/** Two probes whose address and instruction count have nothing in common. */
const PROBES = [
  { address: 0xffffc9a51b2c3d48n, instructions: 101 },
  { address: 0x00005ac3e1f20918n, instructions: 57 },
] as const;

/** An engine whose every translation leads to one page, except those at the probes' addresses. */
class Probe {
  private readonly page = new NativeBuffer(4096);
  readonly engine: RawEngine;
  exception = -1;

  constructor(bindings: Bindings, slots: NativeSlots, isa: Isa) {
    this.engine = new RawEngine(bindings, isa, [{ pa: PROBE_PA, bytes: this.page.bytes }]);
    this.engine.hook({
      kind: 'fill',
      fn: (_uc, va, _type, result) => {
        if (va !== PROBE_VA) return false;
        const entry = slots.at(result);
        entry[0] = PROBE_PA;
        entry[1] = 0;
        entry[2] = UC_PROT_ALL;
        return true;
      },
    });
    this.engine.hook({
      kind: 'interrupt',
      fn: (_uc, number) => {
        this.exception = number;
        bindings.uc_emu_stop(this.engine.handle);
      },
    });
  }

  /** Runs `code` for at most `count` instructions; returns the library's result. */
  run(code: readonly number[], count: number): number {
    this.page.bytes.fill(0, 0, 0x200);
    this.page.bytes.set(code);
    this.engine.flushCode();
    this.exception = -1;
    return this.engine.bindings.uc_emu_start(this.engine.handle, BigInt(PROBE_VA), 0n, 0, count);
  }

  word(offset: number, value: bigint): void {
    this.page.view.setBigUint64(offset, value, true);
  }
}

/** The one element of all sets, or an error that says what could not be found. */
function only(sets: readonly ReadonlySet<number>[], what: string): number {
  const [first, ...rest] = sets;
  const common = [...(first ?? [])].filter((offset) => rest.every((set) => set.has(offset)));
  const [found] = common;
  if (found === undefined || common.length !== 1) {
    throw new CalibrationError(`${common.length} places for ${what}, expected exactly one`);
  }
  return found;
}

function offsetsOfU64(memory: Uint8Array, value: bigint): Set<number> {
  const view = new DataView(memory.buffer, memory.byteOffset, memory.length);
  const found = new Set<number>();
  for (let offset = 0; offset + 8 <= memory.length; offset += 8) {
    if (view.getBigUint64(offset, true) === value) found.add(offset);
  }
  return found;
}

function engineLayout(probe: Probe, isa: Isa): EngineLayout {
  const nop = isa === 'x86-64' ? [0x90] : [0x1f, 0x20, 0x03, 0xd5];
  // mov rax, [rdi]; ldr x0, [x1]
  const load = isa === 'x86-64' ? [0x48, 0x8b, 0x07] : [0x20, 0x00, 0x40, 0xf9];
  const pointer = isa === 'x86-64' ? UC_X86_REG_RDI : UC_ARM64_REG_X0 + 1;
  const addresses: Set<number>[] = [];
  const counters: Set<number>[] = [];
  for (const { address, instructions } of PROBES) {
    const nops = Array.from({ length: instructions - 1 }, () => nop).flat();
    probe.engine.write(pointer, address);
    const rc = probe.run([...nops, ...load], 1000);
    if (rc !== UC_ERR_EXCEPTION) throw new CalibrationError(`a refused load returned ${rc}`);
    const window = probe.engine.peekAll();
    addresses.push(offsetsOfU64(window, address));
    counters.push(offsetsOfU64(window, BigInt(instructions)));
  }
  const registers = findRegisters(probe.engine, GENERAL[isa]);
  return {
    invalidAddr: only(addresses, 'the fault address'),
    emuCounter: only(counters, 'the instruction counter'),
    registers,
    live: findLive(probe.engine, registers),
  };
}

/** Enters the privilege of `cs` with an iretq and saves the context, all else being equal. */
function contextAfterIretq(probe: Probe, context: SavedContext, cs: bigint, ss: bigint): Uint8Array {
  const { engine } = probe;
  const stack = BigInt(PROBE_VA + STACK_OFFSET);
  [BigInt(PROBE_VA + 0x100), cs, 0x2n, stack, ss].forEach((value, index) => {
    probe.word(FRAME_OFFSET + index * 8, value);
  });
  engine.write(UC_X86_REG_RSP, BigInt(PROBE_VA + FRAME_OFFSET));
  const rc = probe.run([0x48, 0xcf], 1);
  if (rc !== 0 || probe.exception !== -1) throw new CalibrationError(`iretq to ${cs.toString(16)} failed`);
  return contextAt(probe, context);
}

/** Saves the context with the same rip, rsp and rflags each time. */
function contextAt({ engine }: Probe, context: SavedContext): Uint8Array {
  engine.write(UC_X86_REG_RIP, BigInt(PROBE_VA));
  engine.write(UC_X86_REG_RSP, BigInt(PROBE_VA + STACK_OFFSET));
  engine.write(UC_X86_REG_RFLAGS, 0x2n);
  engine.saveContext(context);
  return context.bytes.slice();
}

function privilegeBytes(reset: Uint8Array, kernel: Uint8Array, user: Uint8Array): PrivilegeByte[] {
  const bytes: PrivilegeByte[] = [];
  for (const [offset, k] of kernel.entries()) {
    const u = user[offset] ?? k;
    const r = reset[offset] ?? k;
    const mask = (k ^ u) | (k ^ r);
    if (mask !== 0) bytes.push({ offset, mask, kernel: k & mask, user: u & mask });
  }
  return bytes;
}

/** Offsets of i32 that were -1 before and `value` after. */
function offsetsSetTo(before: Uint8Array, after: Uint8Array, value: number): Set<number> {
  const was = new DataView(before.buffer, before.byteOffset, before.length);
  const is = new DataView(after.buffer, after.byteOffset, after.length);
  const found = new Set<number>();
  for (let offset = 0; offset + 4 <= before.length; offset += 4) {
    if (was.getInt32(offset, true) === -1 && is.getInt32(offset, true) === value) found.add(offset);
  }
  return found;
}

function x86Layout(probe: Probe): X86Layout {
  const { engine } = probe;
  const layout = engineLayout(probe, 'x86-64');
  GDT.forEach((descriptor, index) => {
    probe.word(GDT_OFFSET + index * 8, descriptor);
  });
  const gdtr = new NativeBuffer(24);
  gdtr.view.setBigUint64(8, BigInt(PROBE_VA + GDT_OFFSET), true);
  gdtr.view.setUint32(16, GDT.length * 8 - 1, true);
  engine.writeStructure(UC_X86_REG_GDTR, gdtr);

  const context = engine.allocateContext();
  const reset = contextAt(probe, context);
  const kernel = contextAfterIretq(probe, context, KERNEL_CS, KERNEL_DS);
  const user = contextAfterIretq(probe, context, USER_CS, USER_DS);
  const privilege = privilegeBytes(reset, kernel, user);

  /** What `code` raises at a privilege reached by these bytes alone. */
  const raises = (level: 'kernel' | 'user', code: readonly number[]): number => {
    context.bytes.set(reset);
    applyPrivilege(context.bytes, privilege, level);
    engine.restoreContext(context);
    probe.run(code, 1);
    engine.saveContext(context);
    return probe.exception;
  };
  const readCr0 = [0x0f, 0x20, 0xc0];
  const divideByZero = [0x31, 0xc9, 0xf7, 0xf1];
  if (raises('kernel', readCr0) !== -1) throw new CalibrationError('CPL 0 cannot be entered');
  if (raises('user', readCr0) !== 13) throw new CalibrationError('CPL 3 cannot be entered');
  const afterGp = offsetsSetTo(reset, context.bytes, 13);
  context.bytes.set(reset);
  engine.restoreContext(context);
  probe.run(divideByZero, 2);
  if (probe.exception !== 0) throw new CalibrationError(`a division by zero raised ${probe.exception}`);
  engine.saveContext(context);
  const afterDe = offsetsSetTo(reset, context.bytes, 0);
  return {
    ...layout,
    privilege,
    oldException: only([afterGp, afterDe], 'the exception being delivered'),
    ccSource: ccSource(probe, context),
    ccOp: ccOp(probe, context),
  };
}

/** The word that is CC_OP_EFLAGS when flags were written, and another number after each kind of operation. */
function ccOp(probe: Probe, context: SavedContext): number {
  const { engine } = probe;
  const words = new Uint32Array(context.bytes.buffer);
  const seen: Uint32Array[] = [];
  // add, sub, and rbx, rax; hlt, as in ccSource
  for (const opcode of [0x01, 0x29, 0x21]) {
    engine.write(UC_X86_REG_RFLAGS, 0x2n);
    engine.saveContext(context);
    const written = words.slice();
    probe.run([0x48, opcode, 0xc3, 0xf4], 0);
    engine.saveContext(context);
    seen.push(written, words.slice());
  }
  const found = new Set<number>();
  words.forEach((_, index) => {
    const [a, add, b, sub, c, and] = seen.map((state) => state[index] ?? 0);
    const written = a === CC_OP_EFLAGS && b === CC_OP_EFLAGS && c === CC_OP_EFLAGS;
    if (written && new Set([0, CC_OP_EFLAGS, add, sub, and]).size === 5) found.add(index * 4);
  });
  return only([found], 'the operation of the flags');
}

/** Adds one value out of two registers in turn: the operand is in the only other place that keeps it. */
function ccSource(probe: Probe, context: SavedContext): number {
  const { engine } = probe;
  const value = 0x5a17c3d94b2e6f08n;
  const found: Set<number>[] = [];
  // add rbx, rax; hlt, then add rbx, rcx; hlt
  for (const [register, other, modrm] of [
    [UC_X86_REG_RAX, UC_X86_REG_RCX, 0xc3],
    [UC_X86_REG_RCX, UC_X86_REG_RAX, 0xcb],
  ] as const) {
    engine.write(UC_X86_REG_RBX, 1n);
    engine.write(other, 0n);
    engine.write(register, value);
    // Without a count: counting would compute the flags.
    probe.run([0x48, 0x01, modrm, 0xf4], 0);
    engine.saveContext(context);
    found.push(offsetsOfU64(context.bytes, value));
  }
  return only(found, 'the operand of the flags');
}

/** Puts the bytes of one privilege into a saved context. */
export function applyPrivilege(
  context: Uint8Array,
  privilege: readonly PrivilegeByte[],
  level: 'kernel' | 'user',
): void {
  for (const byte of privilege) {
    context[byte.offset] = ((context[byte.offset] ?? 0) & ~byte.mask) | byte[level];
  }
}

function probing<T>(bindings: Bindings, slots: NativeSlots, isa: Isa, look: (probe: Probe) => T): T {
  const probe = new Probe(bindings, slots, isa);
  try {
    return look(probe);
  } finally {
    probe.engine.close();
  }
}

/** @param slots for the results of TLB fills */
export function calibrateX86(bindings: Bindings, slots: NativeSlots): X86Layout {
  return probing(bindings, slots, 'x86-64', x86Layout);
}

/** @param slots for the results of TLB fills */
export function calibrateArm64(bindings: Bindings, slots: NativeSlots): EngineLayout {
  return probing(bindings, slots, 'arm64', (probe) => engineLayout(probe, 'arm64'));
}
