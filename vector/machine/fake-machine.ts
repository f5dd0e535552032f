/** For tests: a machine whose run is a list of events made by hand. */

import type { Arch, Pgtable } from '../../arch/arch.js';
import type { Event, RunOutcome } from '../../emu/events.js';
import type { Delegate, Path } from '../../emu/path.js';
import type { RaisedStop } from '../../emu/run.js';
import { type Fixture, parseFixture } from '../format/load.js';
import { Source } from '../format/source.js';
import type { CallContext, EntryView, Machine, PagesCall } from './machine.js';
import type { ArenaMachine, ArenaView } from './machine-arena.js';

export const KERN = 0xffffc90001e69000n;
export const SCRATCH_ENTRY = 0x8000000001234163n;
/** A page of the fake memory that is mapped; everything else is not. */
export const MAPPED = 0xffffc90001000000n;

/** The page table format, as far as checks use it: bit 0 is presence. */
const pgtable = {
  pte_none: (v: bigint) => v === 0n,
  pte_present: (v: bigint) => (v & 1n) === 1n,
} as Partial<Pgtable> as Pgtable;

const arch = {
  name: 'x86-64',
  generalRegisters: ['rax', 'rbx'],
  describeWalk: () => ['PTE not present'],
  describeFault: () => ['W=1: write'],
} as Partial<Arch> as Arch;

/** One fault of the usual kind: a kernel write that the arena recovers. */
export function scratchFault(address = 0xffffc9002806c000n): Event[] {
  const cpu = 0;
  const enter = (fn: string): Event => ({ type: 'enter', cpu, fn, argNames: ['addr'], args: [address] });
  const leave = (fn: string, value: boolean | undefined): Event => ({ type: 'leave', cpu, fn, value });
  return [
    {
      type: 'walk',
      cpu,
      va: address,
      access: 'write',
      user: false,
      levels: [{ level: 'pte', entryPa: 0x5000, entry: 0n }],
      verdict: 'not present',
      at: 'pte',
    },
    { type: 'fault', cpu, exception: '#PF', pc: 0xffffffff81000004n, address, code: 2n, access: 'write' },
    enter('page_fault_oops'),
    { type: 'decide', cpu, fn: 'page_fault_oops', test: 'error_code & X86_PF_PROT', value: false },
    { type: 'decide', cpu, fn: 'page_fault_oops', test: 'nr', value: 3 },
    enter('kfence_handle_page_fault'),
    leave('kfence_handle_page_fault', false),
    enter('bpf_arena_handle_page_fault'),
    {
      type: 'pte-write',
      cpu,
      by: 'ptep_try_set',
      level: 'pte',
      pa: 0x5000,
      old: 0n,
      value: SCRATCH_ENTRY,
      changed: true,
    },
    {
      type: 'stream',
      cpu,
      program: 'prog',
      stream: 'stderr',
      dropped: false,
      text: () => `ERROR: Arena WRITE access at unmapped address 0x7f7d26203000\nCPU: 0\n\n`,
    },
    leave('bpf_arena_handle_page_fault', true),
    {
      type: 'console',
      cpu,
      level: 4,
      text: 'first line\nsecond line',
      time: 12_345_678,
      caller: 'T100',
    },
    leave('page_fault_oops', undefined),
    { type: 'resolved', cpu, how: 'retry', pc: 0xffffffff81000004n },
  ];
}

export class FakeMachine implements Machine {
  readonly arch = arch;
  readonly pgtable = pgtable;
  readonly events: Event[] = [];
  readonly registerNames = ['rax', 'rbx', 'rip'];
  readonly calls: string[] = [];
  readonly kfence = null;
  readonly bpf = {
    testRun: () => at(this.outcome),
    returned: () => 0n,
    instructionAt: () => null,
    streamRead: () => at({ ret: 4n, text: 'foo\n' }),
  };
  readonly scope = {
    name: (name: string) => ({ f: 0xffffffff81000000n, EBUSY: 16n, SIGSEGV: 11n })[name] ?? 0n,
    member: () => KERN,
    call: () => SCRATCH_ENTRY,
  };

  /** @param script events and outcome of every run */
  constructor(
    readonly script: readonly Event[],
    readonly outcome: RunOutcome = { kind: 'returned' },
  ) {}

  nameOf(address: bigint): string | null {
    return address >= 0xffffffff81000000n && address < 0xffffffff81000010n
      ? `f+0x${(address - 0xffffffff81000000n).toString(16)}`
      : null;
  }
  readRegister(_cpu: number, name: string): bigint {
    return name === 'rax' ? 0x4141n : 0n;
  }
  call(
    cpu: number,
    _pc: bigint,
    _registers: ReadonlyMap<string, bigint>,
    context: CallContext,
    raised: RaisedStop | null,
  ): Delegate<RunOutcome> {
    const state = Object.entries(context).map(([key, value]) => `, ${key} ${value}`);
    if (raised !== null) this.calls.push(`call ${raisedText(raised)}${state.join('')}`);
    return this.#run(cpu);
  }
  user(
    cpu: number,
    _pc: bigint,
    _registers: ReadonlyMap<string, bigint>,
    raised: RaisedStop | null,
  ): Delegate<RunOutcome> {
    if (raised !== null) this.calls.push(`user ${raisedText(raised)}`);
    return this.#run(cpu);
  }
  #run(cpu: number): Delegate<RunOutcome> {
    this.events.push(...this.script, { type: 'outcome', cpu, outcome: this.outcome });
    return at(this.outcome);
  }
  readMemory(_cpu: number, va: bigint, length: number): Uint8Array | null {
    if (va < MAPPED || va + BigInt(length) > MAPPED + 4096n) return null;
    return Uint8Array.from({ length }, (_, i) => (Number(va & 0xfffn) + i) & 0xff);
  }
  writeMemory(_cpu: number, va: bigint): boolean {
    return va >= MAPPED && va < MAPPED + 4096n;
  }
  readEntry(_cpu: number, va: bigint, level: string | null): EntryView | null {
    if (level === 'pmd') return { level: 'pmd', value: 0x2063n };
    if (va === MAPPED) return { level: 'pte', value: 0x8000000000001163n };
    if (va === KERN) return { level: 'pte', value: SCRATCH_ENTRY };
    return va === 0n ? null : { level: 'pte', value: 0n };
  }
  writeEntry(): boolean {
    return true;
  }
  flushTlb(): void {}
  keepTlb(_cpu: number, va: bigint): boolean {
    return va === MAPPED;
  }
  pagesCall(_cpu: number, call: PagesCall): Delegate<bigint> {
    this.calls.push(
      `${call.fn} ${call.arena} ${call.address} ${call.page_cnt} ${BigInt.asIntN(64, call.node_id)}`,
    );
    return at(BigInt.asUintN(64, -16n));
  }
  runDeferred(): Delegate<void> {
    this.calls.push('run_deferred');
    return at(undefined);
  }
  destroyArena(_cpu: number, name: string): Delegate<void> {
    this.calls.push(`destroy ${name}`);
    return at(undefined);
  }
  arena(): ArenaView {
    return {
      pages: 2,
      scratched: 1,
      free: 14,
      ranges: [
        [0, 2],
        [5, 15],
      ],
      deferred: [[3, 3]],
      queued: 'irq_work',
      user_vm_start: 0x7f7d26200000n,
      user_vm_end: 0x7f7d26210000n,
      mappings: 1,
    };
  }
  readonly arenas: ArenaMachine = {
    exists: () => true,
    create: (_cpu, name) => this.#syscall(`create ${name}`),
    mmap: (_cpu, { arena, addr, prot, flags }) =>
      this.#syscall(`mmap ${arena} ${addr} ${prot} ${flags.join()}`),
    munmap: (_cpu, { addr, length }) => this.#syscall(`munmap ${addr} ${length}`),
    mremap: (_cpu, { addr, length, new_length }) => this.#syscall(`mremap ${addr} ${length} ${new_length}`),
    fork: (_cpu, { child }) => this.#syscall(`fork ${child}`),
    exit: (_cpu, process) => {
      this.calls.push(`exit ${process}`);
      return at(undefined);
    },
    failing: (_inject, work) => work(),
    frame: (_cpu, va) => (va === MAPPED ? { pa: 0x1000, refs: 2, mapped: 1, owner: 'bpf arena' } : null),
    inUse: () => 3,
    areas: 1,
  };
  #syscall(text: string): Delegate<bigint> {
    this.calls.push(text);
    return at(BigInt.asUintN(64, -16n));
  }
  watch(): () => void {
    return () => undefined;
  }
  isScratch(entry: bigint): boolean {
    return entry === SCRATCH_ENTRY;
  }
  advance(microseconds: number): void {
    this.calls.push(`advance ${microseconds}`);
  }
  taint(): string {
    return 'Not tainted';
  }
  close(): void {}
}

/** A path that is at its end. */
// biome-ignore lint/correctness/useYield: it decides nothing
function* at<T>(value: T): Path<T> {
  return value;
}

function raisedText({ number, syndrome, address }: RaisedStop): string {
  return `raised ${number} ${syndrome.toString(16)} ${address.toString(16)}`;
}

/** A loaded fixture with one arena `a`, programs `prog` and `other` and a function `f`. */
export function fakeFixture(body: string): Fixture {
  const head = [
    'name: fake',
    'arch: x86-64',
    'arenas: { a: { max_entries: 16 } }',
    'programs: { prog: { arena: a }, other: {} }',
    'text: [{ symbol: f, asm: ret }]',
  ];
  const result = parseFixture(new Source('fake.yaml', `${head.join('\n')}\n${body}`));
  if (!result.ok) throw new Error(result.errors.map((error) => error.format()).join('\n'));
  return result.fixture;
}
