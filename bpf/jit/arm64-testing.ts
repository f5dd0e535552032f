/** What the tests of the arm64 JIT share: instructions, a place, and how the kernel is configured. */
import { packExtable } from '../../arch/arm64/extable.js';
import type { bpf_insn } from '../insn.js';
import { bpf_int_jit_compile } from './arm64.js';
import type { JitedFunction, JitFunction, JitOptions, JitPlace } from './jit.js';
import { EXIT, PLAIN, placeAt, USER_VM_START } from './jit-testing.js';

export const KERN_VM_START = 0xffff_8000_8500_9000n;
export const ARENA = { kern_vm_start: KERN_VM_START, user_vm_start: USER_VM_START };
export const IMAGE = 0xffff_8000_8100_0000n;

export const BTI_PAC: JitOptions = { ...PLAIN, branchTracking: true, pac: true };

export interface Compilation {
  readonly fn?: Partial<JitFunction>;
  readonly place?: Partial<JitPlace>;
  readonly options?: Partial<JitOptions>;
}

/** A main program with the arena, no stack, on a kernel without BTI and PAC, unless told otherwise. */
export function compile(insns: readonly bpf_insn[], { fn, place, options }: Compilation = {}): JitedFunction {
  return bpf_int_jit_compile(
    { insns, is_subprog: false, stack_depth: 0, arena: ARENA, ...fn },
    { ...placeAt(IMAGE), ...place },
    { ...PLAIN, ...options },
  );
}

export function wordsOf(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(i * 4, true));
}

/** Words as the kernel's dumps have them. */
export const hexOf = (bytes: Uint8Array): string =>
  wordsOf(bytes)
    .map((word) => word.toString(16).padStart(8, '0'))
    .join(' ');

/** Code of the instructions alone, an exit behind them. */
export function body(insns: readonly bpf_insn[], how: Compilation = {}): Uint8Array {
  const { code, addrs } = compile([...insns, EXIT], how);
  return code.subarray(addrs[0], addrs[insns.length]);
}

/** The exception table as it lies behind the code. */
export function extableHex({ extable, extableOffset }: JitedFunction): string[] {
  return extable.map((entry, i) => hexOf(packExtable(entry, IMAGE + BigInt(extableOffset + i * 12))));
}
