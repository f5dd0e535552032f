/**
 * Port of mm/kfence/core.c (bpf-next merge 8496d9020ff3), the parts that set KFENCE up and switch it on and
 * off: the pool, parameters, the timer of the gate, the panic notifier.
 *
 * Left out: slab marks of the object pages (the allocator asks KFENCE first), static keys and the notifier
 * of reboots, the metadata's own pages.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { KERN_ERR, KERN_INFO, PAGE_SIZE } from '../../arch/kernel.js';
import { hex } from '../../emu/address.js';
import { drain } from '../../emu/path.js';
import { EBUSY, EINVAL, ENOMEM } from '../../kernel/errno.js';
import { MachineRefusal } from '../../kernel/machine-refusal.js';
import { map_kernel_range } from '../map.js';
import { PageAllocatorError, TABLE_OWNER } from '../page_alloc.js';
import { check_canary } from './canary.js';
import { kfence_metadata, kfence_obj_allocated } from './kfence.js';
import type { Kfence } from './state.js';

const PAGE = BigInt(PAGE_SIZE);
/** Owner name of the pool's pages. */
export const POOL_OWNER = 'kfence pool';

const pr_err = (here: ThisCpu, text: string): void => here.kernel.printk(here, KERN_ERR, `kfence: ${text}`);
const pr_info = (here: ThisCpu, text: string): void => here.kernel.printk(here, KERN_INFO, `kfence: ${text}`);

/** kfence_alloc_pool_and_metadata() and kfence_init(): what boot does. */
export function kfenceBoot(here: ThisCpu, kfence: Kfence): void {
  kfence_alloc_pool_and_metadata(here, kfence);
  kfence.stack_hash_seed = kfence.settings.random.get_random_u32();
  if (kfence.kfence_sample_interval === 0) return;
  if (!kfence_init_pool_early(here, kfence)) {
    pr_err(here, 'kfence_init failed');
    return;
  }
  kfence_init_enable(here, kfence);
}

function kfence_alloc_pool_and_metadata(here: ThisCpu, kfence: Kfence): void {
  if (kfence.kfence_sample_interval === 0) return;
  if (kfence.settings.kasan_hw_tags) {
    pr_info(here, 'disabled as KASAN HW tags are enabled');
    kfence.kfence_sample_interval = 0;
    return;
  }
  if (!takePool(here, kfence)) pr_err(here, 'failed to allocate pool');
}

/**
 * The pool's pages: the last ones of the ram, where memblock looks first, or those that the given address
 * has in the direct map. False when they are not to be had.
 */
function takePool(here: ThisCpu, kfence: Kfence): boolean {
  const { memory } = kfence.deps;
  const { ram, layout, pages } = memory;
  const size = kfence.KFENCE_POOL_SIZE;
  const { pool: wanted } = kfence.settings;
  if (wanted % PAGE !== 0n) throw new MachineRefusal(`${hex(wanted)}: the KFENCE pool begins with a page`);
  const offset = wanted - layout.directMap;
  const inDirectMap = offset >= 0n && offset < BigInt(ram.size);
  const pa = wanted !== 0n && inDirectMap ? layout.physBase + Number(offset) : ram.end - size;
  if (pa < ram.base || pa + size > ram.end) return false;
  try {
    pages.reserve(pa, size / PAGE_SIZE, POOL_OWNER);
  } catch (error) {
    if (error instanceof PageAllocatorError) return false;
    throw error;
  }
  if (wanted !== 0n && !inDirectMap) {
    // A direct map that was moved there.
    const { pgtable, init_mm } = memory;
    const prot = pgtable.PAGE_LINEAR;
    const err = map_kernel_range(here, memory, init_mm, wanted, pa, size / PAGE_SIZE, prot);
    if (err !== 0) throw new MachineRefusal(`the KFENCE pool cannot be mapped at ${hex(wanted)}`);
  }
  kfence.poolPa = pa;
  kfence.__kfence_pool = wanted !== 0n ? wanted : layout.directMap + BigInt(pa - layout.physBase);
  return true;
}

/** 0n, or the address up to which it got. */
function kfence_init_pool(here: ThisCpu, kfence: Kfence): bigint {
  const { memory } = kfence.deps;
  const { random } = kfence.settings;
  const pool = kfence.__kfence_pool;
  const newTable = (): number | null => memory.pages.takeFrame(TABLE_OWNER);
  if (!here.arch.arch_kfence_init_pool(here, pool, kfence.KFENCE_POOL_SIZE, newTable)) return pool;

  let addr = pool;
  for (let i = 0; i < 2; i++, addr += PAGE) if (!kfence.kfence_protect(here, addr)) return addr;
  const count = kfence.num_objects;
  const metadata = Array.from({ length: count }, (_, index) => new kfence_metadata(index));
  for (const { index } of metadata) {
    const object = addr + BigInt(index) * 2n * PAGE;
    if (!kfence.kfence_protect(here, object + PAGE)) return object;
  }

  const order = metadata.map(({ index }) => index);
  for (let i = count; i > 0; i--) {
    const r = random.get_random_u32_below(i);
    const last = order[i - 1] ?? 0;
    order[i - 1] = order[r] ?? 0;
    order[r] = last;
  }
  kfence.kfence_freelist.length = 0;
  for (const index of order) {
    const meta = metadata[index];
    if (meta === undefined) continue;
    meta.listed = true;
    kfence.kfence_freelist.push(meta);
  }
  for (const meta of metadata) meta.addr = kfence.objectPage(meta.index);
  kfence.kfence_metadata = metadata;
  return 0n;
}

function kfence_init_pool_early(here: ThisCpu, kfence: Kfence): boolean {
  if (kfence.__kfence_pool === 0n) return false;
  const addr = kfence_init_pool(here, kfence);
  if (addr === 0n) return true;
  givePoolBack(here, kfence, addr);
  return false;
}

/** The pages from `addr` on are no pool any more; what lies before stays protected, and nobody's. */
function givePoolBack(here: ThisCpu, kfence: Kfence, addr: bigint): void {
  const { pages } = kfence.deps.memory;
  const end = kfence.poolPa + kfence.KFENCE_POOL_SIZE;
  for (let pa = kfence.physical(addr); pa < end; pa += PAGE_SIZE) pages.free_page(here, pa);
  kfence.__kfence_pool = 0n;
}

function kfence_init_enable(here: ThisCpu, kfence: Kfence): void {
  kfence.checksOnPanic = kfence.settings.check_on_panic;
  enable(kfence);
  const pointer = (address: bigint): string => `0x${here.kernel.hashed_pointer(address)}`;
  const size = kfence.KFENCE_POOL_SIZE;
  const pool = kfence.__kfence_pool;
  const range = `${pointer(pool)}-${pointer(pool + BigInt(size))}`;
  pr_info(here, `initialized - using ${size} bytes for ${kfence.num_objects} objects at ${range}`);
}

function enable(kfence: Kfence): void {
  kfence.kfence_enabled = true;
  kfence.timerAt = kfence.deps.clock.microseconds;
}

/** toggle_allocation_gate() as often as its time has come. The clock stands still while code runs. */
export function runTimer(kfence: Kfence): void {
  const now = kfence.deps.clock.microseconds;
  while (kfence.timerAt <= now) {
    if (!kfence.kfence_enabled) {
      kfence.timerAt = Number.NaN;
      return;
    }
    kfence.kfence_allocation_gate = -kfence.settings.burst;
    kfence.timerAt += Math.max(1, kfence.kfence_sample_interval) * 1000;
  }
}

/**
 * param_set_sample_interval(): a write to /sys/module/kfence/parameters/sample_interval.
 * @param num milliseconds; 0 switches KFENCE off
 * @returns 0 or a negative errno
 */
export function param_set_sample_interval(here: ThisCpu, kfence: Kfence, num: number): number {
  if (num === 0 && kfence.kfence_enabled) {
    pr_info(here, 'disabled');
    kfence.kfence_enabled = false;
  }
  if (num !== 0 && kfence.settings.kasan_hw_tags) {
    pr_info(here, 'disabled as KASAN HW tags are enabled');
    return -EINVAL;
  }
  kfence.kfence_sample_interval = num;
  if (num === 0 || kfence.kfence_enabled) return 0;
  return kfence.disabled_by_warn ? -EINVAL : kfence_enable_late(here, kfence);
}

/** param_get_sample_interval(): what reading the parameter gives. */
export function param_get_sample_interval(kfence: Kfence): number {
  return kfence.kfence_enabled ? kfence.kfence_sample_interval : 0;
}

function kfence_enable_late(here: ThisCpu, kfence: Kfence): number {
  if (kfence.__kfence_pool === 0n) return kfence_init_late(here, kfence);
  enable(kfence);
  pr_info(here, 're-enabled');
  return 0;
}

function kfence_init_late(here: ThisCpu, kfence: Kfence): number {
  if (!takePool(here, kfence)) return -ENOMEM;
  const addr = kfence_init_pool(here, kfence);
  if (addr === 0n) {
    kfence_init_enable(here, kfence);
    return 0;
  }
  pr_err(here, 'kfence_init_late failed');
  givePoolBack(here, kfence, addr);
  return -EBUSY;
}

/** kfence_check_canary_callback(): the panic notifier of kfence.check_on_panic. */
export function kfence_check_all_canary(here: ThisCpu, kfence: Kfence): void {
  if (!kfence.checksOnPanic || !kfence.kfence_enabled) return;
  for (const meta of kfence.kfence_metadata ?? []) {
    if (!kfence_obj_allocated(meta)) continue;
    drain(
      check_canary(here, kfence, meta, [
        'kfence_check_canary_callback',
        'notifier_call_chain',
        'atomic_notifier_call_chain',
        'panic',
      ]),
    );
  }
}
