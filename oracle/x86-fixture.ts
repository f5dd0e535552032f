/** x86-64 questions in the terms of a machine. */
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, type AccessCode } from '../emu/cpu.js';
import type { Scene, Stage } from './fixture.js';
import {
  CR4_LA57,
  CR4_PKE,
  EFER_NXE,
  X86_MAXPHYADDR,
  X86_RAM_SIZE,
  X86_TABLES,
  type X86Case,
  X86Ours,
} from './x86-case.js';

export const X86_STAGE: Stage = {
  arch: 'x86-64',
  directMap: 0xffff_8880_0000_0000n,
  ret: 'c3',
  functions: [false, true].flatMap((user) => [
    { symbol: name(user, ACCESS_READ), user, asm: ['0f b6 07  movzx eax, byte ptr [rdi]', 'c3        ret'] },
    { symbol: name(user, ACCESS_WRITE), user, asm: ['40 88 37  mov byte ptr [rdi], sil', 'c3        ret'] },
    { symbol: name(user, ACCESS_FETCH), user, asm: ['ff e7  jmp rdi'] },
  ]),
};

/** The ram of the question, in the machine's: behind what a booted kernel uses. */
const MOVED = 0x200_0000;
/** What is in the machine's ram but was in none goes where none is. */
const MACHINE_RAM = 64 << 20;
const AWAY = 0x4000_0000;
/**
 * Where the address is looked up in the task's tables. The halves are the same to the CPU, and the high one
 * of a task has copies of what the kernel's tables held when it was made.
 */
const SLOT = 0x0000_2a80_0000_0000n;
const IN_SLOT = (1n << 39n) - 1n;

const ADDRESS = 0x000f_ffff_ffff_f000n;
const PRESENT = 1n;
const PS = 0x80n;
const NX = 1n << 63n;
/** Reserved whatever MAXPHYADDR is: machines have 46 bits. */
const RESERVED = 1n << 51n;
const BEYOND = ((1n << 46n) - 1n) & ~((1n << BigInt(X86_MAXPHYADDR)) - 1n);

/** CR0, CR4 and EFER as the kernel has them, without what questions choose. */
const CR4_KERNEL = 0x506f0n;
const EFLAGS = 0x202n;
const AC = 0x40000n;

function name(user: boolean, access: AccessCode): string {
  const what = access === ACCESS_READ ? 'read' : access === ACCESS_WRITE ? 'write' : 'jump';
  return `${user ? 'user' : 'kernel'}_${what}`;
}

/** The question as a machine can have it, with what that changes; null when nothing would be left of it. */
export function expressible(question: X86Case): { question: X86Case; notes: string[] } | null {
  const notes: string[] = [];
  let { cr3, cr4, efer, entries, va } = question;
  if ((cr4 & CR4_LA57) !== 0n) {
    const top = entries.get(Number(cr3 & ADDRESS) + Number((va >> 48n) & 511n) * 8) ?? 0n;
    const followed = (top & (PRESENT | PS)) === PRESENT;
    if (!followed || !X86_TABLES.includes(Number(top & ADDRESS))) return null;
    notes.push(`Five levels were asked about; a machine has four. The PML5E was 0x${top.toString(16)}.`);
    cr3 = top & ADDRESS;
    va = BigInt.asUintN(64, BigInt.asIntN(48, va));
    cr4 &= ~CR4_LA57;
  }
  if ((cr4 & CR4_PKE) !== 0n) {
    notes.push(
      `CR4.PKE was set with PKRU = 0x${question.pkru.toString(16)}; a machine has no protection keys.`,
    );
    cr4 &= ~CR4_PKE;
  }
  let reserved = BEYOND;
  if ((efer & EFER_NXE) === 0n) {
    notes.push("EFER.NXE was clear. A machine's kernel needs it; bit 51 stands for the reserved bit 63.");
    efer |= EFER_NXE;
    reserved |= NX;
  }
  if ([...entries.values()].some((entry) => (entry & BEYOND) !== 0n)) {
    notes.push('MAXPHYADDR was 40, of a machine it is 46; bit 51 stands for the reserved bits 40 to 45.');
  }
  const mended = [...entries].map(([pa, entry]): [number, bigint] => [
    pa,
    (entry & reserved) === 0n ? entry : (entry & ~reserved) | RESERVED,
  ]);
  return { question: { ...question, cr3, cr4, efer, pkru: 0, entries: new Map(mended), va }, notes };
}

/** Null when a machine cannot have it. */
export function x86Scene(original: X86Case): Scene | null {
  const found = expressible(original);
  if (found === null) return null;
  const { question, notes } = found;
  const { access, user, ac, cr0, cr3, cr4, va } = question;
  const { pa, code, levels } = new X86Ours().answer(question);
  const root = Number(cr3 & ADDRESS);
  const large = levels.find(({ level, entry }) => level === 'pud' && (entry & PS) !== 0n);
  if (large !== undefined) notes.push('The physical addresses of the 1 GiB page are those of the question.');
  const moved = (entry: bigint): bigint => {
    const address = entry & ADDRESS;
    if (entry === large?.entry || address >= BigInt(MACHINE_RAM)) return entry;
    return entry + BigInt(address < BigInt(X86_RAM_SIZE) ? MOVED : AWAY);
  };
  const pgd = root < X86_RAM_SIZE ? (question.entries.get(root + Number((va >> 39n) & 511n) * 8) ?? 0n) : -1n;
  const canonical = va >> 47n === 0n || va >> 47n === 0x1ffffn;
  const address = canonical ? (va & IN_SLOT) | SLOT : va;
  return {
    pgd: canonical ? BigInt.asUintN(64, pgd === -1n ? pgd : moved(pgd)) : null,
    slot: address,
    entries: new Map([...question.entries].map(([at, entry]) => [at + MOVED, moved(entry)])),
    registers: {
      rdi: address,
      cr0,
      cr4: CR4_KERNEL | (cr4 & 0x30_0000n),
      rflags: ac ? EFLAGS | AC : EFLAGS,
    },
    user,
    landing:
      access === ACCESS_FETCH && pa !== null && pa < X86_RAM_SIZE && large === undefined ? pa + MOVED : null,
    code: name(user, access),
    fault:
      pa !== null
        ? null
        : code < 0
          ? ["exception: '#GP'"]
          : [`address: 0x${address.toString(16)}`, `error_code: 0x${code.toString(16)}`],
    notes,
  };
}
