/** Random questions for arm64 MMUs: tables that mostly lead somewhere, with faults sown into them. */
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, type AccessCode } from '../emu/cpu.js';
import {
  ARM64_RAM_BASE,
  ARM64_RAM_SIZE,
  ARM64_TABLES,
  type Arm64Case,
  bit,
  isHigh,
  SCTLR_EPAN,
  SCTLR_M,
  SCTLR_WXN,
  TCR_IPS,
} from './arm64-case.js';
import { Generator, INDICES } from './generate.js';

const VALID = 1n;
const TABLE = 2n;
const EL0 = bit(6);
const RDONLY = bit(7);
const AF = bit(10);
const DBM = bit(51);
const CONT = bit(52);
const PXN = bit(53);
const UXN = bit(54);
/** AttrIndx, NS, SH, nG, GP, RES0 bits, and the bits that are the system's. */
const IGNORED = 0x8787_0000_0000_0b3cn;
const ADDRESS = 0x0000_ffff_ffff_f000n;

/** Granules, write-back walks, ASIDs of 16 bits: TG1 = 2. */
const TCR = bit(31) | bit(36) | 0x3500_3500n;
const SMALLEST = 16;
const LARGEST = 39;

/** The n-th page of tables. */
const pool = (n: number): bigint => BigInt(ARM64_TABLES[n] ?? 0);

export class Arm64Generator extends Generator<Arm64Case> {
  protected override asked(question: Arm64Case): Arm64Case {
    return question.access === ACCESS_FETCH ? { ...question, va: question.va & ~3n } : question;
  }

  protected override anyEntry(): bigint {
    return this.entry(this.random.below(4), 0);
  }

  protected override fresh(): Arm64Case {
    const { random } = this;
    let tcr = TCR | (random.chance(0.5) ? 5n << 32n : BigInt(random.below(6)) << 32n);
    for (const shift of [0n, 16n]) {
      tcr |= this.size() << shift;
    }
    // EPD, TBI, HA, HD, HPD, TBID, E0PD
    for (const [place, chance] of [
      ...([
        [7, 0.02],
        [23, 0.02],
        [37, 0.5],
        [38, 0.5],
        [39, 0.2],
        [40, 0.4],
        [41, 0.3],
        [42, 0.3],
      ] as const),
      ...([
        [51, 0.3],
        [52, 0.3],
        [55, 0.1],
        [56, 0.1],
      ] as const),
    ]) {
      if (random.chance(chance)) tcr |= bit(place);
    }
    const draft = {
      tcr,
      ttbr0: this.root(pool(0), tcr & 0x3fn),
      ttbr1: this.root(pool(1), (tcr >> 16n) & 0x3fn),
    };
    const entries = new Map<number, bigint>();
    this.addresses = [];
    for (let n = 1 + random.below(3); n > 0; n--) {
      const va = this.address(draft.tcr);
      this.addresses.push(va);
      this.lay(entries, draft, va);
    }
    for (let n = random.below(4); n > 0; n--) {
      const pa = random.pick(ARM64_TABLES) + random.pick(INDICES) * 8;
      if (!entries.has(pa)) entries.set(pa, random.bits(64));
    }
    return {
      ...draft,
      entries,
      sctlr: SCTLR_M | (random.chance(0.15) ? SCTLR_WXN : 0n) | (random.chance(0.2) ? SCTLR_EPAN : 0n),
      unprivileged: random.chance(0.4),
      ldtr: random.chance(0.4),
      pan: random.chance(0.3),
      access: random.pick([ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH] as readonly AccessCode[]),
      va: this.near(random.pick(this.addresses), draft.tcr),
    };
  }

  /** TnSZ: the common one, those at which something changes, any. */
  private size(): bigint {
    const { random } = this;
    if (random.chance(0.5)) return BigInt(SMALLEST);
    if (random.chance(0.5)) return random.pick([24n, 25n, 29n, 30n, 31n, 32n, 33n, 33n, 34n, 35n, 39n]);
    return BigInt(SMALLEST + random.below(LARGEST - SMALLEST + 1));
  }

  protected override change(from: Arm64Case): Arm64Case {
    const { random } = this;
    switch (random.below(16)) {
      case 0:
        return { ...from, tcr: from.tcr ^ bit(random.pick([7, 23, 37, 37, 38, 38, 39, 40, 41, 41, 42, 42])) };
      case 1:
        return { ...from, tcr: from.tcr ^ bit(random.pick([51, 52, 55, 56])) };
      case 2:
        if (random.chance(0.2)) {
          const shift = random.pick([0n, 16n]);
          return { ...from, tcr: (from.tcr & ~(0x3fn << shift)) | (this.size() << shift) };
        }
        if (random.chance(0.3)) return { ...from, ttbr0: bit(random.pick([32, 36, 40, 42, 44])) };
        return { ...from, tcr: (from.tcr & ~TCR_IPS) | (BigInt(random.below(6)) << 32n) };
      case 3:
        return { ...from, sctlr: from.sctlr ^ random.pick([SCTLR_WXN, SCTLR_EPAN]) };
      case 4:
        return { ...from, unprivileged: !from.unprivileged, ldtr: random.chance(0.4) };
      case 5:
        return random.chance(0.7) ? { ...from, pan: !from.pan } : this.changeRoot(from);
      case 6:
      case 7:
      case 8:
        return {
          ...from,
          access: random.pick([ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH] as readonly AccessCode[]),
        };
      case 9:
      case 10:
        return { ...from, va: this.near(random.pick(this.addresses), from.tcr) };
      case 11:
        return { ...from, va: random.pick(this.addresses) };
      default:
        return { ...from, entries: this.changeEntry(from) };
    }
  }

  private changeRoot(from: Arm64Case): Arm64Case {
    const { random } = this;
    const other = pool(random.below(4));
    switch (random.below(3)) {
      case 0:
        return { ...from, ttbr0: other };
      case 1:
        return { ...from, ttbr1: other };
      default:
        return { ...from, ttbr0: from.ttbr1, ttbr1: from.ttbr0 };
    }
  }

  /** A root table; one of less than 4 KiB may lie anywhere in its page. */
  private root(page: bigint, size: bigint): bigint {
    const { random } = this;
    if (random.chance(0.015)) return this.far();
    const top = 64n - size;
    const entries = 1n << (top - 12n - 9n * ((top - 13n) / 9n));
    const bytes = entries * 8n < 64n ? 64n : entries * 8n;
    const places = 4096n / bytes;
    // CnP and an ASID.
    const beside = random.chance(0.2) ? 1n | (random.bits(16) << 48n) : 0n;
    return beside + page + (places > 1n && random.chance(0.5) ? random.bits(12) % places : 0n) * bytes;
  }

  private address(tcr: bigint): bigint {
    const { random } = this;
    let low = random.bits(12);
    for (let level = 1; level <= 4; level++) {
      const index = random.chance(0.8) ? random.pick(INDICES) : random.below(512);
      low |= BigInt(index) << BigInt(3 + level * 9);
    }
    const high = random.chance(0.5);
    const size = (high ? tcr >> 16n : tcr) & 0x3fn;
    const inHalf = BigInt.asUintN(Number(64n - size), low);
    return high ? BigInt.asUintN(64, inHalf - (1n << (64n - size))) : inHalf;
  }

  /** An address at or about one that the tables know. */
  private near(va: bigint, tcr: bigint): bigint {
    const { random } = this;
    const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
    switch (random.below(40)) {
      case 0:
        return va ^ bit(random.below(64));
      case 1:
      case 2:
        // Another tag.
        return u64((va & ((1n << 56n) - 1n)) | (random.bits(8) << 56n));
      case 3: {
        // About the end of its half.
        const size = (isHigh(va) ? tcr >> 16n : tcr) & 0x3fn;
        const end = isHigh(va) ? -(1n << (64n - size)) : 1n << (64n - size);
        return u64(end + random.pick([-1n, 0n, 1n, -0x1000n, 0x1000n]));
      }
      case 4:
        return u64(va + random.pick([-0x1000n, 0x1000n, -0x20_0000n, 0x20_0000n, 0x4000_0000n]));
      case 5:
        return random.pick([
          0n,
          0n,
          0xffff_ffff_ffffn,
          bit(48),
          0xffff_0000_0000_0000n,
          0xffff_ffff_ffff_ffffn,
        ]);
      case 6:
      case 7:
      case 8:
        // Elsewhere in what may be a block.
        return va ^ random.bits(21);
      default:
        return va ^ random.bits(12);
    }
  }

  /** Entries from the root down to a leaf; where other ways have been, some of theirs stay. */
  private lay(
    entries: Map<number, bigint>,
    { tcr, ttbr0, ttbr1 }: Pick<Arm64Case, 'tcr' | 'ttbr0' | 'ttbr1'>,
    va: bigint,
  ): void {
    const { random } = this;
    const bits = Number(64n - ((isHigh(va) ? tcr >> 16n : tcr) & 0x3fn));
    const first = 4 - Math.ceil((bits - 12) / 9);
    const inHalf = BigInt.asUintN(bits, va);
    let table = (isHigh(va) ? ttbr1 : ttbr0) & 0x0000_ffff_ffff_fffen;
    for (let level = first; level <= 3; level++) {
      if (!ARM64_TABLES.includes(Number(table) - (Number(table) % 4096))) return;
      const shift = BigInt(39 - 9 * level);
      const pa = Number(table + ((inHalf >> shift) & 511n) * 8n);
      const known = entries.get(pa);
      const entry = known !== undefined && random.chance(0.7) ? known : this.entry(level, first);
      entries.set(pa, entry);
      if ((entry & 3n) !== 3n) return;
      table = entry & ADDRESS;
    }
  }

  private entry(level: number, first: number): bigint {
    const { random } = this;
    const leaf = level === 3 || random.chance(level === 0 ? 0.01 : 0.2);
    let entry = random.chance(0.985) ? VALID : 0n;
    if (random.chance(0.6)) entry |= random.bits(64) & IGNORED;
    if (!leaf) {
      // NSTable, APTable, UXNTable, PXNTable
      if (random.chance(0.15)) entry |= random.bits(5) << 59n;
      if (random.chance(0.2)) entry |= random.bits(64) & 0x0078_0000_0000_0fc0n;
      return entry | TABLE | this.table(level + 1, first);
    }
    if (level === 3 && random.chance(0.97)) entry |= TABLE;
    if (random.chance(0.6)) entry |= EL0;
    if (random.chance(0.35)) entry |= RDONLY;
    if (random.chance(0.93)) entry |= AF;
    if (random.chance(0.3)) entry |= DBM;
    if (random.chance(level < 3 ? 0.25 : 0.05)) entry |= CONT;
    if (random.chance(0.2)) entry |= PXN;
    if (random.chance(0.2)) entry |= UXN;
    if (random.chance(0.2)) entry |= random.bits(4) << 59n;
    entry |= this.frame(39 - 9 * level);
    if (level < 3 && random.chance(0.05))
      entry |= random.bits(30) & ((1n << BigInt(39 - 9 * level)) - 0x1000n);
    return entry;
  }

  /** A page of tables of a level: mostly one of the two, sometimes any, or none. */
  private table(level: number, first: number): bigint {
    const { random } = this;
    if (random.chance(0.01)) return this.far();
    if (random.chance(0.04)) return pool(random.below(ARM64_TABLES.length));
    if (level <= first) return pool(2);
    return pool(2 + (level - 1) * 2 + random.below(2));
  }

  /** An address outside the ram: anywhere, or just where an output size ends. */
  private far(): bigint {
    const { random } = this;
    if (random.chance(0.4)) return random.bits(48) & ADDRESS;
    const one = bit(random.chance(0.7) ? random.pick([32, 36, 40, 42, 44]) : 32 + random.below(16));
    return random.chance(0.5) ? one : one | BigInt(ARM64_RAM_BASE);
  }

  /** A page or block: mostly such that its start is in the ram. */
  private frame(bits: number): bigint {
    const { random } = this;
    if (random.chance(0.05)) return this.far() & ~((1n << BigInt(bits)) - 1n);
    const inRam = BigInt(ARM64_RAM_BASE) + (random.bits(32) % BigInt(ARM64_RAM_SIZE));
    return inRam & ~((1n << BigInt(bits)) - 1n);
  }
}
