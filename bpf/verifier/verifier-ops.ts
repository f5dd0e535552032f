/**
 * A program while it is rewritten: instructions that know where they jump to by reference, so that they can be
 * inserted and removed. In place of bpf_patch_insn_data() and bpf_remove_insns() (bpf-next merge 8496d9020ff3).
 */
import { ENOMEM } from '../../kernel/errno.js';
import type { bpf_insn } from '../insn.js';
import { BPF_JA, BPF_JMP32 } from '../insn.js';
import type { Place, VerifierInput } from './verifier.js';
import { isJump, isLdImm64, isSubprogCall, jumpTarget } from './verifier-cfg.js';

/** What an instruction calls, or whose address it loads. */
export type Callee =
  | { readonly kind: 'subprog'; readonly subprog: number }
  /** The call at this slot of the program as it was loaded. */
  | { readonly kind: 'kernel'; readonly slot: number; readonly non_sleepable: boolean }
  | { readonly kind: 'timed_may_goto' };

/** One slot. */
export interface Op {
  insn: bpf_insn;
  /** Of a jump: where it goes. */
  target: Op | null;
  callee: Callee | null;
  /** Slot of the program as it was loaded that this comes from; null in front of a function's first. */
  readonly origin: number | null;
  /** Slot of the program as it was loaded whose source line begins here. */
  line: number | null;
}

/** An instruction that is no jump out of its patch. */
export const op = (insn: bpf_insn, origin: number | null, callee: Callee | null = null): Op => ({
  insn,
  target: null,
  callee,
  origin,
  line: null,
});

/** The slots of each function. `lines`: where source lines begin. */
export function opsOf(input: VerifierInput, place: Place, lines: ReadonlySet<number>): Op[][] {
  const all = input.insns.map(
    (insn, slot): Op => ({ ...op(insn, slot), line: lines.has(slot) ? slot : null }),
  );
  for (const [slot, { insn }] of all.entries()) {
    const one = all[slot];
    if (one === undefined) continue;
    const wide = input.wide.get(slot);
    if (isJump(insn)) one.target = all[jumpTarget(insn, slot)] ?? null;
    else if (isSubprogCall(insn)) {
      one.callee = { kind: 'subprog', subprog: place.subprogOf(slot + 1 + insn.imm) };
    } else if (input.calls.has(slot)) one.callee = { kind: 'kernel', slot, non_sleepable: false };
    else if (isLdImm64(insn) && wide?.kind === 'func')
      one.callee = { kind: 'subprog', subprog: wide.subprog };
  }
  return input.subprogs.map((_, i) => all.slice(place.startOf(i), place.startOf(i + 1)));
}

/** Puts `patch` in the place of `ops[at]`: who jumped there gets to its first instruction. */
export function patchOps(ops: Op[], at: number, patch: readonly Op[]): void {
  const old = ops[at];
  const first = patch[0];
  if (old === undefined || first === undefined) return;
  for (const one of [...ops, ...patch]) if (one.target === old && one !== old) one.target = first;
  if (old.target === old) old.target = first;
  first.line = old.line;
  if (first !== old) old.line = null;
  ops.splice(at, 1, ...patch);
}

/** Takes `ops[at]` out: who jumped there gets to the next one, which also inherits the source line. */
export function removeOp(ops: Op[], at: number): void {
  const old = ops[at];
  const next = ops[at + 1] ?? null;
  if (old === undefined) return;
  for (const one of ops) if (one.target === old) one.target = next;
  if (next !== null && next.line === null) next.line = old.line;
  ops.splice(at, 1);
}

/** The instructions with the distances of their jumps. */
export function layOut(ops: readonly Op[], place: Place): bpf_insn[] {
  const indices = new Map(ops.map((one, i) => [one, i]));
  return ops.map(({ insn, target, origin }, i) => {
    if (target === null) return insn;
    const distance = (indices.get(target) ?? 0) - i - 1;
    if (insn.code === (BPF_JMP32 | BPF_JA)) return { ...insn, imm: distance };
    if (distance < -0x8000 || distance > 0x7fff) {
      place.fail(`insn ${origin} cannot be patched due to 16-bit range`, ENOMEM, origin ?? 0);
    }
    return { ...insn, off: distance };
  });
}
