/**
 * Jumps stay within their functions, everything can be reached, calls fit the stack: check_subprogs() and
 * check_max_stack_depth() of kernel/bpf/verifier.c, check_cfg() of kernel/bpf/cfg.c (bpf-next merge 8496d9020ff3).
 */
import { E2BIG, EACCES, EINVAL } from '../../kernel/errno.js';
import * as I from '../insn.js';
import { Place, type VerifierInput } from './verifier.js';

/** Bytes of stack of a program with all that it calls. */
export const MAX_BPF_STACK = 512;
/** Functions on the stack at once. */
export const MAX_CALL_FRAMES = 8;

/** True for jumps, conditional or not; false for calls and exit. */
export function isJump({ code }: I.bpf_insn): boolean {
  const jumpClass = I.BPF_CLASS(code) === I.BPF_JMP || I.BPF_CLASS(code) === I.BPF_JMP32;
  return jumpClass && I.BPF_OP(code) !== I.BPF_CALL && I.BPF_OP(code) !== I.BPF_EXIT;
}

/** Jumps that always jump; the others may also go on. */
export const isGoto = ({ code }: I.bpf_insn): boolean =>
  code === (I.BPF_JMP | I.BPF_JA) || code === (I.BPF_JMP32 | I.BPF_JA);

/** gotox */
const isIndirect = ({ code }: I.bpf_insn): boolean => code === (I.BPF_JMP | I.BPF_JA | I.BPF_X);

export const isExit = ({ code }: I.bpf_insn): boolean => code === (I.BPF_JMP | I.BPF_EXIT);
export const isCall = ({ code }: I.bpf_insn): boolean => code === (I.BPF_JMP | I.BPF_CALL);
export const isSubprogCall = (insn: I.bpf_insn): boolean =>
  isCall(insn) && insn.src_reg === I.BPF_PSEUDO_CALL;
export const isLdImm64 = ({ code }: I.bpf_insn): boolean => code === I.BPF_LD_IMM64;

/** Slot that the jump at `slot` goes to. */
export function jumpTarget(insn: I.bpf_insn, slot: number): number {
  return slot + 1 + (insn.code === (I.BPF_JMP32 | I.BPF_JA) ? insn.imm : insn.off);
}

/** Jumps stay within their functions, which end. Throws a VerifierError. */
export function check_subprogs(input: VerifierInput): void {
  const place = new Place(input);
  for (let i = 0; i < input.subprogs.length; i += 1) {
    check_subprog(input, place, place.startOf(i), place.startOf(i + 1));
  }
}

/** Everything can be reached. Throws a VerifierError. */
export function check_cfg(input: VerifierInput): void {
  const place = new Place(input);
  for (let i = 0; i < input.subprogs.length; i += 1) {
    checkReached(input, place, place.startOf(i), place.startOf(i + 1));
  }
}

function check_subprog({ insns }: VerifierInput, place: Place, start: number, end: number): void {
  if (start >= end) place.fail('last insn is not an exit or jmp', EINVAL, Math.max(0, start - 1));
  for (let i = start; i < end; i += 1) {
    const insn = insns[i];
    if (insn === undefined) continue;
    if (isJump(insn)) {
      const target = jumpTarget(insn, i);
      if (target < start || target >= end) {
        place.fail(`jump out of range from insn ${i} to ${target}`, EINVAL, i);
      }
    }
    if (i === end - 1 && !isExit(insn) && !isGoto(insn)) {
      place.fail('last insn is not an exit or jmp', EINVAL, i);
    }
  }
}

/** Slots that control may go to behind `slot`, whatever values are. */
function successors(insn: I.bpf_insn, slot: number): number[] {
  if (isExit(insn)) return [];
  if (isGoto(insn)) return [jumpTarget(insn, slot)];
  if (isJump(insn)) return [slot + 1, jumpTarget(insn, slot)];
  return [slot + (isLdImm64(insn) ? 2 : 1)];
}

function checkReached({ insns }: VerifierInput, place: Place, start: number, end: number): void {
  const seen = new Set<number>();
  const open = [start];
  for (let slot = open.pop(); slot !== undefined; slot = open.pop()) {
    const insn = insns[slot];
    if (seen.has(slot) || insn === undefined) continue;
    // Tables of jumps are maps of a type that is not here.
    if (isIndirect(insn)) place.fail(`no jump tables found for subprog starting at ${start}`, EINVAL, slot);
    seen.add(slot);
    open.push(...successors(insn, slot));
  }
  for (let i = start; i < end; i += 1) {
    const insn = insns[i];
    if (!seen.has(i)) place.fail(`unreachable insn ${i}`, EINVAL, i);
    if (insn === undefined || !isLdImm64(insn)) continue;
    i += 1;
    if (seen.has(i)) place.fail(`jump into the middle of ldimm64 insn ${i - 1}`, EINVAL, i);
  }
}

/** Stack of all functions on the deepest way. Throws a VerifierError. */
export function check_max_stack_depth(
  input: VerifierInput,
  depths: readonly number[],
  seen: (slot: number) => boolean,
): void {
  const place = new Place(input);
  // round_up_stack_depth()
  const rounded = (subprog: number): number => Math.ceil((depths[subprog] ?? 0) / 16) * 16;
  const visit = (subprog: number, above: number, frames: number): void => {
    const depth = above + rounded(subprog);
    const start = place.startOf(subprog);
    if (depth > MAX_BPF_STACK) {
      place.fail(`combined stack size of ${frames} calls is ${depth}. Too large`, EACCES, start);
    }
    for (let i = start; i < place.startOf(subprog + 1); i += 1) {
      const insn = input.insns[i];
      const named = insn?.code === I.BPF_LD_IMM64 && insn.src_reg === I.BPF_PSEUDO_FUNC;
      if (insn === undefined || !seen(i) || !(isSubprogCall(insn) || named)) continue;
      // The kernel does not count the main program.
      if (frames >= MAX_CALL_FRAMES) {
        place.fail(`the call stack of ${frames} frames is too deep !`, E2BIG, i);
      }
      visit(place.subprogOf(i + 1 + insn.imm), depth, frames + 1);
    }
  };
  visit(0, 0, 1);
}
