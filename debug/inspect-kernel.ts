/** The rest of what a stopped machine shows: address spaces, console, streams, steps of the fixture. */
import { VM_EXEC, VM_READ, VM_SHARED, VM_WRITE } from '../arch/kernel.js';
import { BPF_STDERR, BPF_STDOUT, bpf_stream_get, streamText } from '../bpf/stream/stream.js';
import { u64 } from '../emu/address.js';
import { UserMm, type Vma } from '../mm/mmap.js';
import { wherePath } from '../vector/checks/failure.js';
import type { SystemMachine } from '../vector/machine/system-machine.js';
import { stepText } from '../vector/report/explain-fixture.js';
import { consoleLines } from '../vector/report/fault-story.js';
import { consoleFormat } from '../vector/run/run-steps.js';
import type { MachineRun, StepRecord } from './run.js';
import type { CodeLineView, RangeView, StepView, StreamView, VmaView } from './views.js';

export function codeLines({ images, fixture }: MachineRun): CodeLineView[] {
  return images.flatMap(({ index, start, assembled }) =>
    assembled.lines
      .filter(({ instruction }) => instruction)
      .map(({ line, offset }) => ({
        address: u64(start + BigInt(offset)),
        line: fixture.source.blockLine(['text', index, 'asm'], line),
      })),
  );
}

/** Mappings of the task that runs. */
export function userMappings(run: MachineRun): VmaView[] {
  const { machine } = run;
  const { current } = machine.system.here(run.cpu);
  const mm = current.mm ?? current.active_mm;
  if (!(mm instanceof UserMm)) return [];
  return mm.vmas.map((vma) => ({
    start: vma.vm_start,
    end: vma.vm_end,
    flags: flagsText(vma.vm_flags),
    what: backing(machine, vma),
  }));
}

function flagsText(flags: number): string {
  const flag = (bit: number, letter: string): string => ((flags & bit) === 0 ? '-' : letter);
  return `${flag(VM_READ, 'r')}${flag(VM_WRITE, 'w')}${flag(VM_EXEC, 'x')}${(flags & VM_SHARED) === 0 ? 'p' : 's'}`;
}

function backing(machine: SystemMachine, vma: Vma): string {
  const { vm_start, vm_end, vm_file } = vma;
  if (vm_file !== null) {
    for (const [name, map] of machine.maps) {
      const arena = map?.arena ?? null;
      if (arena?.vma_list.some((each) => each.vma === vma) === true) {
        return `arena ${name}`;
      }
    }
    return 'file';
  }
  const names = [...machine.symbols].filter(([, at]) => at >= vm_start && at < vm_end).map(([name]) => name);
  return names.join(' ');
}

export function kernelRanges(machine: SystemMachine): RangeView[] {
  const { layout } = machine.arch;
  const { ram, memory, kernel } = machine.system;
  const range = (name: string, start: bigint, end: bigint): RangeView => ({ name, start, end });
  const found = [
    range('user', layout.user.start, layout.user.end),
    range('direct map of the ram', layout.directMap, layout.directMap + BigInt(ram.size)),
    range('vmalloc', layout.vmalloc.start, layout.vmalloc.end),
    range('kernel text', layout.text.start, layout.text.end),
    range('modules', layout.modules.start, layout.modules.end),
    range('BPF images', layout.bpf.start, layout.bpf.end),
  ];
  for (const { addr, size } of memory.vmalloc.areas) {
    found.push(range(`vmalloc area${areaName(machine, addr)}`, addr, addr + BigInt(size)));
  }
  const pool = kernel.kfence.__kfence_pool;
  if (pool !== 0n) found.push(range('KFENCE pool', pool, pool + BigInt(kernel.kfence.KFENCE_POOL_SIZE)));
  return found.sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : a.end > b.end ? -1 : 1));
}

function areaName(machine: SystemMachine, addr: bigint): string {
  for (const [name, map] of machine.maps) if (map?.arena?.kern_vm.addr === addr) return ` of arena ${name}`;
  for (const { current } of machine.system.cpus) {
    if (current.stack === addr) return `: kernel stack of ${current.comm}`;
  }
  const name = [...machine.symbols].find(([, at]) => at === addr)?.[0];
  return name === undefined ? '' : `: ${name}`;
}

export function programStreams(machine: SystemMachine): StreamView[] {
  const found: StreamView[] = [];
  for (const [program, prog] of machine.programs) {
    if (prog.aux.main_prog_aux !== prog.aux) continue;
    for (const id of [BPF_STDOUT, BPF_STDERR]) {
      const stream = bpf_stream_get(id, prog);
      if (stream !== null) found.push({ program, stream: stream.name, text: streamText(stream) });
    }
  }
  return found;
}

export function consoleText(run: MachineRun): string[] {
  return consoleLines(run.machine.events, consoleFormat(run.fixture));
}

/** Steps that have begun, in that order, and those of the fixture's list that wait. */
export function fixtureStepViews(run: MachineRun): StepView[] {
  const { fixture, steps, failures } = run;
  const view = ({ step, path, behind, before, after }: StepRecord, waiting: boolean): StepView => {
    const own = waiting ? [] : failures.slice(before, after ?? failures.length);
    const done = own.length === 0 ? 'passed' : 'failed';
    return {
      where: wherePath(path),
      text: stepText(step),
      behind,
      line: fixture.source.valuePlace(path).line,
      state: waiting ? 'waiting' : after === null ? 'running' : done,
      failures: own,
    };
  };
  const begun = steps.filter(({ path }) => path.length === 2).length;
  const waiting = fixture.data.steps
    .slice(begun)
    .map((step, i) => view({ step, path: ['steps', begun + i], behind: null, before: 0, after: null }, true));
  return [...steps.map((step) => view(step, false)), ...waiting];
}
