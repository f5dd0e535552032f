/**
 * lookup_address(): port of that part of arch/x86/mm/pat/set_memory.c, bpf-next merge 8496d9020ff3. Left out:
 * the rights of the upper levels but NX.
 */
import type { Ptep, ThisCpu } from '../arch.js';
import {
  entryPa,
  p4d_leaf,
  p4d_none,
  p4d_offset,
  p4d_present,
  pgd_none,
  pmd_leaf,
  pmd_none,
  pmd_present,
  pte_exec,
  pud_leaf,
  pud_none,
  pud_present,
  tablePa,
} from './pgtable.js';

/** An entry found by lookup_address(). */
export interface LookedUp {
  readonly level: 'p4d' | 'pud' | 'pmd' | 'pte';
  readonly ptep: Ptep;
  readonly entry: bigint;
  /** NX of any table entry above. */
  readonly nx: boolean;
  /** The root entry. */
  readonly pgd: bigint;
}

/**
 * lookup_address_in_pgd_attr(): the entry that maps `va`, or the place where it would be. Null where a
 * level above holds nothing, or where a table is not in ram.
 *
 * @param root physical address of the root table
 * @param l5 pgtable_l5_enabled()
 */
export function lookup_address_in_pgd(here: ThisCpu, root: number, va: bigint, l5 = false): LookedUp | null {
  const { ram } = here;
  const pgdp = entryPa('pgd', root, va, l5);
  if (!ram.contains(pgdp, 8)) return null;
  const pgd = ram.readU64(pgdp);
  if (pgd_none(pgd, l5)) return null;
  let nx = !pte_exec(pgd);

  const p4dp = p4d_offset(pgdp, pgd, va, l5);
  if (!ram.contains(p4dp, 8)) return null;
  const p4d = ram.readU64(p4dp);
  if (p4d_none(p4d)) return null;
  if (p4d_leaf(p4d) || !p4d_present(p4d)) return { level: 'p4d', ptep: p4dp, entry: p4d, nx, pgd };
  nx ||= !pte_exec(p4d);

  const pudp = entryPa('pud', tablePa(p4d), va);
  if (!ram.contains(pudp, 8)) return null;
  const pud = ram.readU64(pudp);
  if (pud_none(pud)) return null;
  if (pud_leaf(pud) || !pud_present(pud)) return { level: 'pud', ptep: pudp, entry: pud, nx, pgd };
  nx ||= !pte_exec(pud);

  const pmdp = entryPa('pmd', tablePa(pud), va);
  if (!ram.contains(pmdp, 8)) return null;
  const pmd = ram.readU64(pmdp);
  if (pmd_none(pmd)) return null;
  if (pmd_leaf(pmd) || !pmd_present(pmd)) return { level: 'pmd', ptep: pmdp, entry: pmd, nx, pgd };
  nx ||= !pte_exec(pmd);

  const ptep = entryPa('pte', tablePa(pmd), va);
  if (!ram.contains(ptep, 8)) return null;
  return { level: 'pte', ptep, entry: ram.readU64(ptep), nx, pgd };
}
