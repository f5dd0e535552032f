/** For tests: programs from text, and a JIT that shows what it was given. */
import { EINVAL, ERANGE } from '../../kernel/errno.js';
import type { Jit, JitFunction, JitPlace } from '../jit/jit.js';
import { PLAIN } from '../jit/jit-testing.js';
import { assembleBpf } from '../text/asm.js';
import { print_bpf_insn } from '../text/disasm.js';
import {
  type LinkArch,
  type LinkCallTarget,
  type LinkedProgram,
  type LinkInput,
  type LinkMap,
  linkProgram,
} from './link.js';

export const CALL_BASE = 0xffff_ffff_8120_0000n;
const IMAGES = 0xffff_ffff_c000_0000n;
/** prog->aux of every program here. */
const AUX = 0xffff_8880_0aaa_a000n;

export const target = (fields: Partial<LinkCallTarget> = {}): LinkCallTarget => ({
  address: CALL_BASE + 0x1000n,
  kind: 'kfunc',
  returns: 'scalar',
  args: null,
  non_sleepable: null,
  aux_register: null,
  id: 7,
  ...fields,
});

export const TARGETS: ReadonlyMap<string, LinkCallTarget> = new Map([
  ['bpf_arena_alloc_pages', target({ args: 5, non_sleepable: CALL_BASE + 0x1100n })],
  ['bpf_arena_free_pages', target({ args: 3, returns: 'void', non_sleepable: CALL_BASE + 0x2100n, id: 8 })],
  ['bpf_rdonly_cast', target({ returns: 'btf_id', args: 2, id: 9 })],
  ['bpf_get_cpumask', target({ returns: 'trusted', args: 0, id: 10 })],
  ['bpf_spin_lock', target({ kind: 'helper', returns: 'void', args: 1, id: 93 })],
  ['bpf_spin_unlock', target({ kind: 'helper', returns: 'void', args: 1, id: 94 })],
  ['bpf_stream_print_stack', target({ args: 1, aux_register: 2, id: 12 })],
  ['bpf_res_spin_lock', target({ args: 1, id: 13 })],
  ['bpf_res_spin_unlock', target({ returns: 'void', args: 1, id: 14 })],
  ['bpf_res_spin_lock_irqsave', target({ args: 2, id: 15 })],
  ['bpf_res_spin_unlock_irqrestore', target({ returns: 'void', args: 2, id: 16 })],
  ['bpf_rcu_read_lock', target({ returns: 'void', args: 0, id: 17 })],
  ['bpf_rcu_read_unlock', target({ returns: 'void', args: 0, id: 18 })],
  ['bpf_preempt_disable', target({ returns: 'void', args: 0, id: 19 })],
  ['bpf_preempt_enable', target({ returns: 'void', args: 0, id: 20 })],
  ['bpf_loop', target({ kind: 'helper', args: 4, id: 181 })],
  ['arch_bpf_timed_may_goto', target({ address: CALL_BASE + 0x3000n })],
]);

export const ARENA: LinkMap = {
  address: 0xffff_8880_0123_4000n,
  btf_name: 'bpf_arena',
  value_size: 0,
  arena: { kern_vm_start: 0xffff_c900_0000_0000n, user_vm_start: 0x7f7d_2620_0000n, map_flags: 0 },
  map_direct_value_addr: (off) => (off < 0x1_0000_0000n ? 0x7f7d_2620_0000n : -ERANGE),
};

export const MAPS: ReadonlyMap<string, LinkMap> = new Map([
  ['arena', ARENA],
  ['other_arena', { ...ARENA, address: 0xffff_8880_0567_8000n }],
  [
    'array',
    {
      address: 0xffff_8880_0999_9000n,
      btf_name: 'bpf_array',
      value_size: 32,
      arena: null,
      map_direct_value_addr: (off) => (off < 32n ? 0xffff_c900_8000_0010n : -EINVAL),
    },
  ],
  [
    'hash',
    {
      address: 0xffff_8880_0888_8000n,
      btf_name: 'bpf_htab',
      value_size: 8,
      arena: null,
      map_direct_value_addr: null,
    },
  ],
]);

/** Two bytes in front, four for each slot; an entry for each access that may fault. */
export function fakeJit(seen: (fn: JitFunction, place: JitPlace) => void = () => {}): Jit {
  return (fn, place) => {
    seen(fn, place);
    const addrs = fn.insns.map((_, i) => 2 + 4 * i);
    const end = 2 + 4 * fn.insns.length;
    return { code: new Uint8Array(end), addrs: [...addrs, end], extable: [], extableOffset: end };
  };
}

export const ARCH: LinkArch = {
  jit: fakeJit(),
  uaddress_limit: 0n,
  far_kfunc_call: false,
  MODULES_VADDR: IMAGES,
  supports_insn: () => true,
};

/** `functions` are texts by name, the main program first. Images lie 0x100 apart. */
export function link(
  functions: Readonly<Record<string, string>>,
  fields: Partial<LinkInput> = {},
): LinkedProgram {
  let images = 0;
  return linkProgram({
    functions: Object.entries(functions).map(([name, text]) => ({
      name,
      text: assembleBpf(text, { constant: () => null }),
    })),
    maps: MAPS,
    boundMaps: [],
    targets: TARGETS,
    symbols: new Map([
      ['a_struct', { address: 0xffff_ffff_8300_0000n, kind: 'btf_id' }],
      ['a_number', { address: 0xffff_ffff_8300_0100n, kind: 'mem' }],
    ]),
    sleepable: true,
    context: [],
    callBase: CALL_BASE,
    arch: ARCH,
    options: PLAIN,
    aux: () => AUX,
    place: () => IMAGES + BigInt(0x100 * images++),
    ...fields,
  });
}

/** The instructions of one function as the JIT gets them, without second slots. */
export function rewritten(text: string, fields: Partial<LinkInput> = {}): string[] {
  return listing(link({ main: text }, fields), 0);
}

export function listing(program: LinkedProgram, fn: number): string[] {
  const insns = program.functions[fn]?.insns ?? [];
  return insns.flatMap((insn, i) => (insn.code === 0 ? [] : [print_bpf_insn(insns, i)]));
}
