/**
 * What a fully handled scratch fault costs: a kernel function under a BPF program stores to page after
 * page of an arena that nobody allocated. Each store is one fault: stop, walk, exception frame, the whole
 * path, stack walk, PTE, stream record, retry.
 */

import type { Arch } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { x86 } from '../arch/x86/index.js';
import { System } from '../boot/system.js';
import { arena_map_alloc, BPF_F_MMAPABLE, type bpf_arena, clear_lo32 } from '../bpf/arena.js';
import { bpf_arena_free_pages } from '../bpf/arena_pages.js';
import type { Engine } from '../emu/cpu.js';
import { type EventSink, NO_EVENTS } from '../emu/events.js';
import { drain } from '../emu/path.js';

/** Machine code of the program, which calls the function behind it, and of the function. */
interface Code {
  readonly program: (distance: number) => Uint8Array;
  readonly touchPages: string;
  /** Registers: first address, number of pages. */
  readonly registers: readonly [string, string];
}

const CODE: Record<Arch['name'], Code> = {
  'x86-64': {
    program: (distance) => {
      // push rbp; mov rbp, rsp; call touch_pages; leave; ret
      const code = Buffer.from('554889e5e800000000c9c3', 'hex');
      code.writeInt32LE(distance - 9, 5);
      return code;
    },
    // push rbp; mov rbp, rsp; 1: mov [rdi], rsi; add rdi, 4096; dec rsi; jnz 1b; pop rbp; ret
    touchPages: '554889e5' + '488937' + '4881c700100000' + '48ffce' + '75f1' + '5dc3',
    registers: ['rdi', 'rsi'],
  },
  arm64: {
    program: (distance) => {
      // stp x29, x30, [sp, #-16]!; mov x29, sp; bl touch_pages; ldp x29, x30, [sp], #16; ret
      const code = Buffer.from('fd7bbfa9fd03009100000094fd7bc1a8c0035fd6', 'hex');
      code.writeUInt32LE((0x94000000 | (((distance - 8) >> 2) & 0x3ffffff)) >>> 0, 8);
      return code;
    },
    // stp x29, x30, [sp, #-16]!; mov x29, sp;
    // 1: str x1, [x0]; add x0, x0, #1, lsl #12; subs x1, x1, #1; b.ne 1b; ldp x29, x30, [sp], #16; ret
    touchPages: 'fd7bbfa9fd030091' + '010000f9' + '00044091' + '210400f1' + 'a1ffff54' + 'fd7bc1a8c0035fd6',
    registers: ['x0', 'x1'],
  },
};

const ARCHES = { 'x86-64': x86, arm64 };

/** A machine on which scratch faults can be taken by the thousand. */
export class ScratchFaults {
  readonly system: System;
  readonly #arena: bpf_arena;
  readonly #start: bigint;
  readonly #code: Code;

  /** @param pages of the arena, at most 0x100000 */
  constructor(
    engine: Engine,
    arch: Arch['name'],
    readonly pages: number,
    sink: EventSink = NO_EVENTS,
  ) {
    this.#code = CODE[arch];
    const limits = { instructions: 1e10, milliseconds: 1e9 };
    this.system = System.boot({ arch: ARCHES[arch], engine, sink, limits });
    const system = this.system;
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
    this.#arena = map.arena;
    const touch = system.textBase('kernel');
    system.loadText({ name: 'touch_pages', start: touch, code: Buffer.from(this.#code.touchPages, 'hex') });
    this.#start = system.textBase('bpf');
    const code = this.#code.program(Number(touch - this.#start));
    system.loadProgram({ name: 'bench', start: this.#start, code, arena: this.#arena });
  }

  /** Takes a fault on each of `count` pages from page `first` on. */
  run(count: number, first = 0): void {
    const [address, counter] = this.#code.registers;
    const from = this.#arena.kern_vm_start + BigInt(first * 4096);
    const registers = new Map([
      [address, from],
      [counter, BigInt(count)],
    ]);
    const outcome = drain(this.system.call(0, this.#start, registers));
    if (outcome.kind !== 'returned') throw new Error(`the run ended otherwise: ${outcome.kind}`);
  }

  /** Makes the pages fault again: frees them, which clears the entries and flushes the TLB. */
  reset(count: number): void {
    const here = this.system.here();
    const user = clear_lo32(this.#arena.user_vm_start);
    // The kernel refuses a NULL pointer, but the arena starts at a multiple of 4 GiB that is not zero.
    drain(bpf_arena_free_pages(here, this.system.bpf, this.#arena.map, user, count));
  }

  close(): void {
    this.system.close();
  }
}
