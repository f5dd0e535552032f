/** struct_ops maps of a machine: their tables and trampolines in memory. */
import type { Arch } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import type { bpf_prog } from '../bpf/program.js';
import {
  type bpf_struct_ops_map,
  bpf_struct_ops_map_update_elem,
  type StructOpsProgram,
  type StructOpsType,
} from '../bpf/struct_ops/struct_ops.js';
import type { PrepareTrampoline } from '../bpf/struct_ops/struct_ops_trampoline.js';
import { prepareTrampolineArm64 } from '../bpf/struct_ops/trampoline_arm64.js';
import { prepareTrampolineX86 } from '../bpf/struct_ops/trampoline_x86.js';
import { MachineRefusal } from '../kernel/machine-refusal.js';
import { jitOptions } from './jit-options.js';
import type { System } from './system.js';
import { alignUp } from './text.js';

const PREPARE: Readonly<Record<Arch['name'], PrepareTrampoline>> = {
  'x86-64': prepareTrampolineX86,
  arm64: prepareTrampolineArm64,
};

/** A program for a member. */
export interface MemberProgram {
  readonly prog: bpf_prog;
  readonly sleepable: boolean;
}

/** Where the addresses begin, in the page of the table, that stand for struct bpf_prog; nothing is read there. */
const PROGS = 0x800n;

/**
 * Registers a map: code for each member that has a program, and the table. Throws a MachineRefusal when there is no room,
 * or the kernel refuses it.
 */
export function registerStructOps(
  system: System,
  name: string,
  type: StructOpsType,
  members: ReadonlyMap<string, MemberProgram>,
): bpf_struct_ops_map {
  const { arch, config, callables, memory, bpf, kernel, text } = system;
  const boot = system.here();
  const frame = memory.pages.takeFrames(1, `struct_ops map ${name}`);
  if (frame === null) throw new MachineRefusal(`the ram is full: no page for the struct_ops map ${name}`);
  const kdata = memory.layout.directMap + BigInt(frame - memory.layout.physBase);
  const programs = new Map<string, StructOpsProgram>();
  for (const [member, { prog, sleepable }] of members) {
    programs.set(member, { prog, sleepable, address: kdata + PROGS + BigInt(programs.size * 8) });
  }
  const map = bpf_struct_ops_map_update_elem(bpf, name, type, programs, {
    kdata,
    page: () => {
      const page = alignUp(system.textBase('bpf'), BigInt(PAGE_SIZE));
      text.reserve('bpf', page + BigInt(PAGE_SIZE));
      return page;
    },
    lookup: (fn) => callables.addressOf(fn),
    prepare: PREPARE[arch.name],
    options: jitOptions(arch.name, config, () => callables.returnThunk),
  });
  if (typeof map === 'number')
    throw new MachineRefusal(`the kernel refuses the struct_ops map ${name}: ${map}`);
  for (const { ksym, code } of map.images) {
    text.store(boot, 'bpf', ksym.start, code);
    kernel.kallsyms.add({ name: ksym.name, start: ksym.start, size: code.length, kind: 'bpf' });
  }
  system.writeVirtual(0, kdata, map.table);
  return map;
}
