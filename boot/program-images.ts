/** Images of BPF programs and exception tables, as they get into the memory of a machine. */
import type { ExtableSpec, VaRange } from '../arch/arch.js';
import type { BpfProgramSpec, bpf_prog } from '../bpf/program.js';
import { MachineRefusal } from '../kernel/machine-refusal.js';
import type { System } from './system.js';
import { alignUp, type TextKind } from './text.js';

/** What makes an image a BPF program. */
export interface ProgramSpec extends Omit<BpfProgramSpec, 'table'> {
  readonly extable?: readonly ExtableSpec[] | undefined;
  /** Where the exception table begins, in bytes from the start; right behind the code if left out. */
  readonly extableOffset?: number | undefined;
}

/** Stores an image with its exception table behind the code, as the JIT does it, and makes it known. */
export function storeProgram(system: System, spec: ProgramSpec): bpf_prog {
  const { start, code } = spec;
  const end = start + BigInt(code.length);
  const entries = spec.extable ?? [];
  const offset = spec.extableOffset;
  const behind = offset === undefined ? alignUp(end, 4n) : start + BigInt(offset);
  const table = entries.length === 0 ? null : behind;
  system.text.store(system.here(), 'bpf', start, code);
  const prog = system.bpf.programs.load({
    ...spec,
    table: table === null ? null : { extable: table, num_exentries: entries.length },
  });
  const { ksym } = prog.aux;
  system.kernel.kallsyms.add({ name: ksym.name, start, size: code.length, kind: 'bpf' });
  if (table !== null) storeExtable(system, 'bpf', table, entries, { start, end });
  return prog;
}

/** Stores an exception table and makes it known; `range` is the code that it belongs to, if not all of the kernel. */
export function storeExtable(
  system: System,
  kind: TextKind,
  va: bigint,
  entries: readonly ExtableSpec[],
  range: VaRange | null,
): void {
  const boot = system.here();
  const { arch } = system;
  const size = arch.extableEntrySize;
  const bytes = new Uint8Array(entries.length * size);
  // Sorted by instruction address: the kernel's at build time, a program's by the JIT.
  const sorted = entries.toSorted((a, b) => (a.insn < b.insn ? -1 : a.insn > b.insn ? 1 : 0));
  for (const [index, entry] of sorted.entries()) {
    bytes.set(arch.packExtable(entry, va + BigInt(index * size)), index * size);
  }
  system.text.store(boot, kind, va, bytes);
  const pa = boot.mmu.peek(va);
  const last = bytes.length - 1;
  if (boot.mmu.peek(va + BigInt(last)) !== pa + last) {
    throw new MachineRefusal(
      `an exception table of ${entries.length} entries does not fit where it has to go`,
    );
  }
  system.kernel.extables.register({ kind, va, pa, count: entries.length, entrySize: size, range });
}
