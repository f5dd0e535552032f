/**
 * The frame at every instruction of a function: validate_branch() of tools/objtool/check.c, with its
 * tests for functions that do not return, bpf-next merge 8496d9020ff3.
 *
 * Left out: alternatives, jump tables (what only they lead to has no entry), and warnings. Where paths with
 * different frames meet, objtool complains and the kernel's build may stop; here the frame is undefined from
 * there on.
 */
import { createRequire } from 'node:module';
import type { Decoder, Instruction } from 'iced-x86';
import {
  type cfi_state,
  cfiMatch,
  entryFor,
  type IcedModule,
  INITIAL_STATE,
  stateOfHint,
  UNDEFINED_STATE,
  type UnwindHint,
  update_cfi_state,
} from './orc-cfi.js';
import { type OrcEntry, UNDEFINED_ENTRY } from './orc-entry.js';

/** Functions that objtool knows not to return (tools/objtool/noreturns.h), of those that oopses can name. */
const NORETURNS: ReadonlySet<string> = new Set([
  '__fortify_panic',
  '__module_put_and_kthread_exit',
  '__stack_chk_fail',
  '__tdx_hypercall_failed',
  '__ubsan_handle_builtin_unreachable',
  'arch_cpu_idle_dead',
  'cpu_startup_entry',
  'do_exit',
  'do_group_exit',
  'do_task_dead',
  'ex_handler_msr_mce',
  'hlt_play_dead',
  'kthread_complete_and_exit',
  'kthread_exit',
  'machine_real_restart',
  'make_task_dead',
  'nmi_panic_self_stop',
  'panic',
  'panic_smp_self_stop',
  'rest_init',
  'rewind_stack_and_make_dead',
  'start_kernel',
  'stop_this_cpu',
  'usercopy_abort',
  'vpanic',
  'x86_64_start_kernel',
]);

export function isNoreturn(name: string): boolean {
  return NORETURNS.has(name);
}

/** What is known about a function's code. */
export interface ValidatedCode {
  /** By offset: the entry of the instruction that the byte belongs to. */
  readonly entries: readonly OrcEntry[];
  /** It has an instruction that returns, or leaves the function nobody knows where to. */
  readonly returns: boolean;
  /** Offsets, outside of the code, of the functions that it jumps to at its end. */
  readonly tailCalls: readonly number[];
}

const require = createRequire(import.meta.url);

/** Compiles its WebAssembly when required: loaded with the first function that is looked up. */
function loadIced(): IcedModule {
  return require('iced-x86') as IcedModule;
}

/**
 * @param hints of assembly code; none for what a compiler made
 * @param callEnd asked about functions that are called, by their offset from the code. Of those that it does
 *   not know, the ones are taken for dead ends behind which a path with another frame goes on
 */
export function validateCode(
  code: Uint8Array,
  hints: readonly UnwindHint[],
  callEnd: (offset: number) => CallEnd,
): ValidatedCode {
  const iced = loadIced();
  const decoder = new iced.Decoder(64, code, iced.DecoderOptions.None);
  const instruction = new iced.Instruction();
  try {
    return new Validation(iced, decoder, instruction, code, hints, callEnd).run();
  } finally {
    instruction.free();
    decoder.free();
  }
}

interface Branch {
  readonly at: number;
  readonly state: cfi_state;
  /** It comes out of a call that may never return. */
  readonly doubtful: boolean;
}

/** Does a function that is called come back? */
export type CallEnd = 'returns' | 'dead end' | 'unknown';

class Validation {
  /** By offset of the first byte: the frame before an instruction, and its length. */
  readonly #states: (cfi_state | undefined)[];
  readonly #lengths: Uint8Array;
  readonly #hints: ReadonlyMap<number, cfi_state>;
  readonly #branches: Branch[] = [];
  /** Paths that are followed when all others are. */
  readonly #afterCalls: Branch[] = [];
  /** Instructions behind a ud2. */
  readonly #afterBugs: Branch[] = [];
  #returns = false;
  readonly #tailCalls = new Set<number>();

  constructor(
    readonly iced: IcedModule,
    readonly decoder: Decoder,
    readonly instruction: Instruction,
    readonly code: Uint8Array,
    hints: readonly UnwindHint[],
    readonly callEnd: (offset: number) => CallEnd,
  ) {
    this.#states = new Array<cfi_state | undefined>(code.length);
    this.#lengths = new Uint8Array(code.length);
    this.#hints = new Map(hints.map((hint) => [hint.offset, stateOfHint(hint)]));
  }

  run(): ValidatedCode {
    this.#branches.push({ at: 0, state: INITIAL_STATE, doubtful: false });
    for (const [at, state] of this.#hints) this.#branches.push({ at, state, doubtful: false });
    this.#followAll();
    // A ud2 that something follows is one of WARN(): execution goes on there.
    for (const bug of this.#afterBugs) {
      if (this.#states[bug.at] !== undefined || this.#isPadding(bug.at)) continue;
      this.#branches.push(bug);
      this.#followAll();
    }
    return { entries: this.#entries(), returns: this.#returns, tailCalls: [...this.#tailCalls] };
  }

  #followAll(): void {
    for (;;) {
      const branch = this.#branches.pop() ?? this.#afterCalls.pop();
      if (branch === undefined) return;
      let next: Branch | null = branch;
      while (next !== null) next = this.#step(next);
    }
  }

  /** Takes one instruction; the one that follows it, or null where the path ends or has been before. */
  #step({ at, state: arriving, doubtful }: Branch): Branch | null {
    if (!(at >= 0 && at < this.code.length)) return null;
    const known = this.#states[at];
    let state = this.#hints.get(at) ?? arriving;
    if (known !== undefined) {
      if (doubtful || known === UNDEFINED_STATE || cfiMatch(known, state)) return null;
      state = UNDEFINED_STATE;
    }
    const { iced, decoder, instruction } = this;
    decoder.position = at;
    decoder.ip = BigInt(at);
    decoder.decodeOut(instruction);
    if (instruction.isInvalid) return null;
    this.#states[at] = state;
    this.#lengths[at] = instruction.length;
    const behind = {
      at: at + instruction.length,
      state: update_cfi_state(iced, instruction, state),
      doubtful: doubtful && instruction.mnemonic === iced.Mnemonic.Nop,
    };
    return this.#flow(behind);
  }

  #flow(behind: Branch): Branch | null {
    const { iced, instruction } = this;
    const { FlowControl, Mnemonic } = iced;
    switch (instruction.flowControl) {
      case FlowControl.Return:
      case FlowControl.IndirectBranch:
        this.#returns = true;
        return null;
      case FlowControl.Exception:
        this.#afterBugs.push(behind);
        return null;
      case FlowControl.Interrupt:
        return instruction.mnemonic === Mnemonic.Int3 ? null : behind;
      case FlowControl.UnconditionalBranch:
        return this.#jump(this.#target(), behind.state);
      case FlowControl.ConditionalBranch:
      case FlowControl.XbeginXabortXend: {
        this.#branches.push(behind);
        return this.#jump(this.#target(), behind.state);
      }
      case FlowControl.Call:
      case FlowControl.IndirectCall:
        return this.#call(behind);
      default:
        return behind;
    }
  }

  #call(behind: Branch): Branch | null {
    const end = this.#callEnd();
    if (end === 'unknown') this.#afterCalls.push({ ...behind, doubtful: true });
    return end === 'returns' ? behind : null;
  }

  #callEnd(): CallEnd {
    const { instruction, code } = this;
    // What is in the same code is no other function; syscall is a call for the decoder, too.
    if (instruction.isCallNear) {
      const target = this.#target();
      return target >= 0 && target < code.length ? 'returns' : this.callEnd(target);
    }
    return instruction.isCallNearIndirect ? 'unknown' : 'returns';
  }

  /** To another place of the function, or out of it: a sibling call. */
  #jump(target: number, state: cfi_state): Branch | null {
    if (target >= 0 && target < this.code.length) return { at: target, state, doubtful: false };
    this.#tailCalls.add(target);
    return null;
  }

  #target(): number {
    return Number(BigInt.asIntN(64, this.instruction.nearBranchTarget));
  }

  /** What compilers fill gaps with: int3 and nops. */
  #isPadding(at: number): boolean {
    const { iced, decoder, instruction, code } = this;
    if (at >= code.length) return true;
    decoder.position = at;
    decoder.decodeOut(instruction);
    return (
      instruction.isInvalid ||
      instruction.mnemonic === iced.Mnemonic.Nop ||
      instruction.mnemonic === iced.Mnemonic.Int3
    );
  }

  #entries(): OrcEntry[] {
    const { length } = this.code;
    const entries = new Array<OrcEntry>(length).fill(UNDEFINED_ENTRY);
    const made = new Map<string, OrcEntry>();
    for (const [at, state] of this.#states.entries()) {
      if (state === undefined) continue;
      const entry = entryFor(state);
      const key = JSON.stringify(entry);
      const same = made.get(key) ?? entry;
      made.set(key, same);
      entries.fill(same, at, at + (this.#lengths[at] ?? 0));
    }
    return entries;
  }
}
