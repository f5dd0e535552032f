/**
 * What KASAN adds to a general protection fault: kasan_non_canonical_hook() of mm/kasan/report.c with the
 * numbers of arch/x86/include/asm/kasan.h, four levels (bpf-next merge 8496d9020ff3).
 */
import { hex16, u64 } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import { KERN_ALERT } from '../kernel.js';
import { TASK_SIZE_MAX } from './processor.js';

const KASAN_SHADOW_OFFSET = 0xdfff_fc00_0000_0000n;
const KASAN_SHADOW_START = 0xffff_ec00_0000_0000n;
const KASAN_SHADOW_END = KASAN_SHADOW_START + (1n << 44n);
const KASAN_GRANULE_SIZE = 8n;

/**
 * The compiled-in check of an access reads the shadow of its address first; with a wild pointer that read
 * is what faults. The line tells which access it must have been.
 */
export function kasan_non_canonical_hook(here: ThisCpu, addr: bigint): void {
  if (addr < KASAN_SHADOW_OFFSET) return;
  const orig_addr = u64((addr - KASAN_SHADOW_OFFSET) << 3n);
  const range = `[0x${hex16(orig_addr)}-0x${hex16(u64(orig_addr + KASAN_GRANULE_SIZE - 1n))}]`;
  here.kernel.printk(here, KERN_ALERT, `KASAN: ${bugType(addr, orig_addr)} in range ${range}`);
}

function bugType(addr: bigint, orig_addr: bigint): string {
  if (orig_addr < 4096n) return 'null-ptr-deref';
  if (orig_addr < TASK_SIZE_MAX) return 'probably user-memory-access';
  const inShadow = addr >= KASAN_SHADOW_START && addr < KASAN_SHADOW_END;
  return inShadow ? 'probably wild-memory-access' : 'maybe wild-memory-access';
}
