/** The struct_ops maps of a fixture. */
import { registerStructOps } from '../../boot/struct-ops.js';
import type { StructOpsType } from '../../bpf/struct_ops/struct_ops.js';
import { quoted } from '../format/fixture-error.js';
import type { Fixture } from '../format/load.js';
import type { StructOpsData } from '../format/schema-programs.js';
import type { SystemMachine } from '../machine/system-machine.js';
import { isRefusal } from './data-pages.js';

/** Symbol of a trampoline. */
export function trampolineName(type: string, member: string): string {
  return `bpf__${type}_${member}`;
}

/** Symbols of all trampolines. */
export function trampolineNames({ struct_ops = {} }: Pick<Fixture['data'], 'struct_ops'>): string[] {
  return Object.values(struct_ops).flatMap(({ type, members }) =>
    Object.keys(members).map((member) => trampolineName(type, member)),
  );
}

/** Registers all of them. Their programs are loaded. Throws a FixtureError where one cannot be. */
export function registerAll({ source, data }: Fixture, machine: SystemMachine): void {
  for (const [name, ops] of Object.entries(data.struct_ops ?? {})) {
    const members = new Map(
      Object.entries(ops.members).map(([member, program]) => {
        const prog = machine.programs.get(program);
        if (prog === undefined) {
          throw source.at(
            ['struct_ops', name, 'members', member],
            `program ${quoted(program)} is not loaded: members are programs in BPF text that the kernel takes`,
          );
        }
        return [member, { prog, sleepable: data.programs?.[program]?.sleepable ?? true }] as const;
      }),
    );
    try {
      const map = registerStructOps(machine.system, name, typeOf(ops), members);
      machine.addSymbol(name, map.kdata, map.table.length);
      for (const { ksym, code } of map.images) machine.addSymbol(ksym.name, ksym.start, code.length);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      throw source.error(source.keyPlace(['struct_ops', name]), error.message);
    }
  }
}

function typeOf({ type, members, args = {}, returns = [] }: StructOpsData): StructOpsType {
  return {
    name: type,
    members: Object.keys(members).map((member) => ({
      name: member,
      nr_args: args[member] ?? 1,
      returns: returns.includes(member),
    })),
  };
}
