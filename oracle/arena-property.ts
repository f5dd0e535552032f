/**
 * Random sequences on a real arena, against the model: after each step both have answered the same and hold the
 * same, and what must be true of an arena is true of the machine, whatever the model says.
 */
import { isDeepStrictEqual } from 'node:util';
import { compute_pgoff } from '../bpf/arena/arena_struct.js';
import { ARENA_PAGE_OWNER, SCRATCH_PAGE_OWNER } from '../bpf/failures.js';
import type { Engine } from '../emu/cpu.js';
import { ArenaMachine, type Sight } from './arena-machine.js';
import { ArenaModel, type Page, type Quirk } from './arena-model.js';
import { type Case, WORD } from './arena-steps.js';
import type { ArchName } from './case.js';

/** Something about an arena is not as it must be. */
export class ArenaBroken extends Error {
  override name = 'ArenaBroken';
}

/** Pages of the band. */
const BAND = 1 << 20;

/** Does all steps of a case; throws an ArenaBroken when something does not hold. Says which quirks it met. */
export function check(engine: Engine, arch: ArchName, { setup, steps }: Case): ReadonlySet<Quirk> {
  const machine = new ArenaMachine(engine, arch, setup);
  try {
    const model = new ArenaModel(setup);
    const both = new Comparison(machine, model);
    for (const [i, step] of steps.entries()) {
      try {
        const answer = machine.perform(step);
        expectSame('the answer', answer, model.perform(step));
        both.locks();
        const sight = machine.look();
        both.memory(sight);
        both.arena();
        holds(machine, sight);
        agree(machine, model, sight);
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        throw new ArenaBroken(`after step ${i + 1}, ${text(step)}: ${message}`, { cause: error });
      }
    }
    destroyed(machine);
    return model.met;
  } finally {
    machine.close();
  }
}

function expect(is: boolean, otherwise: () => string): void {
  if (!is) throw new ArenaBroken(otherwise());
}

function expectSame(what: string, actual: unknown, expected: unknown): void {
  expect(isDeepStrictEqual(actual, expected), () => `${what}: ${text(actual)}, not ${text(expected)}`);
}

function text(value: unknown): string {
  return JSON.stringify(value, (_key, each) => (typeof each === 'bigint' ? `0x${each.toString(16)}` : each));
}

/** The machine holds what the model holds. */
class Comparison {
  /** One page of the model is one page of the ram, wherever it is mapped, as long as it lives. */
  readonly #frames: Map<Page, number>;

  constructor(
    readonly machine: ArenaMachine,
    readonly model: ArenaModel,
  ) {
    this.#frames = new Map([[model.scratch, machine.arena.scratch_page]]);
  }

  /** `retry keeps the mmap lock`: nobody else gives it back, and the next munmap() would wait for ever. */
  locks(): void {
    const { machine, model } = this;
    const held = machine.processes.map(({ readers }) => readers);
    const kept = held.map((_, n) => (model.keepsLock === n ? 1 : 0));
    expectSame('the mmap locks', held, kept);
    for (const mm of machine.processes) mm.readers = 0;
    model.keepsLock = null;
  }

  memory({ kernel, users }: Sight): void {
    const { model } = this;
    this.#entries('the kernel', kernel, model.kernel);
    for (const [n, entries] of users.entries()) {
      const expected = model.users[n] ?? null;
      expectSame(`process ${n} has a mapping`, entries !== null, expected !== null);
      this.#entries(`process ${n}`, entries ?? new Map(), expected ?? new Map());
    }
  }

  arena(): void {
    const { model, machine } = this;
    const { arena, system } = machine;
    expectSame('the free pages', arena.rt.ranges(), model.free.ranges);
    const spans = arena.free_spans.map(({ uaddr, page_cnt }) => ({ low: uaddr >>> 12, count: page_cnt }));
    expectSame('the deferred ranges', spans, model.spans);
    const { irq, work } = system.bpf.work;
    expectSame('irq_work', irq.includes(arena), model.irqQueued);
    expectSame('work', work.includes(arena), model.workQueued);
  }

  #entries(whose: string, actual: ReadonlyMap<number, number>, expected: ReadonlyMap<number, Page>): void {
    for (const [at, page] of expected) {
      const pa = actual.get(at);
      expect(pa !== undefined, () => `${whose} has nothing at page ${at}`);
      if (pa === undefined) continue;
      if (!this.#frames.has(page)) this.#frames.set(page, pa);
      expect(pa === this.#frames.get(page), () => `${whose} has another page at page ${at}`);
      const word = Number(this.machine.system.ram.readU64(pa + WORD));
      expect(word === page.word, () => `${whose} has ${word} at page ${at}, not ${page.word}`);
    }
    if (actual.size === expected.size) return;
    const more = [...actual.keys()].filter((at) => !expected.has(at));
    throw new ArenaBroken(`${whose} has something at pages ${more}`);
  }
}

/** What is true of every arena, without exception. */
function holds(machine: ArenaMachine, sight: Sight): void {
  const { pages } = machine.system.memory;
  const S = machine.arena.scratch_page;
  const inUse = (pa: number) => [pages.ownerOf(pa), pages.page_ref_count(pa), pages.page_mapcount(pa)];

  // The scratch page is the arena's, once; no user has it.
  expectSame('the scratch page', inUse(S), [SCRATCH_PAGE_OWNER, 1, 0]);

  // A page is owned once: one kernel entry, and a reference for it and for each user entry.
  const users = new Map<number, number>();
  for (const entries of sight.users) {
    for (const pa of entries?.values() ?? []) users.set(pa, (users.get(pa) ?? 0) + 1);
  }
  const owned = new Set<number>();
  for (const [at, pa] of sight.kernel) {
    if (pa === S) continue;
    expect(!owned.has(pa), () => `page ${at} is mapped somewhere else as well`);
    owned.add(pa);
    const mapped = users.get(pa) ?? 0;
    const right = pages.ownerOf(pa) === ARENA_PAGE_OWNER && pages.page_ref_count(pa) === 1 + mapped;
    expect(right && pages.page_mapcount(pa) === mapped, () => `page ${at} is in use as ${inUse(pa)}`);
  }
  for (const pa of users.keys()) expect(owned.has(pa), () => 'a user has a page that the kernel has not');
  const { arena, scratch, tables } = machine.holdings();
  expectSame('pages taken', [arena, scratch, tables], [owned.size, 1, machine.atStart.tables]);
}

/** Range tree and page tables say the same. The model is asked for the exceptions only, all of them QUIRKS. */
function agree({ arena }: ArenaMachine, model: ArenaModel, sight: Sight): void {
  const real = (at: number): boolean => {
    const pa = sight.kernel.get(at);
    return pa !== undefined && pa !== arena.scratch_page;
  };
  const { max_entries } = arena.map;
  const free = new Set<number>();
  for (const [first, last] of arena.rt.ranges()) {
    for (let page = first; page <= last; page++) {
      free.add(page);
      // Exception: `free across the start`, after which an address has two numbers.
      expect(page >= BAND || !real(model.at(page)), () => `page ${page} is free and mapped`);
      // Exceptions: that one, `free below the start`, `free behind max_entries`.
      expect(page < max_entries || model.stray.has(page), () => `page ${page} is free and not the arena's`);
    }
  }
  for (let page = 0; page < max_entries; page++) {
    if (free.has(page) || real(model.at(page))) continue;
    // Exceptions: reserved pages, `split without memory …`, `freeing without memory …`, `free across the start`.
    const known = model.reserved.has(page) || model.lost.has(page);
    expect(known, () => `page ${page} is neither free nor mapped, nor reserved`);
  }
  for (const at of sight.kernel.keys()) {
    const mapped = at < BAND && real(at);
    expect(!mapped || !free.has(compute_pgoff(arena, at * 4096)), () => `page ${at} is mapped and free`);
  }
}

/** The arena goes, whatever state it is in: the page allocator has everything back but the tables of its window. */
function destroyed(machine: ArenaMachine): void {
  const { atStart } = machine;
  // Text and stack of each process go with it.
  const others = atStart.total - atStart.scratch - 2 * machine.processes.length;
  machine.destroy();
  const empty = { total: others, arena: 0, scratch: 0, tables: atStart.tables };
  expectSame('taken when it is destroyed', machine.holdings(), empty);
}
