/**
 * A machine on which scratch faults can be taken by the thousand: a kernel function under a BPF program
 * stores to page after page of an arena that nobody allocated. Each store is one fault: stop, walk,
 * exception frame, the whole path, stack walk, PTE, stream record, retry.
 */
import { System } from '../boot/system.js';
import { arena_map_alloc } from '../bpf/arena/arena.js';
import { bpf_arena_free_pages } from '../bpf/arena/arena_pages.js';
import { BPF_F_MMAPABLE, type bpf_arena, clear_lo32 } from '../bpf/arena/arena_struct.js';
import type { Engine } from '../emu/cpu.js';
import { type EventSink, NO_EVENTS } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { ARCHES, type ArchName, argumentsOf, GUEST_CODE } from './guest-code.js';
import { NO_LIMITS } from './kernel-code.js';
import type { Subject } from './subject.js';

export interface ScratchOptions {
  readonly sink?: EventSink;
  /** Bytes; what a machine has that does not say. */
  readonly ramBytes?: number;
}

export class ScratchMachine {
  readonly system: System;
  readonly arena: bpf_arena;
  /** Where the program begins. */
  readonly start: bigint;
  readonly #arch: ArchName;

  /** @param pages of the arena, at most 0x100000 */
  constructor(engine: Engine, arch: ArchName, pages: number, options: ScratchOptions = {}) {
    this.#arch = arch;
    this.system = System.boot({
      arch: ARCHES[arch],
      engine,
      sink: options.sink ?? NO_EVENTS,
      limits: NO_LIMITS,
      ramBytes: options.ramBytes,
    });
    const { system } = this;
    const map = drain(
      arena_map_alloc(system.here(), system.bpf, {
        key_size: 0,
        value_size: 0,
        max_entries: pages,
        map_flags: BPF_F_MMAPABLE,
        map_extra: 0x7f7d_0000_0000n,
        name: 'bench',
      }),
    );
    if (typeof map === 'number' || map.arena === null) throw new Error(`no arena: errno ${map}`);
    this.arena = map.arena;
    const { touchPages, caller } = GUEST_CODE[arch];
    const touch = system.textBase('kernel');
    system.loadText({ name: 'touch_pages', start: touch, code: touchPages.code });
    this.start = system.textBase('bpf');
    const code = caller(Number(touch - this.start));
    system.loadProgram({ name: 'bench', start: this.start, code, arena: this.arena });
  }

  /** Registers with which the program stores to `count` pages from page `first` on. */
  registers(count: number, first = 0): Map<string, bigint> {
    const from = this.arena.kern_vm_start + BigInt(first * 4096);
    return argumentsOf(GUEST_CODE[this.#arch].touchPages, from, BigInt(count));
  }

  /** Takes a fault on each of `count` pages from page `first` on. */
  touch(count: number, first = 0): void {
    const outcome = drain(this.system.call(0, this.start, this.registers(count, first)));
    if (outcome.kind !== 'returned') throw new Error(`the run ended otherwise: ${outcome.kind}`);
  }

  /** Makes the first `count` pages fault again: frees them, which clears the entries and flushes the TLB. */
  free(count: number): void {
    const user = clear_lo32(this.arena.user_vm_start);
    // The kernel refuses a NULL pointer, but the arena starts at a multiple of 4 GiB that is not zero.
    drain(bpf_arena_free_pages(this.system.here(), this.system.bpf, this.arena.map, user, count));
  }

  close(): void {
    this.system.close();
  }
}

/** The whole of it. */
export class ScratchFault implements Subject {
  readonly #machine: ScratchMachine;

  constructor(
    engine: Engine,
    arch: ArchName,
    readonly rounds: number,
    sink: EventSink = NO_EVENTS,
  ) {
    this.#machine = new ScratchMachine(engine, arch, rounds, { sink });
  }

  run(): void {
    this.#machine.touch(this.rounds);
  }
  reset(): void {
    this.#machine.free(this.rounds);
  }
  close(): void {
    this.#machine.close();
  }
}
