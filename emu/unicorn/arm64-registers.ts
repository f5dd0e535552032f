/** Registers of arm64: general ones as Unicorn numbers them, system registers by their encoding. */
import {
  UC_ARM64_REG_CP_REG,
  UC_ARM64_REG_ESR_EL1,
  UC_ARM64_REG_FAR_EL1,
  UC_ARM64_REG_NZCV,
  UC_ARM64_REG_PC,
  UC_ARM64_REG_PSTATE,
  UC_ARM64_REG_SP,
  UC_ARM64_REG_SP_EL0,
  UC_ARM64_REG_SP_EL1,
  UC_ARM64_REG_X0,
  UC_ARM64_REG_X29,
  UC_ARM64_REG_X30,
} from './constants.js';
import { plain, type RegisterPlace, type RegisterTable, type StructureRegister } from './register-table.js';

/**
 * A system register by the fields of its MRS encoding (Arm ARM, C5.2):
 * `{ u32 crn, crm, op0, op1, op2; u64 value @24 }`.
 */
export function systemRegister(
  op0: number,
  op1: number,
  crn: number,
  crm: number,
  op2: number,
): StructureRegister {
  return {
    kind: 'structure',
    id: UC_ARM64_REG_CP_REG,
    size: 32,
    offset: 24,
    bytes: 8,
    prepare: (structure) => {
      [crn, crm, op0, op1, op2].forEach((field, index) => {
        structure.setUint32(index * 4, field, true);
      });
    },
    shared: false,
  };
}

const general = (n: number): RegisterPlace =>
  plain(n === 29 ? UC_ARM64_REG_X29 : n === 30 ? UC_ARM64_REG_X30 : UC_ARM64_REG_X0 + n);

const places = new Map<string, RegisterPlace>([
  ...Array.from({ length: 31 }, (_, n) => [`x${n}`, general(n)] as const),
  ['sp', plain(UC_ARM64_REG_SP)],
  ['pc', plain(UC_ARM64_REG_PC)],
  ['pstate', plain(UC_ARM64_REG_PSTATE, 4)],
  ['nzcv', plain(UC_ARM64_REG_NZCV, 4)],
  ['sp_el0', plain(UC_ARM64_REG_SP_EL0)],
  ['sp_el1', plain(UC_ARM64_REG_SP_EL1)],
  ['sctlr_el1', systemRegister(3, 0, 1, 0, 0)],
  ['cpacr_el1', systemRegister(3, 0, 1, 0, 2)],
  ['ttbr0_el1', systemRegister(3, 0, 2, 0, 0)],
  ['ttbr1_el1', systemRegister(3, 0, 2, 0, 1)],
  ['tcr_el1', systemRegister(3, 0, 2, 0, 2)],
  ['mair_el1', systemRegister(3, 0, 10, 2, 0)],
  ['esr_el1', plain(UC_ARM64_REG_ESR_EL1)],
  ['far_el1', plain(UC_ARM64_REG_FAR_EL1)],
  ['par_el1', systemRegister(3, 0, 7, 4, 0)],
  ['vbar_el1', systemRegister(3, 0, 12, 0, 0)],
  ['spsr_el1', systemRegister(3, 0, 4, 0, 0)],
  ['elr_el1', systemRegister(3, 0, 4, 0, 1)],
  ['contextidr_el1', systemRegister(3, 0, 13, 0, 1)],
  ['tpidr_el1', systemRegister(3, 0, 13, 0, 4)],
  ['tpidr_el0', systemRegister(3, 3, 13, 0, 2)],
  ['tpidrro_el0', systemRegister(3, 3, 13, 0, 3)],
  ['fp', general(29)],
  ['lr', general(30)],
]);

export const ARM64_REGISTERS: RegisterTable = {
  places,
  pc: plain(UC_ARM64_REG_PC),
  sp: plain(UC_ARM64_REG_SP),
};

/** PSTATE as SPSR shows it: M[3:2] is the exception level, M[0] the stack pointer's. */
export const PSTATE_EL_MASK = 0xcn;
const PSTATE_EL1 = 0x4n;
const PSTATE_SP = 0x1n;
/** Exception level and stack pointer selection: EL0t is 0, EL1h is 5. */
export const PSTATE_MODE_MASK = 0x1fn;
export const PSTATE_EL1H = PSTATE_EL1 | PSTATE_SP;
