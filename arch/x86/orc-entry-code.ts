/**
 * Entry code of the kernel image, which host code stands in for: where its assembly puts the registers
 * (UNWIND_HINT_* of arch/x86/entry/entry_64.S and arch/x86/include/asm/unwind_hints.h, bpf-next merge
 * 8496d9020ff3). A return address into it on a stack is unwound by these.
 */
import type { UnwindHint } from './orc-cfi.js';

/** Of an exception with an error code: what hardware pushed, and from error_entry() on all of pt_regs. */
const IDTENTRY: readonly UnwindHint[] = [
  { offset: 0, type: 'iret_regs', spOffset: 8 },
  { offset: 0xd, type: 'regs' },
];

const HINTS: ReadonlyMap<string, readonly UnwindHint[]> = new Map<string, readonly UnwindHint[]>([
  ['asm_exc_page_fault', IDTENTRY],
  ['asm_exc_general_protection', IDTENTRY],
  ['asm_exc_stack_segment', IDTENTRY],
  ['entry_SYSCALL_64_after_hwframe', [{ offset: 0, type: 'regs' }]],
  [
    'ret_from_fork_asm',
    [
      // The registers of a kernel thread say nothing.
      { offset: 0, type: 'end_of_stack' },
      { offset: 0x1a, type: 'regs' },
    ],
  ],
]);

/** Hints for a function of the image; none for C functions. */
export function entryHints(name: string): readonly UnwindHint[] {
  return HINTS.get(name) ?? [];
}
