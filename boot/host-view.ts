/**
 * What the host sees and does of a machine's memory without running guest code: through the tables,
 * whatever the rights, raising no fault. Fixtures and debuggers look this way.
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { pageOf, u64 } from '../emu/address.js';

/** A page of the range, as it is visited: its part's place in ram, in the range, and its length. */
type PageVisitor = (pa: number, offset: number, length: number) => void;

/** Visits the mapped parts of a range page by page. False at the first hole. */
function eachPage(here: ThisCpu, va: bigint, length: number, visit: PageVisitor): boolean {
  for (let offset = 0; offset < length; ) {
    const at = u64(va + BigInt(offset));
    const part = Math.min(length - offset, PAGE_SIZE - Number(at - pageOf(at)));
    const pa = here.mmu.peek(at);
    if (pa < 0 || !here.ram.contains(pa, part)) return false;
    visit(pa, offset, part);
    offset += part;
  }
  return true;
}

/** `length` bytes through the current tables of a CPU, or null when a byte of them is not mapped. */
export function readVirtual(here: ThisCpu, va: bigint, length: number): Uint8Array | null {
  const bytes = new Uint8Array(length);
  const complete = eachPage(here, va, length, (pa, offset, part) => {
    bytes.set(here.ram.read(pa, part), offset);
  });
  return complete ? bytes : null;
}

/** Stores bytes. False when one of them has no place; then nothing is stored. */
export function writeVirtual(here: ThisCpu, va: bigint, bytes: Uint8Array): boolean {
  if (!eachPage(here, va, bytes.length, () => undefined)) return false;
  return eachPage(here, va, bytes.length, (pa, offset, part) => {
    here.ram.write(pa, bytes.subarray(offset, offset + part));
  });
}
