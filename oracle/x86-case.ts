/** Questions for x86-64 MMUs, and kfault's and the engine's answers. */

import { NOT_CANONICAL, X86Mmu } from '../arch/x86/mmu.js';
import { accessType, permFor } from '../emu/cpu.js';
import { NO_EVENTS } from '../emu/events.js';
import { Trace } from '../emu/path.js';
import { Ram } from '../emu/ram.js';
import type { UnicornLibrary } from '../emu/unicorn/library.js';
import { OWN_MAXPHYADDR, OwnX86Mmu } from '../emu/unicorn/own-mmu-x86.js';
import { ACCESSES, type Case, coveredBy, fillFor, type Ours, Tables, type Theirs } from './case.js';
import { ControlCpu } from './control-cpu.js';

export interface X86Case extends Case {
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

export const X86_MAXPHYADDR = OWN_MAXPHYADDR;
export const X86_RAM_SIZE = 1 << 20;
const FIRST_TABLE = 0x10000;
const TABLES = 14;
/** Where tables are: the root first. One is the first page of the ram, and one the last. */
export const X86_TABLES: readonly number[] = Array.from({ length: TABLES }, (_, n) => {
  if (n === 3) return 0;
  return n === 5 ? X86_RAM_SIZE - 4096 : FIRST_TABLE + n * 4096;
});

export const CR0_WP = 1n << 16n;
export const CR4_LA57 = 1n << 12n;
export const CR4_SMEP = 1n << 20n;
export const CR4_SMAP = 1n << 21n;
export const CR4_PKE = 1n << 22n;
export const EFER_NXE = 1n << 11n;

const EFLAGS_AC = 0x40000n;

/** kfault's MMU. The same one answers all cases, so that what it remembers of earlier walks is checked, too. */
export class X86Ours {
  private readonly ram = new Ram(0, X86_RAM_SIZE);
  private readonly tables = new Tables(this.ram, X86_TABLES);
  private readonly cpu = new ControlCpu();
  private readonly mmu = new X86Mmu(this.ram, X86_MAXPHYADDR);

  constructor() {
    this.mmu.attach(this.cpu, new Trace(0, NO_EVENTS));
  }

  answer(question: X86Case): Ours {
    const { cpu, mmu, tables } = this;
    const { access, va, user, ac } = question;
    tables.load(question.entries);
    cpu.write('cr0', question.cr0);
    cpu.write('cr3', question.cr3);
    cpu.write('cr4', question.cr4);
    cpu.write('efer', question.efer);
    cpu.write('pkru', BigInt(question.pkru));
    cpu.write('cs', user ? 0x33n : 0x10n);
    cpu.write('rflags', ac ? 2n | EFLAGS_AC : 2n);
    mmu.user = user;
    mmu.refresh();

    const { ok, pa, perms, code, levels } = mmu.explain(va, accessType(access), user, ac);
    let flaw = tables.changes().size > 0 ? 'explain() wrote into the tables' : null;
    const granted = fillFor(this.mmu, question);
    const writes = tables.changes();
    if (((granted & permFor(access)) !== 0) !== ok) flaw = `explain() says ${ok}, fill() grants ${granted}`;
    else if (ok && mmu.pa !== pa - (pa % 4096)) {
      flaw = `explain() says physical ${pa.toString(16)}, fill() ${mmu.pa.toString(16)}`;
    } else if ((granted & ~perms) !== 0) flaw = `fill() grants ${granted}, explain() ${perms}`;
    if (user) {
      // The first access after an iretq: nobody has told the MMU.
      tables.restore();
      mmu.user = false;
      const again = fillFor(this.mmu, question);
      if (again !== granted) flaw = `fill() grants ${granted}, and ${again} to the first access of user mode`;
    }
    return {
      pa: ok ? pa : null,
      code,
      address: ok || code === NOT_CANONICAL ? null : va,
      rights: perms,
      writes,
      levels,
      granted,
      flaw,
    };
  }
}

/** The engine's MMU. */
export class X86Theirs {
  private readonly ram = new Ram(0, X86_RAM_SIZE);
  private readonly mmu: OwnX86Mmu;
  private readonly tables: Tables;

  constructor(library: UnicornLibrary) {
    this.mmu = new OwnX86Mmu(library, this.ram);
    this.tables = new Tables(this.ram, X86_TABLES);
  }

  answer(question: X86Case): Theirs {
    const { mmu, tables } = this;
    const { access, va } = question;
    tables.load(question.entries);
    mmu.set(question);
    const answer = mmu.translate(va, access);
    const writes = tables.changes();
    if (!answer.translates) {
      return { pa: null, code: answer.code, address: answer.address, rights: 0, writes, silent: 0 };
    }
    let rights = permFor(access);
    let silent = rights;
    for (const other of ACCESSES) {
      if (other === access) continue;
      tables.restore();
      if (!mmu.translate(va, other).translates) continue;
      rights |= permFor(other);
      if (coveredBy(tables.changes(), writes)) silent |= permFor(other);
    }
    return { pa: answer.pa, code: 0, address: null, rights, writes, silent };
  }

  close(): void {
    this.mmu.close();
  }
}

/** Levels that a walk has. */
export function levelsOf({ cr4 }: X86Case): 4 | 5 {
  return (cr4 & CR4_LA57) !== 0n ? 5 : 4;
}

/** A canonical address from the bits that are translated. */
export function canonical(low: bigint, levels: 4 | 5): bigint {
  const bits = levels === 5 ? 57 : 48;
  return BigInt.asUintN(64, BigInt.asIntN(bits, low));
}
