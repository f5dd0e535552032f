/**
 * Port of mm/mmap_lock.c: the per-VMA lock and the mmap lock as page faults take them (bpf-next merge
 * 8496d9020ff3).
 *
 * A lock is had at once or not at all, because CPUs never run at the same time: `contended` of an address
 * space and `write_locked` of a mapping stand for a writer, who is done as soon as somebody waits for him.
 *
 * Left out: the RCU walk and what can become of a mapping during it, lock statistics.
 */
import type { ThisCpu } from '../arch/arch.js';
import { type mm_struct, type pt_regs, VM_GROWSDOWN, type vm_area_struct } from '../arch/kernel.js';
import { type Path, port } from '../emu/path.js';
import { expand_stack_locked, find_vma, MmapError, UserMm, Vma, vma_lookup } from './mmap.js';

/**
 * The mapping of an address with its lock held for reading; null when there is none, a stack's that would
 * have to grow included, or when somebody writes to it.
 */
export const lock_vma_under_rcu = port(
  'lock_vma_under_rcu',
  ['mm', 'address'],
  function* (here: ThisCpu, mm: mm_struct, address: bigint): Path<vm_area_struct | null> {
    const { trace } = here;
    const fn = 'lock_vma_under_rcu';
    // init_mm has no mappings.
    const vma = mm instanceof UserMm ? vma_lookup(mm, address) : null;
    if ((yield* trace.decide(fn, '!vma', vma === null)) || vma === null) return null;
    if (yield* trace.decide(fn, 'IS_ERR_OR_NULL(vma_start_read(mm, vma))', vma.write_locked)) return null;
    vma.readers += 1;
    return vma;
  },
);

/** Gives back what lock_vma_under_rcu() returned. Throws a MmapError when nobody holds the lock. */
export function vma_end_read(vma: vm_area_struct): void {
  const mapping = mappingOf(vma);
  if (mapping.readers === 0) throw new MmapError('vma_end_read() of a mapping that nobody has locked');
  mapping.readers -= 1;
}

/** Gives back the mmap lock. Throws a MmapError when nobody holds it. */
export function mmap_read_unlock(mm: mm_struct): void {
  if (!(mm instanceof UserMm) || mm.readers === 0) {
    throw new MmapError(`mmap_read_unlock() of ${mm.name}, which nobody has locked`);
  }
  mm.readers -= 1;
}

/** mmap_read_trylock() */
export function mmap_read_trylock(mm: UserMm): boolean {
  if (mm.contended || mm.writer !== null) return false;
  mm.readers += 1;
  return true;
}

export const lock_mm_and_find_vma = port(
  'lock_mm_and_find_vma',
  ['mm', 'addr', 'regs'],
  function* (here: ThisCpu, mm: mm_struct, addr: bigint, regs: pt_regs): Path<vm_area_struct | null> {
    const { trace } = here;
    const fn = 'lock_mm_and_find_vma';
    // init_mm has no mappings.
    if (!(mm instanceof UserMm)) return null;

    const locked = yield* get_mmap_lock_carefully(here, mm, regs);
    if (yield* trace.decide(fn, '!get_mmap_lock_carefully(mm, regs)', !locked)) return null;
    const vma = find_vma(mm, addr);
    const covered = vma !== null && vma.vm_start <= addr;
    if ((yield* trace.decide(fn, 'vma && vma->vm_start <= addr', covered)) && vma !== null) return vma;

    const stack = vma !== null && (vma.vm_flags & VM_GROWSDOWN) !== 0;
    if ((yield* trace.decide(fn, '!vma || !(vma->vm_flags & VM_GROWSDOWN)', !stack)) || vma === null) {
      mmap_read_unlock(mm);
      return null;
    }
    const upgraded = yield* upgrade_mmap_lock_carefully(here, mm, regs);
    if (yield* trace.decide(fn, '!upgrade_mmap_lock_carefully(mm, regs)', !upgraded)) return null;
    const err = expand_stack_locked(vma, addr);
    if ((yield* trace.decide(fn, 'expand_stack_locked(vma, addr)', err)) !== 0) return null;
    // mmap_write_downgrade()
    mm.readers += 1;
    return vma;
  },
);

/** Kernel code may wait for the lock only where a fault is expected: else the lock itself may be why it is here. */
const get_mmap_lock_carefully = port(
  'get_mmap_lock_carefully',
  ['mm', 'regs'],
  function* (here: ThisCpu, mm: UserMm, regs: pt_regs): Path<boolean> {
    const { trace } = here;
    const fn = 'get_mmap_lock_carefully';
    if (yield* trace.decide(fn, 'mmap_read_trylock(mm)', mmap_read_trylock(mm))) return true;
    if (yield* mayNotWait(here, fn, regs)) return false;
    if (!(yield* lockedAfterWait(here, fn, '!mmap_read_lock_killable(mm)', mm))) return false;
    mm.readers += 1;
    return true;
  },
);

const upgrade_mmap_lock_carefully = port(
  'upgrade_mmap_lock_carefully',
  ['mm', 'regs'],
  function* (here: ThisCpu, mm: UserMm, regs: pt_regs): Path<boolean> {
    const fn = 'upgrade_mmap_lock_carefully';
    mmap_read_unlock(mm);
    if (yield* mayNotWait(here, fn, regs)) return false;
    return yield* lockedAfterWait(here, fn, '!mmap_write_lock_killable(mm)', mm);
  },
);

function* mayNotWait(here: ThisCpu, fn: string, regs: pt_regs): Path<boolean> {
  const { trace, kernel } = here;
  if (!(yield* trace.decide(fn, 'regs && !user_mode(regs)', !regs.user_mode))) return false;
  const unexpected = kernel.search_exception_tables(regs.instruction_pointer) === null;
  return yield* trace.decide(fn, '!search_exception_tables(ip)', unexpected);
}

/** A killable lock is not had by a task that is about to be killed, if it has to wait. */
function* lockedAfterWait(here: ThisCpu, fn: string, test: string, mm: UserMm): Path<boolean> {
  const killed = mm.contended && here.current.signal_pending === 'fatal';
  if (!(yield* here.trace.decide(fn, test, !killed))) return false;
  if (mm.writer !== null)
    throw waitsForever(here, `the mmap lock of ${mm.name}, which CPU ${mm.writer} holds`);
  mm.contended = false;
  for (const vma of mm.vmas) vma.write_locked = false;
  return true;
}

/**
 * mmap_write_lock(): of the address space of the task that runs. Throws a MmapError when somebody of this
 * machine holds the lock: CPUs never run at the same time, so nobody would ever give it back.
 */
export function mmap_write_lock(here: ThisCpu, mm: UserMm): void {
  if (mm.writer !== null)
    throw waitsForever(here, `the mmap lock of ${mm.name}, which CPU ${mm.writer} holds`);
  if (mm.readers > 0) throw waitsForever(here, `the mmap lock of ${mm.name}, which is held for reading`);
  mm.contended = false;
  mm.writer = here.cpu.id;
}

/** mmap_write_unlock(): the mappings that the writer locked are unlocked with it. */
export function mmap_write_unlock(here: ThisCpu, mm: UserMm): void {
  if (mm.writer !== here.cpu.id) {
    throw new MmapError(`mmap_write_unlock() of ${mm.name} on CPU ${here.cpu.id}, which does not hold it`);
  }
  mm.writer = null;
  for (const vma of mm.vmas) vma.write_locked = false;
}

/** mmap_read_lock(): waits for nobody of this machine, see mmap_write_lock(). */
export function mmap_read_lock(here: ThisCpu, mm: UserMm): void {
  if (mm.writer !== null)
    throw waitsForever(here, `the mmap lock of ${mm.name}, which CPU ${mm.writer} holds`);
  mm.contended = false;
  mm.readers += 1;
}

/** vma_start_write(): keeps readers of a mapping away until the mmap lock is given back. */
export function vma_start_write(here: ThisCpu, vma: Vma): void {
  if (vma.readers > 0) {
    throw waitsForever(here, `a mapping of ${vma.vm_mm.name} whose lock is held for reading`);
  }
  vma.write_locked = true;
}

function waitsForever(here: ThisCpu, what: string): MmapError {
  return new MmapError(`CPU ${here.cpu.id} would wait for ever for ${what}`);
}

function mappingOf(vma: vm_area_struct): Vma {
  if (vma instanceof Vma) return vma;
  throw new MmapError('a mapping that mm/ did not make');
}
