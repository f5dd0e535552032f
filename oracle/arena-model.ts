/**
 * An arena as its documentation has it: which page is where, which pages are free, and what each step answers.
 * Nothing of bpf/ is used here. A page of memory is an object with the one word of it that is looked at.
 *
 * The places in which the kernel modelled does not do what one would expect are QUIRKS; whatever makes an
 * exception to a rule says which one it is, and they are counted, so that a test can see that none is idle.
 */
import { EBUSY, EINVAL } from '../kernel/errno.js';
import { ACROSS, type Failure, guardPage, PROCESSES, type Setup, type Step, WORD } from './arena-steps.js';
import { FreeRanges } from './free-ranges.js';

const P = 4096;
const BAND = 1 << 20;
/** KMALLOC_MAX_CACHE_SIZE / sizeof(struct page *) */
const BATCH = 1024;

export const QUIRKS = {
  'free revives a scratched page':
    'bpf_arena_free_pages() takes the scratch page away: the address, dead for allocations and users, lives again',
  'scratch keeps failing allocations without an address':
    'a scratched page is still free: an allocation that finds it fails, and the next one finds it again',
  'reserved page goes to a user': 'a user fault on a page that is reserved gets a page all the same',
  'failed user fault gives a reserved page back':
    'a user fault that finds no memory makes its page free, reserved or not',
  'misaligned reserve': 'bpf_arena_reserve_pages() of a misaligned address says 0 and reserves nothing',
  'split without memory loses pages':
    'a range that cannot be cut in two for want of memory loses what lies behind the cut',
  'freeing without memory loses pages':
    'pages that come free and need a range of their own are lost when there is no memory',
  'free below the start':
    'nobody checks that a range to be freed begins inside: pages below the start become free ones',
  'free across the start':
    'a range to be freed that begins below the start and reaches into the arena: its pages there come free under numbers from 2^20 on, their own numbers stay taken, and both mean the same addresses',
  'free behind max_entries':
    'a mapping longer than max_entries: its last pages become free ones when they are freed',
  'page behind the mapping':
    'a mapping shorter than max_entries: an allocation without an address may get a page behind it',
  'deferred free leaks': 'a deferred free without memory for its record leaves the pages mapped and taken',
  'retry keeps the mmap lock':
    'a user fault that does not get the lock of the arena is tried again with the mmap lock still held',
} as const;
export type Quirk = keyof typeof QUIRKS;

/** A page of memory. */
export interface Page {
  word: number;
}

/** What a step answers. */
export interface Answer {
  /** What the kfunc returned, 64 bits; what was loaded; null for nothing. */
  readonly value: bigint | null;
  /** `segv` for SIGSEGV. */
  readonly outcome: 'returned' | 'segv';
  /** `READ` or `WRITE` and the address, for each report of a program. */
  readonly reports: readonly string[];
}

interface Span {
  readonly low: number;
  readonly count: number;
}

const NOTHING: Answer = { value: null, outcome: 'returned', reports: [] };

export class ArenaModel {
  /** Kernel entries by page of the window. A page of its own, or the scratch page. */
  readonly kernel = new Map<number, Page>();
  readonly scratch: Page = { word: 0 };
  readonly free: FreeRanges;
  /** Newest first. */
  spans: Span[] = [];
  irqQueued = false;
  workQueued = false;
  /** For each process: null without a mapping, else its entries by page from the start. */
  readonly users: (Map<number, Page> | null)[] = new Array(PROCESSES).fill(null);
  /** Pages that are taken and have no page of memory: reserved, or lost for want of memory. */
  readonly reserved = new Set<number>();
  readonly lost = new Set<number>();
  /** Free pages that are none of the arena's. */
  readonly stray = new Set<number>();
  /** Process that keeps its mmap lock. */
  keepsLock: number | null = null;
  readonly met = new Set<Quirk>();
  readonly #setup: Setup;
  /** Page of the window at which the mapping starts. */
  readonly #base: number;
  #failure: { what: Failure['what']; after: number } | null = null;

  constructor(setup: Setup) {
    this.#setup = setup;
    this.#base = Number((setup.user & 0xffff_ffffn) >> 12n);
    this.free = new FreeRanges(() => !this.#fails('range_node'));
    this.free.set(0, setup.max_entries);
    // Without map_extra the arena is where the first process has mapped it.
    if (!setup.map_extra) this.users[0] = new Map();
  }

  /** Page of the window of a page number: the band is indexed by the low half of the user address. */
  at(page: number): number {
    return (this.#base + page) & (BAND - 1);
  }

  perform(step: Step): Answer {
    this.#failure = step.failure === null ? null : { ...step.failure };
    const answer = this.#perform(step);
    this.#failure = null;
    return answer;
  }

  #perform(step: Step): Answer {
    switch (step.do) {
      case 'alloc': {
        const at = step.anywhere ? null : this.#address(step.page, step.off);
        return { ...NOTHING, value: this.#alloc(at, step.count, step.by !== 'non-sleepable') };
      }
      case 'free':
        if (step.count > 0) this.#free(this.at(step.page), step.count, step.by === 'program');
        return NOTHING;
      case 'reserve':
        return { ...NOTHING, value: BigInt(this.#reserve(step.page, step.off, step.count)) };
      case 'deferred':
        if (step.run !== 'worker' && this.irqQueued) {
          this.irqQueued = false;
          this.workQueued = true;
        }
        if (step.run !== 'irq_work' && this.workQueued) this.#worker();
        return NOTHING;
      case 'kernel touch':
        return this.#kernelTouch(step.guard ? BAND + guardPage(step.page) : this.at(step.page), step);
      case 'program touch':
        return this.#programTouch(this.at(step.page), step);
      case 'user touch':
        return this.#userTouch(step.process, step.page, step.store);
      case 'mmap':
        this.users[step.process] ??= new Map();
        return NOTHING;
      case 'munmap':
        this.users[step.process] = null;
        return NOTHING;
    }
  }

  #fails(what: Failure['what']): boolean {
    const failure = this.#failure;
    if (failure?.what !== what) return false;
    failure.after -= 1;
    if (failure.after >= 0) return false;
    this.#failure = null;
    return true;
  }

  #address(page: number, off: number): bigint {
    return this.#setup.user + BigInt(page * P + off);
  }

  /** compute_pgoff(): wraps below the start. */
  #pgoff(low: number): number {
    return (low - this.#base) & (BAND - 1);
  }

  #alloc(address: bigint | null, count: number, sleepable: boolean): bigint {
    const { mapped: max, user } = this.#setup;
    if (count === 0 || count > max) return 0n;
    let pgoff = 0;
    if (address !== null) {
      if (address % BigInt(P) !== 0n) return 0n;
      pgoff = this.#pgoff(Number((address & 0xffff_ffffn) >> 12n));
      if (pgoff > max - count) return 0n;
    }
    if (this.#fails('pages') || this.#fails('spinlock')) return 0n;
    if (address === null) pgoff = this.free.find(count);
    else if (this.free.isSet(pgoff, count) !== 0) return 0n;
    if (pgoff < 0) return 0n;
    if (this.#take(pgoff, count) !== 0) return 0n;

    const mapped = this.#map(pgoff, count);
    if (mapped === count) {
      if (pgoff < BAND / 2 && pgoff + count > max) this.met.add('page behind the mapping');
      return (user & 0xffff_ffff_0000_0000n) + BigInt(this.at(pgoff) * P);
    }
    this.#give(pgoff + mapped, count - mapped);
    if (mapped > 0) this.#free(this.at(pgoff), mapped, sleepable);
    return 0n;
  }

  /** Maps new pages, batch by batch; how many. */
  #map(pgoff: number, count: number): number {
    for (let done = 0; done < count; ) {
      const batch = Math.min(BATCH, count - done);
      for (let i = 0; i < batch; i++) if (this.#fails('page')) return done;
      for (let i = 0; i < batch; i++) {
        const at = this.at(pgoff) + done + i;
        if (this.kernel.has(at)) {
          this.met.add('scratch keeps failing allocations without an address');
          return done + i;
        }
        this.kernel.set(at, { word: 0 });
      }
      done += batch;
    }
    return count;
  }

  /** range_tree_clear(): what is not free any more, and why. */
  #take(pgoff: number, count: number): number {
    const before = this.free.ranges;
    const err = this.free.clear(pgoff, count);
    for (let page = pgoff; page < pgoff + count; page++) this.stray.delete(page);
    if (err === 0) return 0;
    this.met.add('split without memory loses pages');
    const cut = before.find(([first, last]) => first <= pgoff && pgoff <= last);
    for (let page = pgoff; page <= (cut?.[1] ?? pgoff); page++) {
      this.lost.add(page);
      this.stray.delete(page);
    }
    return err;
  }

  /** range_tree_set(), whose result nobody looks at. */
  #give(pgoff: number, count: number): void {
    const err = this.free.set(pgoff, count);
    if (err !== 0) this.met.add('freeing without memory loses pages');
    for (let page = pgoff; page < pgoff + count; page++) {
      this.reserved.delete(page);
      if (err !== 0) this.lost.add(page);
      else this.lost.delete(page);
      if (err !== 0 || page < this.#setup.max_entries) continue;
      this.stray.add(page);
      if (page < BAND / 2) this.met.add('free behind max_entries');
      else if (page < BAND) this.met.add('free below the start');
    }
  }

  #free(low: number, wanted: number, sleepable: boolean): void {
    const { user, mapped } = this.#setup;
    const full = (user & 0xffff_ffff_0000_0000n) + BigInt(low * P);
    const left = Number((user + BigInt(mapped * P) - full) / BigInt(P));
    const count = Math.min(wanted, left);
    if (count <= 0) return;
    if (!sleepable || this.#fails('spinlock')) {
      if (this.#fails('arena_free_span')) {
        this.met.add('deferred free leaks');
        return;
      }
      this.spans.unshift({ low, count });
      this.irqQueued = true;
      return;
    }
    this.#give(this.#pgoff(low), count);
    this.#unmap(low, count);
    this.#misnamed(this.#pgoff(low), count);
  }

  /** Pages that came free under another number than their own. */
  #misnamed(pgoff: number, count: number): void {
    for (let page = 0; page < pgoff + count - BAND; page++) {
      this.met.add('free across the start');
      if (!this.free.has(page)) this.lost.add(page);
    }
  }

  #unmap(low: number, count: number): void {
    for (let at = low; at < low + count; at++) {
      if (this.kernel.get(at) === this.scratch) this.met.add('free revives a scratched page');
      this.kernel.delete(at);
      for (const entries of this.users) entries?.delete(at - this.#base);
    }
  }

  #worker(): void {
    if (this.#fails('spinlock')) return;
    this.workQueued = false;
    const { spans } = this;
    this.spans = [];
    for (const { low, count } of spans) {
      this.#unmap(low, count);
      this.#give(this.#pgoff(low), count);
      this.#misnamed(this.#pgoff(low), count);
    }
  }

  #reserve(page: number, off: number, count: number): number {
    if (count === 0) return 0;
    if (off !== 0) {
      this.met.add('misaligned reserve');
      return 0;
    }
    const pgoff = this.#pgoff(this.at(page));
    if (pgoff + count > this.#setup.mapped) return -EINVAL;
    if (this.#fails('spinlock')) return -EBUSY;
    if (this.free.isSet(pgoff, count) !== 0) return -EBUSY;
    const err = this.#take(pgoff, count);
    if (err === 0) for (let each = pgoff; each < pgoff + count; each++) this.reserved.add(each);
    return err;
  }

  #kernelTouch(first: number, { place, store }: Extract<Step, { do: 'kernel touch' }>): Answer {
    const reports: string[] = [];
    for (const at of place === ACROSS ? [first, first + 1] : [first]) {
      if (this.kernel.has(at)) continue;
      this.kernel.set(at, this.scratch);
      reports.push(this.#report(store, BigInt(at * P)));
    }
    return { value: this.#access(this.kernel.get(first), place, store), outcome: 'returned', reports };
  }

  #programTouch(first: number, { place, store }: Extract<Step, { do: 'program touch' }>): Answer {
    const missing = (place === ACROSS ? [first, first + 1] : [first]).some((at) => !this.kernel.has(at));
    if (!missing) return { ...NOTHING, value: this.#access(this.kernel.get(first), place, store) };
    const reports = [this.#report(store, BigInt(first * P + place))];
    return { value: store === null ? 0n : null, outcome: 'returned', reports };
  }

  #report(store: number | null, offset: bigint): string {
    const address = (this.#setup.user & 0xffff_ffff_0000_0000n) + offset;
    return `${store === null ? 'READ' : 'WRITE'} 0x${address.toString(16)}`;
  }

  /** Loads, or stores, the word; what lies across two pages is not looked at. */
  #access(page: Page | undefined, place: number, store: number | null): bigint | null {
    if (page === undefined) throw new Error('the model touches a page that is not there');
    if (place !== WORD) return null;
    if (store === null) return BigInt(page.word);
    page.word = store;
    return null;
  }

  #userTouch(process: number, page: number, store: number | null): Answer {
    const entries = this.users[process] ?? null;
    const segv: Answer = { ...NOTHING, outcome: 'segv' };
    if (entries === null || page < 0 || page >= this.#setup.mapped) return segv;
    if (!entries.has(page)) {
      const found = this.#userFault(process, page);
      if (found === null) return segv;
      entries.set(page, found);
    }
    return { ...NOTHING, value: this.#access(entries.get(page), WORD, store) };
  }

  #userFault(process: number, pgoff: number): Page | null {
    if (this.#fails('spinlock')) {
      this.met.add('retry keeps the mmap lock');
      this.keepsLock = process;
    }
    const at = this.at(pgoff);
    const there = this.kernel.get(at);
    if (there === this.scratch) return null;
    if (there !== undefined) return there;
    if (this.#setup.segvOnFault) return null;
    if (this.#take(pgoff, 1) !== 0) return null;
    const reserved = this.reserved.has(pgoff);
    if (this.#fails('page')) {
      if (reserved) this.met.add('failed user fault gives a reserved page back');
      this.#give(pgoff, 1);
      return null;
    }
    if (reserved) this.met.add('reserved page goes to a user');
    this.reserved.delete(pgoff);
    this.lost.delete(pgoff);
    const page = { word: 0 };
    this.kernel.set(at, page);
    return page;
  }
}
