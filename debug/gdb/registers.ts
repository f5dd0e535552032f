/**
 * The registers that gdb sees, in its order, and their description in XML. Core features are those of gdb's manual,
 * "Standard Target Features"; what the kernel translates and faults by is in a feature of our own, group `system`.
 */
import { REGISTER_FLAGS } from '../register-flags.js';

/** A register of the description. Its number is its place in the list. */
export interface GdbRegister {
  readonly name: string;
  readonly bits: 32 | 64 | 80;
  readonly type: string;
  /** The session's name; null when there is no such thing here: gdb shows it as unavailable. */
  readonly source: string | null;
  readonly system: boolean;
}

export interface Feature {
  readonly name: string;
  readonly types: string;
  readonly registers: readonly GdbRegister[];
}

export interface Target {
  readonly architecture: string;
  readonly features: readonly Feature[];
  /** All of them, in order. */
  readonly registers: readonly GdbRegister[];
  /** Numbers that stop replies bring along. */
  readonly pc: number;
  readonly sp: number;
}

/** Error code of the exception that is handled: it is pushed, and in no register. */
export const ERROR_CODE = 'error_code';

function register(name: string, more: Partial<GdbRegister> = {}): GdbRegister {
  return { name, bits: 64, type: 'int', source: name, system: false, ...more };
}

function system(source: string, more: Partial<GdbRegister> = {}): GdbRegister {
  return register(source, { type: 'int', system: true, ...more });
}

type Field = readonly [name: string, start: number, end?: number];

/** A type of single bits and, between them, fields of several. */
function flags(id: string, size: 4 | 8, bits: readonly Field[], others: readonly Field[] = []): string {
  const lines = [...bits, ...others]
    .sort(([, a], [, b]) => a - b)
    .map(([name, start, end]) => `<field name="${name}" start="${start}" end="${end ?? start}"/>`);
  return `<flags id="${id}" size="${size}">${lines.join('')}</flags>`;
}

const X86_CORE: Feature = {
  name: 'org.gnu.gdb.i386.core',
  // gdb calls the bit that is always set by no name, either.
  types: flags('kf_eflags', 4, REGISTER_FLAGS.rflags, [['', 1]]),
  registers: [
    ...['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi'].map((name) => register(name, { type: 'int64' })),
    register('rbp', { type: 'data_ptr' }),
    register('rsp', { type: 'data_ptr' }),
    ...[8, 9, 10, 11, 12, 13, 14, 15].map((n) => register(`r${n}`, { type: 'int64' })),
    register('rip', { type: 'code_ptr' }),
    register('eflags', { bits: 32, type: 'kf_eflags', source: 'rflags' }),
    ...['cs', 'ss', 'ds', 'es', 'fs', 'gs'].map((name) => register(name, { bits: 32, type: 'int32' })),
    // gdb insists on the x87 unit. The kernel does not use it, and fixtures cannot name it.
    ...[0, 1, 2, 3, 4, 5, 6, 7].map((n) => register(`st${n}`, { bits: 80, type: 'i387_ext', source: null })),
    ...['fctrl', 'fstat', 'ftag', 'fiseg', 'fioff', 'foseg', 'fooff', 'fop'].map((name) =>
      register(name, { bits: 32, source: null }),
    ),
  ],
};

const X86_SEGMENTS: Feature = {
  name: 'org.gnu.gdb.i386.segments',
  types: '',
  registers: [register('fs_base'), register('gs_base')],
};

/** Bits of the error code as in the SDM, volume 3, 4.7. */
const X86_SYSTEM: Feature = {
  name: 'kfault.x86.system',
  types: [
    flags('kf_cr0', 8, REGISTER_FLAGS.cr0),
    flags('kf_cr4', 8, REGISTER_FLAGS.cr4),
    flags('kf_efer', 8, REGISTER_FLAGS.efer),
    flags('kf_error_code', 8, [
      ['P', 0],
      ['W', 1],
      ['U', 2],
      ['RSVD', 3],
      ['I', 4],
      ['PK', 5],
      ['SS', 6],
      ['SGX', 15],
    ]),
  ].join(''),
  registers: [
    system('cr0', { type: 'kf_cr0' }),
    system('cr2', { type: 'data_ptr' }),
    system('cr3'),
    system('cr4', { type: 'kf_cr4' }),
    system('cr8'),
    system('efer', { type: 'kf_efer' }),
    register('k_gs_base', { source: 'kernel_gs_base', system: true }),
    register(ERROR_CODE, { type: 'kf_error_code', system: true }),
  ],
};

const ARM64_CORE: Feature = {
  name: 'org.gnu.gdb.aarch64.core',
  types: flags('kf_cpsr', 4, REGISTER_FLAGS.pstate, [
    ['SP', 0],
    ['EL', 2, 3],
    ['nRW', 4],
    ['BTYPE', 10, 11],
    ['SSBS', 12],
  ]),
  registers: [
    ...Array.from({ length: 31 }, (_, n) => register(`x${n}`)),
    register('sp', { type: 'data_ptr' }),
    register('pc', { type: 'code_ptr' }),
    register('cpsr', { bits: 32, type: 'kf_cpsr', source: 'pstate' }),
  ],
};

/** Fields as in the Arm Architecture Reference Manual, D24 (ESR_EL1). */
const ARM64_SYSTEM: Feature = {
  name: 'kfault.aarch64.system',
  types: flags('kf_esr', 8, [
    ['ISS', 0, 24],
    ['IL', 25],
    ['EC', 26, 31],
  ]),
  registers: [
    ...['ttbr0_el1', 'ttbr1_el1', 'tcr_el1', 'sctlr_el1', 'mair_el1'].map((source) =>
      register(source.toUpperCase(), { source, system: true }),
    ),
    register('FAR_EL1', { source: 'far_el1', type: 'data_ptr', system: true }),
    register('ESR_EL1', { source: 'esr_el1', type: 'kf_esr', system: true }),
    register('ELR_EL1', { source: 'elr_el1', type: 'code_ptr', system: true }),
    ...['spsr_el1', 'vbar_el1', 'sp_el0', 'sp_el1', 'tpidr_el0', 'tpidr_el1', 'par_el1'].map((source) =>
      register(source.toUpperCase(), { source, system: true }),
    ),
  ],
};

function target(architecture: string, features: readonly Feature[], pc: string, sp: string): Target {
  const registers = features.flatMap((feature) => feature.registers);
  const number = (name: string): number => registers.findIndex((each) => each.name === name);
  return { architecture, features, registers, pc: number(pc), sp: number(sp) };
}

/** What gdb is told of an architecture. */
export function targetOf(arch: 'x86-64' | 'arm64'): Target {
  return arch === 'x86-64'
    ? target('i386:x86-64', [X86_CORE, X86_SEGMENTS, X86_SYSTEM], 'rip', 'rsp')
    : target('aarch64', [ARM64_CORE, ARM64_SYSTEM], 'pc', 'sp');
}

/** target.xml. No operating system: gdb would look for shared libraries. */
export function targetXml({ architecture, features }: Target): string {
  const body = features.map(({ name, types, registers }) => {
    const lines = registers.map(
      (each) =>
        `<reg name="${each.name}" bitsize="${each.bits}" type="${each.type}"${each.system ? ' group="system"' : ''}/>`,
    );
    return `<feature name="${name}">\n${types}\n${lines.join('\n')}\n</feature>`;
  });
  return [
    '<?xml version="1.0"?>',
    '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
    '<target version="1.0">',
    `<architecture>${architecture}</architecture>`,
    '<osabi>none</osabi>',
    ...body,
    '</target>',
    '',
  ].join('\n');
}
