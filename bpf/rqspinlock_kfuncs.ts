/**
 * Locks of programs: the kfuncs of kernel/bpf/rqspinlock.c, and bpf_spin_lock() and bpf_spin_unlock() of
 * kernel/bpf/helpers.c (bpf-next merge 8496d9020ff3). A lock is a word of ram: whoever looks at it sees it.
 */
import type { ThisCpu } from '../arch/arch.js';
import { hex } from '../emu/address.js';
import { type Path, port } from '../emu/path.js';
import { ETIMEDOUT } from '../kernel/errno.js';
import { HeldLocks, LockError, RES_NR_HELD, res_spin_lock, res_spin_unlock } from '../kernel/rqspinlock.js';
import type { BpfEnv } from './env.js';
import { type Kfunc, kernelWord, kfuncs, returnInt } from './kfunc.js';
import { BPF_STDERR } from './stream/stream.js';
import { bpf_stream_stage_report } from './stream/stream_stage.js';

/** bpf_prog_report_rqspinlock_violation(): nothing when no program is on the stack. */
export const bpf_prog_report_rqspinlock_violation = port(
  'bpf_prog_report_rqspinlock_violation',
  ['env', 'str', 'lock', 'irqsave'],
  function* (
    here: ThisCpu,
    env: BpfEnv,
    str: string,
    lock: bigint,
    irqsave: boolean,
    held: HeldLocks,
  ): Path<void> {
    const prog = env.programs.bpf_prog_find_from_stack(here);
    const name = prog === null ? null : prog.aux.name;
    yield* here.trace.decide('bpf_prog_report_rqspinlock_violation', 'prog', name);
    if (prog === null) return;
    const { cnt, locks } = held.of(here.cpu.id);
    const texts = [
      `ERROR: ${str} for bpf_res_spin_lock${irqsave ? '_irqsave' : ''}\n`,
      `Attempted lock   = 0x${px(lock)}\n`,
      `Total held locks = ${cnt}\n`,
    ];
    for (let i = 0; i < Math.min(RES_NR_HELD, cnt); i++) {
      texts.push(`Held lock[${String(i).padStart(2)}] = 0x${px(locks[i] ?? 0n)}\n`);
    }
    yield* bpf_stream_stage_report(here, env, prog, BPF_STDERR, texts, 'rqspinlock');
  },
);

/** %px */
function px(address: bigint): string {
  return address.toString(16).padStart(16, '0');
}

const REPORT_STR = (ret: number): string =>
  ret === -ETIMEDOUT ? 'Timeout detected' : 'AA or ABBA deadlock detected';

/** bpf_res_spin_lock() and bpf_res_spin_lock_irqsave(): 0, -EDEADLK or -ETIMEDOUT. */
function lockKfunc(irqsave: boolean) {
  const fn = irqsave ? 'bpf_res_spin_lock_irqsave' : 'bpf_res_spin_lock';
  return port(
    fn,
    ['env', 'lock'],
    function* (here: ThisCpu, env: BpfEnv, lock: bigint, flagsAt: bigint, held: HeldLocks): Path<number> {
      const { arch, current, ram } = here;
      const at = kernelWord(here, lock, 4);
      current.preempt_count += 1;
      const flags = irqsave ? arch.local_irq_save(here) : 0n;
      const ret = res_spin_lock(here, held, lock, at);
      if ((yield* here.trace.decide(fn, 'res_spin_lock((rqspinlock_t *)lock)', ret)) !== 0) {
        yield* bpf_prog_report_rqspinlock_violation(here, env, REPORT_STR(ret), lock, irqsave, held);
        if (irqsave) arch.local_irq_restore(here, flags);
        current.preempt_count -= 1;
        return ret;
      }
      if (irqsave) ram.writeU64(kernelWord(here, flagsAt, 8), flags);
      return 0;
    },
  );
}

export const bpf_res_spin_lock = lockKfunc(false);
export const bpf_res_spin_lock_irqsave = lockKfunc(true);

/** bpf_res_spin_unlock() and bpf_res_spin_unlock_irqrestore(). */
function unlock(here: ThisCpu, lock: bigint, flagsAt: bigint | null, held: HeldLocks): void {
  const flags = flagsAt === null ? null : here.ram.readU64(kernelWord(here, flagsAt, 8));
  res_spin_unlock(here, held, lock, kernelWord(here, lock, 4));
  if (flags !== null) here.arch.local_irq_restore(here, flags);
  here.current.preempt_count -= 1;
}

/** Sizes are chosen, but for bpf_res_spin_lock(). */
export const LOCK_KFUNCS = {
  bpf_res_spin_lock: 0xa0,
  bpf_res_spin_unlock: 0x60,
  bpf_res_spin_lock_irqsave: 0xd0,
  bpf_res_spin_unlock_irqrestore: 0x80,
  bpf_spin_lock: 0x40,
  bpf_spin_unlock: 0x40,
};

/** The locks that one machine's programs take. */
export function lockKfuncs(env: BpfEnv, held = new HeldLocks()): Kfunc[] {
  /** irqsave_flags of each CPU. */
  const irqsave_flags = new Map<number, bigint>();
  function* lock(here: ThisCpu, [address = 0n]: readonly bigint[]): Path<bigint> {
    return returnInt(yield* bpf_res_spin_lock(here, env, address, 0n, held));
  }
  function* lock_irqsave(here: ThisCpu, [address = 0n, flags = 0n]: readonly bigint[]): Path<bigint> {
    return returnInt(yield* bpf_res_spin_lock_irqsave(here, env, address, flags, held));
  }
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* release(here: ThisCpu, [address = 0n]: readonly bigint[]): Path<bigint> {
    unlock(here, address, null, held);
    return 0n;
  }
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* release_irqrestore(here: ThisCpu, [address = 0n, flags = 0n]: readonly bigint[]): Path<bigint> {
    unlock(here, address, flags, held);
    return 0n;
  }
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* spin_lock(here: ThisCpu, [address = 0n]: readonly bigint[]): Path<bigint> {
    const word = flagWord(here, address);
    if (word.get() !== 0)
      throw new LockError(`bpf_spin_lock(${hex(address)}): it is taken, and nobody else moves`);
    here.current.preempt_count += 1;
    irqsave_flags.set(here.cpu.id, here.arch.local_irq_save(here));
    word.set(1);
    return 0n;
  }
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* spin_unlock(here: ThisCpu, [address = 0n]: readonly bigint[]): Path<bigint> {
    flagWord(here, address).set(0);
    here.arch.local_irq_restore(here, irqsave_flags.get(here.cpu.id) ?? 0n);
    here.current.preempt_count -= 1;
    return 0n;
  }
  return kfuncs(LOCK_KFUNCS, {
    bpf_res_spin_lock: lock,
    bpf_res_spin_unlock: release,
    bpf_res_spin_lock_irqsave: lock_irqsave,
    bpf_res_spin_unlock_irqrestore: release_irqrestore,
    bpf_spin_lock: spin_lock,
    bpf_spin_unlock: spin_unlock,
  });
}

/** The word of a struct bpf_spin_lock. */
function flagWord(here: ThisCpu, address: bigint): { get(): number; set(value: number): void } {
  const { ram } = here;
  const index = (kernelWord(here, address, 4) - ram.base) / 4;
  return {
    get: () => ram.words32[index] ?? 0,
    set: (value) => {
      ram.words32[index] = value;
    },
  };
}
