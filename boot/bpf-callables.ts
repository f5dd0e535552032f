/**
 * The functions of the kernel that BPF programs and their callers need, and their places: always the same ones, so
 * that the bytes of calls stay right. They get their code, and pages for it, when a machine needs the first of them.
 */
import type { ChainLink, KernelFunction, TestRunKind } from '../arch/arch.js';
import { LoopTime, mayGotoFunctions } from '../bpf/may_goto.js';
import { lockKfuncs } from '../bpf/rqspinlock_kfuncs.js';
import { streamKfuncs } from '../bpf/stream/stream_kfuncs.js';
import { trampolineFunctions } from '../bpf/struct_ops/trampoline.js';
import type { LinkCallTarget } from '../bpf/verifier/link.js';
import type { KernelSymbol } from '../kernel/kallsyms.js';
import { arenaFunctions, KFUNCS, sectionFunctions } from './bpf-functions.js';
import type { HostFunction } from './host-functions.js';
import { placeBpfFunctions } from './image.js';
import { schedExtFunctions } from './sched-ext-functions.js';
import type { System } from './system.js';

/** Calls of helpers are relative to it in BPF instructions. Nobody calls the function itself. */
const CALL_BASE: KernelFunction = { name: '__bpf_call_base', size: 0x20 };
/** May_goto calls it, with registers of its own. */
const MAY_GOTO: KernelFunction = { name: 'arch_bpf_timed_may_goto', size: 0x40 };
/** ret; int3 */
const RETURN_THUNK = { name: '__x86_return_thunk', size: 0x10, code: Uint8Array.of(0xc3, 0xcc) };

/** Time that passes with each look of a may_goto loop at the clock: it ends when it looks the second time. */
const NANOSECONDS_PER_LOOK = 250_000_000;

export class BpfCallables {
  /** Addresses by name. */
  readonly addresses: ReadonlyMap<string, bigint>;
  readonly #system: System;
  readonly #functions: readonly HostFunction[];
  readonly #symbols: readonly KernelSymbol[];
  #placed = false;
  #chain: TestRunKind | null = null;

  constructor(system: System) {
    this.#system = system;
    const { arch, bpf, maps } = system;
    // The order is that of the addresses.
    const groups: readonly (readonly HostFunction[])[] = [
      arenaFunctions({ env: bpf, maps }),
      trampolineFunctions(),
      streamKfuncs(bpf),
      lockKfuncs(bpf),
      mayGotoFunctions(bpf, new LoopTime(system.kernel.clock, NANOSECONDS_PER_LOOK)),
      sectionFunctions(),
      schedExtFunctions(bpf),
    ];
    this.#functions = groups.flat();
    const image = new Set(arch.kernelFunctions.map(({ name }) => name));
    const links = [...arch.testRun.chain('syscall'), ...arch.testRun.chain('skb')].filter(
      ({ name }, i, all) => !image.has(name) && all.findIndex((other) => other.name === name) === i,
    );
    const reports = Object.values(arch.bpfReports).map(({ fn, size }) => ({ name: fn, size }));
    // Groups that are not there yet keep their room.
    const room: (readonly KernelFunction[])[] = Array.from({ length: GROUPS }, (_, i) => groups[i] ?? []);
    this.#symbols = placeBpfFunctions(arch, [
      ...room,
      [CALL_BASE, RETURN_THUNK, MAY_GOTO, ...reports],
      links,
    ]);
    this.addresses = new Map(this.#symbols.map(({ name, start }) => [name, start]));
  }

  /** Names that fixtures may use: what can be called. */
  get names(): readonly string[] {
    return this.#functions.map(({ name }) => name);
  }

  /** Gives the functions their code. */
  place(): void {
    if (this.#placed) return;
    this.#placed = true;
    for (const symbol of this.#symbols) {
      const host = this.#functions.find(({ name }) => name === symbol.name) ?? null;
      this.#system.placeFunction(symbol, this.#codeOf(symbol), host);
    }
  }

  /** Code of a function that has no body on the host. */
  #codeOf({ name, start }: KernelSymbol): Uint8Array {
    switch (name) {
      case RETURN_THUNK.name:
        return RETURN_THUNK.code;
      case MAY_GOTO.name: {
        const check = this.addresses.get('bpf_check_timed_may_goto') ?? start;
        return this.#system.arch.timedMayGoto(Number(check - start));
      }
      default:
        return new Uint8Array();
    }
  }

  /** Address of a function; places it. Throws when there is none of that name. */
  addressOf(name: string): bigint {
    const address = this.addresses.get(name);
    if (address === undefined) throw new Error(`no function ${name} that programs call`);
    this.place();
    return address;
  }

  get callBase(): bigint {
    return this.addressOf(CALL_BASE.name);
  }

  get returnThunk(): bigint {
    return this.addressOf(RETURN_THUNK.name);
  }

  /** What `call NAME` in BPF text may name. */
  targets(): Map<string, LinkCallTarget> {
    const targets = new Map<string, LinkCallTarget>();
    for (const [id, { name }] of this.#functions.entries()) {
      const known = KFUNCS[name];
      if (known === undefined) continue;
      const { non_sleepable } = known;
      targets.set(name, {
        address: this.addressOf(name),
        kind: known.helper === undefined ? 'kfunc' : 'helper',
        returns: known.returns,
        args: known.args,
        non_sleepable: non_sleepable === undefined ? null : this.addressOf(non_sleepable),
        aux_register: known.aux_register ?? null,
        id: known.helper ?? id + 1,
      });
    }
    targets.set(MAY_GOTO.name, {
      address: this.addressOf(MAY_GOTO.name),
      kind: 'helper',
      returns: 'void',
      args: null,
      non_sleepable: null,
      aux_register: null,
      id: 0,
    });
    return targets;
  }

  /** The functions between a system call and the program get their code; address of the first of them. */
  placeChain(kind: TestRunKind): bigint {
    this.place();
    const { arch, kernel } = this.#system;
    const at = (name: string): bigint => kernel.kallsyms.kallsyms_lookup_name(name);
    const chain = arch.testRun.chain(kind);
    const [entry] = chain;
    if (entry === undefined) throw new Error(`no way to programs of kind ${kind}`);
    if (this.#chain === kind) return at(entry.name);
    this.#chain = kind;
    for (const [i, link] of chain.entries()) this.#placeLink(link, at(link.name), i === 0, chain[i + 1], at);
    return at(entry.name);
  }

  #placeLink(
    link: ChainLink,
    start: bigint,
    isEntry: boolean,
    next: ChainLink | undefined,
    at: (name: string) => bigint,
  ): void {
    const { arch } = this.#system;
    const place = isEntry ? 'entry' : next === undefined ? 'last' : 'middle';
    const target = next === undefined ? start : at(next.name);
    const out = Number(this.#system.here().cpu.sentinel - start);
    const code = arch.testRun.code(link, place, Number(target - start), out);
    this.#system.placeFunction({ name: link.name, start, size: link.size, kind: 'text' }, code, null);
  }
}

/** Rooms for groups of functions; few of them are in use. */
const GROUPS = 8;
