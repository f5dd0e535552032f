/**
 * Port of mm/kfence/core.c (bpf-next merge 8496d9020ff3), as far as the fault path needs it today: which
 * addresses are KFENCE's, and what happens while it is disabled.
 *
 * Left out for now: the pool itself, its metadata, allocation, and reports. No pool exists in any machine
 * yet (`__kfence_pool` is 0), so the handler answers false for every address, as a kernel does that booted
 * with kfence.sample_interval=0.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE, type pt_regs } from '../../arch/kernel.js';
import { pageOf, u64 } from '../../emu/address.js';
import { type Delegate, type Path, port } from '../../emu/path.js';

/** CONFIG_KFENCE_NUM_OBJECTS: its default. */
export const CONFIG_KFENCE_NUM_OBJECTS = 255;
/** Bytes: a page and its guard for each object, and two pages in front. */
export const KFENCE_POOL_SIZE = (CONFIG_KFENCE_NUM_OBJECTS + 1) * 2 * PAGE_SIZE;
const POOL_SIZE = BigInt(KFENCE_POOL_SIZE);

/** KFENCE of one machine. */
export class Kfence {
  /** Address of the pool in the direct map; 0n: there is none. */
  readonly __kfence_pool = 0n;
  kfence_enabled = false;

  /** is_kfence_address(): the range test wraps, and comes before the test for a pool, as in the kernel. */
  is_kfence_address(addr: bigint): boolean {
    return u64(addr - this.__kfence_pool) < POOL_SIZE && this.__kfence_pool !== 0n;
  }

  /** True when the access is to be tried again; false when it is not KFENCE's business. */
  kfence_handle_page_fault(here: ThisCpu, addr: bigint, is_write: boolean, regs: pt_regs): Delegate<boolean> {
    return kfence_handle_page_fault(here, this, addr, is_write, regs);
  }
}

const kfence_handle_page_fault = port(
  'kfence_handle_page_fault',
  ['kfence', 'addr', 'is_write', 'regs'],
  function* (here: ThisCpu, kfence: Kfence, addr: bigint, _is_write: boolean, _regs: pt_regs): Path<boolean> {
    const { trace } = here;
    const fn = 'kfence_handle_page_fault';
    const ours = kfence.is_kfence_address(addr);
    if (yield* trace.decide(fn, '!is_kfence_address((void *)addr)', !ours)) return false;
    if (yield* trace.decide(fn, '!READ_ONCE(kfence_enabled)', !kfence.kfence_enabled)) {
      return kfence_unprotect(here, addr);
    }
    throw new Error('KFENCE is enabled, but its reports are not there yet');
  },
);

/** kfence_unprotect(): opens the page of an address; false when its mapping cannot be changed. */
function kfence_unprotect(here: ThisCpu, addr: bigint): boolean {
  return here.arch.kfence_protect_page(here, pageOf(addr), false);
}
