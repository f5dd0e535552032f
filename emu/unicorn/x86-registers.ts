/** Registers of x86-64 as Unicorn numbers them (x86.h). */
import {
  UC_X86_REG_CR0,
  UC_X86_REG_CR2,
  UC_X86_REG_CR3,
  UC_X86_REG_CR4,
  UC_X86_REG_CR8,
  UC_X86_REG_CS,
  UC_X86_REG_DR0,
  UC_X86_REG_DS,
  UC_X86_REG_ES,
  UC_X86_REG_FS,
  UC_X86_REG_FS_BASE,
  UC_X86_REG_GDTR,
  UC_X86_REG_GS,
  UC_X86_REG_GS_BASE,
  UC_X86_REG_IDTR,
  UC_X86_REG_LDTR,
  UC_X86_REG_MSR,
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
  UC_X86_REG_SS,
  UC_X86_REG_TR,
} from './constants.js';
import { plain, type RegisterPlace, type RegisterTable, type StructureRegister } from './register-table.js';

/** A model-specific register: `{ u32 number; u64 value @8 }`. Numbers as in the SDM, volume 4. */
function msr(number: number): StructureRegister {
  return {
    kind: 'structure',
    id: UC_X86_REG_MSR,
    size: 16,
    offset: 8,
    bytes: 8,
    prepare: (structure) => structure.setUint32(0, number, true),
    shared: false,
  };
}

/** Base and limit of a descriptor-table register: `{ u16; u64 base @8; u32 limit @16; u32 }`. */
function table(id: number, part: 'base' | 'limit'): StructureRegister {
  const where = part === 'base' ? ({ offset: 8, bytes: 8 } as const) : ({ offset: 16, bytes: 4 } as const);
  return { kind: 'structure', id, size: 24, ...where, prepare: () => undefined, shared: true };
}

/** Selector of a system segment: `{ u16 selector; u64 base @8; u32 limit @16; u32 flags }`. */
function systemSegment(id: number): StructureRegister {
  return { kind: 'structure', id, size: 24, offset: 0, bytes: 2, prepare: () => undefined, shared: true };
}

const places = new Map<string, RegisterPlace>([
  ['rax', plain(UC_X86_REG_RAX)],
  ['rbx', plain(UC_X86_REG_RBX)],
  ['rcx', plain(UC_X86_REG_RCX)],
  ['rdx', plain(UC_X86_REG_RDX)],
  ['rsi', plain(UC_X86_REG_RSI)],
  ['rdi', plain(UC_X86_REG_RDI)],
  ['rbp', plain(UC_X86_REG_RBP)],
  ['rsp', plain(UC_X86_REG_RSP)],
  ...Array.from({ length: 8 }, (_, n) => [`r${8 + n}`, plain(UC_X86_REG_R8 + n)] as const),
  ['rip', plain(UC_X86_REG_RIP)],
  ['rflags', plain(UC_X86_REG_RFLAGS)],
  ['cs', plain(UC_X86_REG_CS, 2)],
  ['ss', plain(UC_X86_REG_SS, 2)],
  ['ds', plain(UC_X86_REG_DS, 2)],
  ['es', plain(UC_X86_REG_ES, 2)],
  ['fs', plain(UC_X86_REG_FS, 2)],
  ['gs', plain(UC_X86_REG_GS, 2)],
  ['fs_base', plain(UC_X86_REG_FS_BASE)],
  ['gs_base', plain(UC_X86_REG_GS_BASE)],
  ['kernel_gs_base', msr(0xc0000102)],
  ['cr0', plain(UC_X86_REG_CR0)],
  ['cr2', plain(UC_X86_REG_CR2)],
  ['cr3', plain(UC_X86_REG_CR3)],
  ['cr4', plain(UC_X86_REG_CR4)],
  ['cr8', plain(UC_X86_REG_CR8)],
  ['efer', msr(0xc0000080)],
  ...[0, 1, 2, 3, 6, 7].map((n) => [`dr${n}`, plain(UC_X86_REG_DR0 + n)] as const),
  ['gdtr_base', table(UC_X86_REG_GDTR, 'base')],
  ['gdtr_limit', table(UC_X86_REG_GDTR, 'limit')],
  ['idtr_base', table(UC_X86_REG_IDTR, 'base')],
  ['idtr_limit', table(UC_X86_REG_IDTR, 'limit')],
  // Nothing in the engine looks at them.
  ['ldtr', systemSegment(UC_X86_REG_LDTR)],
  ['tr', systemSegment(UC_X86_REG_TR)],
]);

export const X86_REGISTERS: RegisterTable = {
  places,
  pc: plain(UC_X86_REG_RIP),
  sp: plain(UC_X86_REG_RSP),
};
