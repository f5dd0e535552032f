/**
 * From BPF text to native code: what bpf_check() and jit_subprogs() (kernel/bpf/verifier.c, kernel/bpf/fixups.c,
 * bpf-next merge 8496d9020ff3) do around the verifier proper. The functions of a program are laid one behind the
 * other, checked and rewritten as one (verifier.ts), then compiled one by one, twice: once for their sizes, once
 * at their addresses.
 */
import { EINVAL, ENOTSUPP } from '../../kernel/errno.js';
import { BPF_LD_IMM64, BPF_PSEUDO_FUNC, type bpf_insn } from '../insn.js';
import { type JitArena, JitError, type JitedFunction, type JitFunction } from '../jit/jit.js';
import type { bpf_line_info } from '../program.js';
import type { BpfSourceLine } from '../text/asm.js';
import { type LoadedText, loadTexts } from './link-load.js';
import { bpf_prog_calc_tag } from './link-tag.js';
import type { LinkCallTarget, LinkedFunction, LinkedProgram, LinkInput } from './link-types.js';
import { type Verified, VerifierError } from './verifier.js';
import { check_cfg, check_max_stack_depth, check_subprogs } from './verifier-cfg.js';
import { do_check } from './verifier-check.js';
import { fixups, type RewrittenFunction } from './verifier-fixups.js';
import { check_insns } from './verifier-insns.js';
import type { Callee } from './verifier-ops.js';

export type * from './link-types.js';
export { VerifierError } from './verifier.js';

/** Where the verifier calls arch_bpf_timed_may_goto() by this name. */
const TIMED_MAY_GOTO = 'arch_bpf_timed_may_goto';

/**
 * bpf_check() and jit_subprogs(). Throws a VerifierError for what the verifier refuses, a JitError with the function and
 * the slot of its text for what the JIT refuses, and a RangeError for an input that does not fit together (a name twice, a call of what is not there).
 */
export function linkProgram(input: LinkInput): LinkedProgram {
  const loaded = loadTexts(input);
  check_subprogs(loaded.verifier);
  check_insns(loaded.verifier);
  check_cfg(loaded.verifier);
  const verified = do_check(loaded.verifier);
  check_max_stack_depth(loaded.verifier, verified.stack_depth, (slot) => verified.aux[slot]?.seen === true);
  const functions = fixups(loaded.verifier, verified, new Set(loaded.lines.keys()));
  return new Linker(input, loaded, verified, functions).link();
}

/** sizeof(struct exception_table_entry), of both architectures. */
const EXTABLE_ENTRY_SIZE = 12;

/** Bytes of an image with its exception table. The code may end before that: arm64 reserves room for far calls. */
function imageSize({ code, extable, extableOffset }: JitedFunction): number {
  return Math.max(code.length, extableOffset) + extable.length * EXTABLE_ENTRY_SIZE;
}

class Linker {
  /** Number of each function among those that are left, by its number when it was loaded. */
  readonly #numbers: ReadonlyMap<number, number>;
  readonly #images: bigint[] = [];

  constructor(
    readonly input: LinkInput,
    readonly loaded: LoadedText,
    readonly verified: Verified,
    readonly functions: readonly RewrittenFunction[],
  ) {
    this.#numbers = new Map(functions.map(({ subprog }, i) => [subprog, i]));
  }

  link(): LinkedProgram {
    const { input, functions } = this;
    const calls = functions.map((fn) => this.#withCalls(fn));
    const tags = functions.map((_, i) => (i === 0 ? this.loaded.tag : bpf_prog_calc_tag(calls[i] ?? [])));
    // Nobody has an address yet; all that counts is that calls reach what they call.
    const sizes = functions.map((fn, i) => this.#compile(fn, calls[i] ?? [], input.callBase));
    for (const [i, jited] of sizes.entries()) this.#images.push(input.place(imageSize(jited), this.#name(i)));
    return {
      arena: this.loaded.arena?.name ?? null,
      functions: functions.map((fn, i) => {
        const image = this.#images[i] ?? 0n;
        const jited = this.#compile(fn, calls[i] ?? [], image);
        const size = sizes[i];
        if (size === undefined || imageSize(jited) !== imageSize(size)) {
          const name = this.#name(i);
          throw new JitError(`${name} has another size at its address`, null, -ENOTSUPP, name);
        }
        return this.#linked(fn, this.#finalInsns(fn, calls[i] ?? []), i, tags[i] ?? '', image, jited);
      }),
    };
  }

  #name(i: number): string {
    return this.loaded.verifier.subprogs[this.functions[i]?.subprog ?? 0]?.name ?? '';
  }

  /** Calls and addresses of functions as jit_subprogs() leaves them in front of the first pass. */
  #withCalls({ insns, callees }: RewrittenFunction): bpf_insn[] {
    const result = insns.map((insn, i) => {
      const callee = callees.get(i);
      return callee === undefined ? insn : this.#withCall(insn, callee);
    });
    const { MODULES_VADDR } = this.input.arch;
    for (const [i, insn] of result.entries()) {
      const high = result[i + 1];
      if (insn.code !== BPF_LD_IMM64 || insn.src_reg !== BPF_PSEUDO_FUNC || high === undefined) continue;
      result[i] = { ...insn, imm: low(MODULES_VADDR) };
      result[i + 1] = { ...high, imm: low(MODULES_VADDR >> 32n) };
    }
    return result;
  }

  #withCall(insn: bpf_insn, callee: Callee): bpf_insn {
    switch (callee.kind) {
      case 'subprog':
        return { ...insn, off: this.#numbers.get(callee.subprog) ?? 0, imm: 1 };
      case 'timed_may_goto':
        return { ...insn, imm: this.#callImm(this.#timedMayGoto()) };
      case 'kernel': {
        const target = this.#target(callee.slot);
        const address = addressOf(target, callee);
        if (target.kind === 'kfunc' && this.input.arch.far_kfunc_call) return { ...insn, imm: target.id };
        const imm = this.#callImm(address);
        if (target.kind === 'kfunc' && BigInt(imm) !== BigInt.asIntN(64, address - this.input.callBase)) {
          const message = `address of kernel func_id ${target.id} is out of range`;
          throw new VerifierError(message, -EINVAL, ...this.loaded.at(callee.slot));
        }
        return { ...insn, imm };
      }
    }
  }

  #target(slot: number): LinkCallTarget {
    const target = this.loaded.targets.get(slot);
    if (target === undefined) throw new RangeError(`slot ${slot} calls nothing`);
    return target;
  }

  #timedMayGoto(): bigint {
    const target = this.input.targets.get(TIMED_MAY_GOTO);
    if (target === undefined)
      throw new RangeError(`may_goto needs ${TIMED_MAY_GOTO}() among the call targets`);
    return target.address;
  }

  /** BPF_CALL_IMM() */
  #callImm(address: bigint): number {
    return low(address - this.input.callBase);
  }

  #addressOf(callee: Callee | undefined): bigint {
    switch (callee?.kind) {
      case 'subprog':
        return this.#images[this.#numbers.get(callee.subprog) ?? 0] ?? this.input.callBase;
      case 'timed_may_goto':
        return this.#timedMayGoto();
      case 'kernel':
        return addressOf(this.#target(callee.slot), callee);
      case undefined:
        throw new RangeError('an instruction that calls nothing has no target');
    }
  }

  #compile(fn: RewrittenFunction, insns: readonly bpf_insn[], image: bigint): JitedFunction {
    const { arch, options, targets } = this.input;
    const jitFunction: JitFunction = {
      insns: withoutPseudo(insns),
      is_subprog: fn.subprog !== 0,
      stack_depth: fn.stack_depth,
      arena: this.#arena(),
    };
    const place = {
      image,
      callTarget: (slot: number): bigint => this.#addressOf(fn.callees.get(slot)),
      funcAddress: (slot: number): bigint => this.#addressOf(fn.callees.get(slot)),
    };
    const mayGoto = targets.get(TIMED_MAY_GOTO)?.address;
    try {
      return arch.jit(
        jitFunction,
        place,
        mayGoto === undefined ? options : { ...options, [TIMED_MAY_GOTO]: mayGoto },
      );
    } catch (error) {
      throw error instanceof JitError ? this.#atText(fn, error) : error;
    }
  }

  /** The JIT counts instructions that have been rewritten. */
  #atText(fn: RewrittenFunction, { message, insn, errno }: JitError): JitError {
    const start = this.#startOf(fn);
    const origin = insn === null ? null : (fn.origins[insn] ?? null);
    const name = this.loaded.verifier.subprogs[fn.subprog]?.name ?? '';
    return new JitError(message, origin === null ? null : origin - start, errno, name);
  }

  #startOf({ subprog }: RewrittenFunction): number {
    return this.loaded.verifier.subprogs[subprog]?.start ?? 0;
  }

  #arena(): JitArena | null {
    const arena = this.loaded.arena?.arena ?? null;
    return arena === null ? null : { kern_vm_start: arena.kern_vm_start, user_vm_start: arena.user_vm_start };
  }

  /** With the addresses of the functions, as in the last pass. */
  #finalInsns(fn: RewrittenFunction, insns: readonly bpf_insn[]): bpf_insn[] {
    const result = withoutPseudo(insns);
    for (const [i, callee] of fn.callees) {
      const insn = result[i];
      if (insn === undefined || callee.kind !== 'subprog') continue;
      const address = this.#addressOf(callee);
      const high = result[i + 1];
      if (insn.code !== BPF_LD_IMM64) result[i] = { ...insn, imm: this.#callImm(address) };
      else if (high !== undefined) {
        result[i] = { ...insn, imm: low(address) };
        result[i + 1] = { ...high, imm: low(address >> 32n) };
      }
    }
    return result;
  }

  #linked(
    fn: RewrittenFunction,
    insns: readonly bpf_insn[],
    i: number,
    tag: string,
    image: bigint,
    jited: JitedFunction,
  ): LinkedFunction {
    const start = this.#startOf(fn);
    return {
      name: this.#name(i),
      tag,
      insns,
      origins: fn.origins.map((slot) => (slot === null ? null : slot - start)),
      stack_depth: fn.stack_depth,
      image,
      code: jited.code,
      addrs: jited.addrs,
      extable: jited.extable,
      extableOffset: jited.extableOffset,
      gap: jited.gap ?? null,
      linfo: jitedLinfo(fn, this.loaded.lines, jited.addrs),
    };
  }
}

function addressOf(target: LinkCallTarget, callee: Extract<Callee, { kind: 'kernel' }>): bigint {
  return callee.non_sleepable ? (target.non_sleepable ?? target.address) : target.address;
}

const low = (value: bigint): number => Number(BigInt.asIntN(32, value));

/** convert_pseudo_ld_imm64() */
function withoutPseudo(insns: readonly bpf_insn[]): bpf_insn[] {
  return insns.map((insn) =>
    insn.code === BPF_LD_IMM64 && insn.src_reg !== BPF_PSEUDO_FUNC ? { ...insn, src_reg: 0 } : insn,
  );
}

/** bpf_prog_fill_jited_linfo(): the first line begins with the image, the others with the code of their slot. */
function jitedLinfo(
  fn: RewrittenFunction,
  lines: ReadonlyMap<number, BpfSourceLine>,
  addrs: readonly number[],
): readonly bpf_line_info[] | null {
  const result: bpf_line_info[] = [];
  for (const [slot, origin] of [...fn.lines].sort(([a], [b]) => a - b)) {
    const line = lines.get(origin);
    if (line === undefined) continue;
    const offset = result.length === 0 ? 0 : (addrs[slot] ?? 0);
    result.push({ offset, file: line.file, line: line.line, text: line.text });
  }
  return result.length === 0 ? null : result;
}
