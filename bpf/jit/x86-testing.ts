/** What the tests of the x86-64 JIT share: instructions, a place, and how the kernel is configured. */
import { createRequire } from 'node:module';
import type { Instruction } from 'iced-x86';
import { packExtable } from '../../arch/x86/extable-format.js';
import type { bpf_insn } from '../insn.js';
import type { JitedFunction, JitFunction, JitOptions, JitPlace } from './jit.js';
import { EXIT, PLAIN, placeAt, USER_VM_START } from './jit-testing.js';
import { bpf_int_jit_compile } from './x86.js';

export const KERN_VM_START = 0xffffc90001e69000n;
export const IMAGE = 0xffffffffc0201000n;

export const ARENA = { kern_vm_start: KERN_VM_START, user_vm_start: USER_VM_START };

export function compile(
  insns: readonly bpf_insn[],
  fn: Partial<JitFunction> = {},
  options: Partial<JitOptions> = {},
  place: Partial<JitPlace> = {},
): JitedFunction {
  const whole = { insns, is_subprog: false, stack_depth: 0, arena: ARENA, ...fn };
  return bpf_int_jit_compile(whole, { ...placeAt(IMAGE), ...place }, { ...PLAIN, ...options });
}

export const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Code of the instructions, without prologue and epilogue. */
export function codeOf(insns: bpf_insn | readonly bpf_insn[], options: Partial<JitOptions> = {}): Uint8Array {
  const all: readonly bpf_insn[] = 'code' in insns ? [insns] : insns;
  const { code, addrs } = compile([...all, EXIT], {}, options);
  return code.subarray(addrs[0], addrs[all.length]);
}

/** The three words of each entry of the exception table, and the offset of the instruction it finds. */
export function extableOf({ extable, extableOffset }: JitedFunction): { words: number[]; covers: number }[] {
  return extable.map((entry, i) => {
    const at = IMAGE + BigInt(extableOffset + 12 * i);
    const view = new DataView(packExtable(entry, at).buffer);
    const words = [0, 4, 8].map((offset) => view.getUint32(offset, true));
    return { words, covers: extableOffset + 12 * i + view.getInt32(0, true) };
  });
}

const iced: typeof import('iced-x86') = createRequire(import.meta.url)('iced-x86');

/** What iced-x86 reads: text in the syntax of objdump -M intel, without spaces behind commas. */
export function read(bytes: Uint8Array, at = 0n): { text: string; length: number; bad: boolean }[] {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  const formatter = new iced.Formatter(iced.FormatterSyntax.Intel);
  formatter.hexPrefix = '0x';
  formatter.hexSuffix = '';
  formatter.uppercaseHex = false;
  formatter.hexDigitGroupSize = 0;
  formatter.signedImmediateOperands = true;
  formatter.smallHexNumbersInDecimal = false;
  formatter.showBranchSize = false;
  formatter.leadingZeros = false;
  formatter.branchLeadingZeros = false;
  formatter.alwaysShowScale = false;
  formatter.memorySizeOptions = iced.MemorySizeOptions.Always;
  formatter.ripRelativeAddresses = false;
  decoder.ip = at;
  const found: { text: string; length: number; bad: boolean }[] = [];
  while (decoder.canDecode) {
    const instruction: Instruction = decoder.decode();
    found.push({
      text: formatter.format(instruction),
      length: instruction.length,
      bad: instruction.code === iced.Code.INVALID,
    });
    instruction.free();
  }
  formatter.free();
  decoder.free();
  return found;
}
