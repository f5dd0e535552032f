/** The library's own x86-64 MMU: 40 bits of physical address, 4 and 5 levels, SMEP, SMAP, keys. */
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, type AccessCode } from '../cpu.js';
import type { Ram } from '../ram.js';
import { NativeBuffer } from './bindings.js';
import { applyPrivilege, CalibrationError } from './calibration.js';
import {
  UC_CPU_X86_ICELAKE_SERVER,
  UC_TLB_CPU,
  UC_X86_REG_CR0,
  UC_X86_REG_CR2,
  UC_X86_REG_CR3,
  UC_X86_REG_CR4,
  UC_X86_REG_MSR,
  UC_X86_REG_RFLAGS,
} from './constants.js';
import type { UnicornLibrary } from './library.js';
import { NOT_CANONICAL, type OwnAnswer, onlyPlace, placesOf, Translator } from './own-mmu.js';
import { RawEngine, type SavedContext } from './raw-engine.js';

/** MAXPHYADDR of the library's x86-64 CPUs. */
export const OWN_MAXPHYADDR = 40;

/** What translation depends on, registers as they are written. */
export interface OwnX86State {
  readonly cr0: bigint;
  readonly cr3: bigint;
  readonly cr4: bigint;
  readonly efer: bigint;
  readonly pkru: number;
  /** CPL 3. */
  readonly user: boolean;
  /** EFLAGS.AC. */
  readonly ac: boolean;
}

const MSR_EFER = 0xc0000080;
const EFLAGS = 0x2n;
const EFLAGS_AC = 0x40000n;
const CR0_ON = 0x80050033n;
const CR4_PAE = 0x20n;
const CR4_PKE = 1n << 22n;
const EFER_ON = 0xd01n;

export class OwnX86Mmu {
  private readonly engine: RawEngine;
  private readonly translator: Translator;
  /** As after a reset: paging off, CPL 0. */
  private readonly reset: Uint8Array;
  private readonly context: SavedContext;
  private readonly msr = new NativeBuffer(16);
  private readonly unicorn: UnicornLibrary;
  private readonly pkruAt: number;
  private readonly errorCodeAt: number;

  /**
   * @param ram its memory, all zeros; accessed and dirty bits are written there
   * @throws CalibrationError when the library does not show its error codes or has not the CPU
   */
  constructor(library: UnicornLibrary, ram: Ram) {
    this.unicorn = library;
    this.engine = new RawEngine(library.bindings, 'x86-64', [{ pa: ram.base, bytes: ram.bytes }], {
      model: UC_CPU_X86_ICELAKE_SERVER,
      tlb: UC_TLB_CPU,
    });
    try {
      this.translator = new Translator(library, this.engine);
      this.context = this.engine.allocateContext();
      this.engine.write(UC_X86_REG_RFLAGS, EFLAGS);
      this.engine.saveContext(this.context);
      this.reset = this.context.bytes.slice();
      this.pkruAt = this.findPkru(ram);
      this.errorCodeAt = this.findErrorCode(ram);
    } catch (error) {
      this.engine.close();
      throw error;
    }
  }

  /** Sets the CPU's state for the questions that follow. */
  set(state: OwnX86State): void {
    const { engine, context } = this;
    context.bytes.set(this.reset);
    applyPrivilege(context.bytes, this.unicorn.x86.privilege, state.user ? 'user' : 'kernel');
    context.view.setUint32(this.pkruAt, state.pkru, true);
    engine.restoreContext(context);
    engine.write(UC_X86_REG_RFLAGS, state.ac ? EFLAGS | EFLAGS_AC : EFLAGS);
    this.writeEfer(state.efer);
    engine.write(UC_X86_REG_CR4, state.cr4);
    engine.write(UC_X86_REG_CR3, state.cr3);
    engine.write(UC_X86_REG_CR0, state.cr0);
  }

  translate(va: bigint, access: AccessCode): OwnAnswer {
    const { engine, context } = this;
    // A #GP is the exception that leaves CR2 alone.
    const untouched = BigInt.asUintN(64, ~va);
    engine.write(UC_X86_REG_CR2, untouched);
    const pa = this.translator.ask(va, access);
    if (pa !== null) return { translates: true, pa };
    const address = engine.read(UC_X86_REG_CR2);
    if (address === untouched) return { translates: false, code: NOT_CANONICAL, address: null };
    engine.saveContext(context);
    return { translates: false, code: context.view.getUint32(this.errorCodeAt, true), address };
  }

  /** CR4 as the CPU took it: without bits for what it has not. */
  readCr4(): bigint {
    return this.engine.read(UC_X86_REG_CR4);
  }

  close(): void {
    this.engine.close();
  }

  private writeEfer(value: bigint): void {
    this.msr.view.setUint32(0, MSR_EFER, true);
    this.msr.view.setBigUint64(8, value, true);
    this.engine.writeStructure(UC_X86_REG_MSR, this.msr);
  }

  /** Executes WRPKRU with two values, and looks where they went. */
  private findPkru(ram: Ram): number {
    const { engine, context } = this;
    const looks: Set<number>[] = [];
    for (const value of [0x5a17c3d9, 0x24e86f31]) {
      context.bytes.set(this.reset);
      engine.restoreContext(context);
      engine.write(UC_X86_REG_CR4, CR4_PAE | CR4_PKE);
      if ((this.readCr4() & CR4_PKE) === 0n) throw new CalibrationError('the CPU has no protection keys');
      // mov eax, value; xor ecx, ecx; xor edx, edx; wrpkru; xor eax, eax; hlt
      const code = [0xb8, value, value >>> 8, value >>> 16, value >>> 24]
        .concat([0x31, 0xc9, 0x31, 0xd2, 0x0f, 0x01, 0xef, 0x31, 0xc0, 0xf4])
        .map((byte) => byte & 0xff);
      // Without paging an address is a physical one; 0 is where the run would end.
      const pc = ram.base + 0x1000;
      ram.write(pc, Uint8Array.from(code));
      engine.flushCode();
      const rc = engine.start(BigInt(pc), 0, 0);
      ram.fill(pc, code.length, 0);
      if (rc !== 0) throw new CalibrationError(`wrpkru returned ${rc}`);
      engine.saveContext(context);
      looks.push(placesOf(context.bytes, BigInt(value), 4));
    }
    return onlyPlace(looks, 'PKRU');
  }

  /** Makes page faults of known codes: nothing is present, for each access at both privileges. */
  private findErrorCode(ram: Ram): number {
    const { engine, context, translator } = this;
    const looks: Set<number>[] = [];
    for (const [user, access, code] of [
      [false, ACCESS_READ, 0],
      [false, ACCESS_WRITE, 2],
      [false, ACCESS_FETCH, 0x10],
      [true, ACCESS_READ, 4],
      [true, ACCESS_WRITE, 6],
      [true, ACCESS_FETCH, 0x14],
    ] as const) {
      this.set({
        ...{ cr0: CR0_ON, cr3: BigInt(ram.base), cr4: CR4_PAE, efer: EFER_ON, pkru: 0, user, ac: false },
      });
      const va = 0x7f5a_17c3_d948n;
      if (translator.ask(va, access) !== null) throw new CalibrationError('an empty table translates');
      if (engine.read(UC_X86_REG_CR2) !== va) throw new CalibrationError('CR2 is not the address');
      engine.saveContext(context);
      looks.push(placesOf(context.bytes, BigInt(code), 4));
    }
    return onlyPlace(looks, 'the error code');
  }
}
