/** Runs the steps about arenas that are system calls: create, mmap, munmap, mremap, fork. */
import type { Delegate } from '../../emu/path.js';
import type { Expression } from '../format/bound-expression.js';
import type { CreateStep, ForkStep, MmapStep, MremapStep, MunmapStep, Step } from '../format/schema-steps.js';
import type { Machine } from '../machine/machine.js';

export type SyscallStep = CreateStep | MmapStep | MunmapStep | MremapStep | ForkStep;

export function isSyscall(step: Step): step is SyscallStep {
  return 'create' in step || 'mmap' in step || 'munmap' in step || 'mremap' in step || 'fork' in step;
}

/** What the kernel answers: an address, a pid, 0, or a negative errno; unsigned 64-bit. */
export function syscall(machine: Machine, cpu: number, step: SyscallStep): Delegate<bigint> {
  const { arenas, scope } = machine;
  const value = (expression: Expression | undefined): bigint => expression?.value(scope) ?? 0n;
  if ('create' in step) return arenas.create(cpu, step.create);
  const process = step.process ?? null;
  if ('mmap' in step) {
    const { arena, addr, length, prot = 'rw', flags = ['shared'], pgoff } = step.mmap;
    return arenas.mmap(cpu, {
      process,
      arena,
      addr: addr?.value(scope) ?? null,
      length: length?.value(scope) ?? null,
      prot,
      flags,
      pgoff: value(pgoff),
    });
  }
  if ('munmap' in step) {
    const { addr, length } = step.munmap;
    return arenas.munmap(cpu, { process, addr: value(addr), length: value(length) });
  }
  if ('fork' in step) return arenas.fork(cpu, { process, child: step.fork });
  const { addr, length, new_length, flags = [], new_addr } = step.mremap;
  return arenas.mremap(cpu, {
    process,
    addr: value(addr),
    length: value(length),
    new_length: value(new_length ?? length),
    flags,
    new_addr: value(new_addr),
  });
}
