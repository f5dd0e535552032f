/** Random questions for x86-64 MMUs: tables that mostly lead somewhere, with faults sown into them. */
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE } from '../emu/cpu.js';
import { Generator, INDICES } from './generate.js';
import {
  CR0_WP,
  CR4_LA57,
  CR4_PKE,
  CR4_SMAP,
  CR4_SMEP,
  canonical,
  EFER_NXE,
  levelsOf,
  X86_MAXPHYADDR,
  X86_RAM_SIZE,
  X86_TABLES,
  type X86Case,
} from './x86-case.js';

const SWITCHES = [CR4_SMEP, CR4_SMAP, CR4_PKE];

const CR0 = 0x8004_0033n;
/** PAE, PGE, OSFXSR. */
const CR4 = 0x2a0n;
/** SCE, LME, LMA. */
const EFER = 0x501n;

const P = 1n;
const RW = 2n;
const US = 4n;
const A = 0x20n;
const D = 0x40n;
const PS = 0x80n;
const PAT_LARGE = 0x1000n;
const NX = 1n << 63n;
/** PWT, PCD, G and the bits that are the system's in every entry. */
const IGNORED = 0x0000_0000_0000_0f18n;
const PKEY = 0xfn << 59n;
const SOFT_HIGH = 0x7fn << 52n;

/** The n-th page of tables. */
const pool = (n: number): bigint => BigInt(X86_TABLES[n] ?? 0);

export class X86Generator extends Generator<X86Case> {
  protected override anyEntry(): bigint {
    return this.entry(1 + this.random.below(4), 4);
  }

  protected override fresh(): X86Case {
    const { random } = this;
    const levels = random.chance(0.25) ? 5 : 4;
    const entries = new Map<number, bigint>();
    const root = pool(0);
    this.addresses = [];
    for (let n = 1 + random.below(3); n > 0; n--) {
      const va = this.address(levels);
      this.addresses.push(va);
      this.lay(entries, root, levels, va);
    }
    for (let n = random.below(4); n > 0; n--) {
      const pa = random.pick(X86_TABLES) + random.pick(INDICES) * 8;
      if (!entries.has(pa)) entries.set(pa, random.bits(64));
    }
    return {
      entries,
      cr0: random.chance(0.75) ? CR0 | CR0_WP : CR0,
      cr3: random.chance(0.99) ? root | random.bits(12) : random.bits(52) & ~0xfffn,
      cr4:
        CR4 |
        (levels === 5 ? CR4_LA57 : 0n) |
        (random.chance(0.5) ? CR4_SMEP : 0n) |
        (random.chance(0.4) ? CR4_SMAP : 0n) |
        (random.chance(0.5) ? CR4_PKE : 0n),
      efer: random.chance(0.85) ? EFER | EFER_NXE : EFER,
      pkru: this.pkru(),
      user: random.chance(0.5),
      ac: random.chance(0.4),
      access: random.pick([ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH]),
      va: this.near(random.pick(this.addresses), levels),
    };
  }

  protected override change(from: X86Case): X86Case {
    const { random } = this;
    switch (random.below(16)) {
      case 0:
        return { ...from, cr0: from.cr0 ^ CR0_WP };
      case 1:
        return { ...from, cr4: from.cr4 ^ random.pick([...SWITCHES, ...SWITCHES, CR4_LA57]) };
      case 2:
        if (random.chance(0.1)) return { ...from, efer: from.efer ^ EFER_NXE, cr4: from.cr4 ^ CR4_LA57 };
        return { ...from, efer: from.efer ^ (random.chance(0.4) ? EFER_NXE : 0n) };
      case 3:
        return { ...from, pkru: this.pkru() };
      case 4:
        return { ...from, user: !from.user };
      case 5:
        return random.chance(0.7)
          ? { ...from, ac: !from.ac }
          : { ...from, cr3: pool(random.below(X86_TABLES.length)) };
      case 6:
      case 7:
      case 8:
        return { ...from, access: random.pick([ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH]) };
      case 9:
      case 10:
        return { ...from, va: this.near(random.pick(this.addresses), levelsOf(from)) };
      case 11:
        return { ...from, va: random.pick(this.addresses) };
      default:
        return { ...from, entries: this.changeEntry(from) };
    }
  }

  /** Access-disable and write-disable bits of 16 keys. */
  private pkru(): number {
    const { random } = this;
    switch (random.below(4)) {
      case 0:
        return 0;
      case 1:
        return random.u32() & random.u32();
      default:
        return random.u32();
    }
  }

  private address(levels: 4 | 5): bigint {
    const { random } = this;
    let low = random.bits(12);
    for (let level = 1; level <= levels; level++) {
      const index = random.chance(0.8) ? random.pick(INDICES) : random.below(512);
      low |= BigInt(index) << BigInt(3 + level * 9);
    }
    return canonical(low, levels);
  }

  /** An address at or about one that the tables know. */
  private near(va: bigint, levels: 4 | 5): bigint {
    const { random } = this;
    const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
    switch (random.below(40)) {
      case 0:
        // The bits about the ends of 48 and 57, or any.
        return va ^ (1n << (random.chance(0.5) ? random.pick([46n, 47n, 55n, 56n, 63n]) : random.bits(6)));
      case 1:
        // Other halves, other holes: the address with other bits above.
        return u64((va & ((1n << 47n) - 1n)) | (random.bits(17) << 47n));
      case 2:
        return u64(va + random.pick([-0x1000n, 0x1000n, -0x20_0000n, 0x20_0000n, 0x4000_0000n]));
      case 3:
        return random.pick([
          ...[0n, 0x7fff_ffff_ffffn, 0x8000_0000_0000n, 0xffff_7fff_ffff_ffffn, 0xffff_8000_0000_0000n],
          ...[0xffff_ffff_ffff_ffffn, 0x00ff_ffff_ffff_ffffn, 0x0100_0000_0000_0000n, 0xff00_0000_0000_0000n],
          ...[0xfeff_ffff_ffff_ffffn, 0x001f_ffff_ffff_f000n, 0x0020_0000_0000_0000n, 0xffe0_0000_0000_0000n],
        ]);
      case 4:
        return canonical(random.bits(57), levels);
      case 5:
      case 6:
      case 7:
        // Elsewhere in what may be a large page.
        return va ^ random.bits(21);
      default:
        return va ^ random.bits(12);
    }
  }

  /** Entries from the root down to a leaf; where other ways have been, some of theirs stay. */
  private lay(entries: Map<number, bigint>, root: bigint, levels: 4 | 5, va: bigint): void {
    const { random } = this;
    let table = root;
    for (let level: number = levels; level >= 1; level--) {
      const index = (va >> BigInt(3 + level * 9)) & 511n;
      const pa = Number(table + index * 8n);
      const known = entries.get(pa);
      const entry = known !== undefined && random.chance(0.7) ? known : this.entry(level, levels);
      entries.set(pa, entry);
      if (level > 1 && (entry & PS) !== 0n) return;
      table = entry & 0x000f_ffff_ffff_f000n;
      if (!X86_TABLES.includes(Number(table))) return;
    }
  }

  /** @param level 1 for PTEs to 5 */
  private entry(level: number, levels: 4 | 5): bigint {
    const { random } = this;
    const upper = level > 1;
    let entry = random.chance(0.985) ? P : 0n;
    if (random.chance(upper ? 0.9 : 0.7)) entry |= RW;
    if (random.chance(upper ? 0.93 : 0.6)) entry |= US;
    if (random.chance(0.5)) entry |= A;
    if (random.chance(0.4)) entry |= D;
    if (random.chance(upper ? 0.05 : 0.25)) entry |= NX;
    if (random.chance(0.6)) entry |= random.bits(64) & IGNORED;
    if (random.chance(0.5)) entry |= random.bits(64) & (random.chance(0.5) ? PKEY : SOFT_HIGH);
    if (random.chance(0.012)) entry |= 1n << BigInt(X86_MAXPHYADDR + random.below(52 - X86_MAXPHYADDR));
    if (level === 1) {
      if (random.chance(0.3)) entry |= PS;
      return entry | this.frame(12);
    }
    const large = level === 2 || level === 3 ? random.chance(0.2) : random.chance(0.01);
    if (!large) return entry | this.table(level - 1, levels);
    entry |= PS | this.frame(level === 3 ? 30 : 21);
    if (random.chance(0.3)) entry |= PAT_LARGE;
    if (random.chance(0.06)) entry |= 1n << BigInt(13 + random.below(level === 3 ? 17 : 8));
    return entry;
  }

  /** A page of tables of a level: mostly one of the two, sometimes any, or none. */
  private table(level: number, levels: 4 | 5): bigint {
    const { random } = this;
    if (random.chance(0.006)) return BigInt(X86_RAM_SIZE) + (random.bits(X86_MAXPHYADDR) & ~0xf_ffffn);
    if (random.chance(0.04)) return pool(random.below(X86_TABLES.length));
    return pool(1 + (levels - level - 1) * 2 + random.below(2));
  }

  /** A page of `bits` address bits, in the ram or anywhere. */
  private frame(bits: number): bigint {
    const { random } = this;
    const below = random.chance(0.4) ? 21 : X86_MAXPHYADDR;
    return random.bits(below) & ~((1n << BigInt(bits)) - 1n);
  }
}
