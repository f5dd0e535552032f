/** What the tests of mm/ share: memory of either architecture under a CPU without an engine. */
import type { ThisCpu } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { createPgtable as arm64Pgtable } from '../arch/arm64/pgtable.js';
import { layout as arm64Layout } from '../arch/arm64/setup.js';
import { DEFAULT_CONFIG } from '../arch/kernel-config.js';
import { x86 } from '../arch/x86/index.js';
import { createPgtable as x86Pgtable } from '../arch/x86/pgtable.js';
import { layout as x86Layout } from '../arch/x86/setup.js';
import type { PteWriteEvent } from '../emu/events.js';
import { Ram } from '../emu/ram.js';
import { type TestCpu, testCpu } from '../kernel/testing.js';
import { entryAt, PTE } from './descend.js';
import { Memory } from './memory.js';

export type ArchName = 'x86-64' | 'arm64';
export const ARCHS: readonly ArchName[] = ['x86-64', 'arm64'];

export interface TestMemory {
  readonly memory: Memory;
  readonly cpus: readonly TestCpu[];
  readonly here: ThisCpu;
  /** Stores to page tables since the last call, in order. */
  pteWrites(): PteWriteEvent[];
}

export function testMemory(arch: ArchName, ramSize = 32 << 20, cpuCount = 1): TestMemory {
  const isArm = arch === 'arm64';
  const layout = isArm ? arm64Layout : x86Layout;
  const pgtable = (isArm ? arm64Pgtable : x86Pgtable)(DEFAULT_CONFIG);
  const ram = new Ram(layout.physBase, ramSize);
  const memory = new Memory(ram, pgtable, layout);
  const cpus = Array.from({ length: cpuCount }, (_, id) =>
    testCpu({ id, here: { ram, arch: isArm ? arm64 : x86 } }),
  );
  memory.cpus.push(...cpus.map(({ here }) => here));
  const first = cpus[0];
  if (first === undefined) throw new RangeError('a machine has at least one CPU');
  let seen = 0;
  return {
    memory,
    cpus,
    here: first.here,
    pteWrites: () => {
      const { events } = first.log;
      const writes = events.slice(seen).filter((event) => event.type === 'pte-write');
      seen = events.length;
      return writes;
    },
  };
}

/** Physical address of the PTE of `va` in init_mm. Throws when its table is not there. */
export function ptepOf({ memory, here }: TestMemory, va: bigint): number {
  const at = entryAt(here, memory, memory.init_mm, Number(BigInt.asIntN(64, va)), PTE, false);
  if (at < 0) throw new Error(`no PTE table for ${va.toString(16)}`);
  return at;
}

/**
 * Lets the next `after` allocations of pages succeed and the `times` ones behind them fail.
 * @param owner only allocations for this owner count and fail; null: all of them
 */
export function failPages(
  { pages }: Pick<Memory, 'pages'>,
  after: number,
  times = Number.POSITIVE_INFINITY,
  owner: string | null = null,
): void {
  let [before, left] = [after, times];
  pages.refuses = (asked) => {
    if (owner !== null && asked !== owner) return false;
    before -= 1;
    if (before >= 0) return false;
    left -= 1;
    if (left <= 0) pages.refuses = null;
    return true;
  };
}
