/**
 * The functions of a program laid one behind the other, with what they name: add_subprog_and_kfunc(), check_btf_line()
 * and resolve_pseudo_ldimm64() of kernel/bpf/verifier.c (bpf-next merge 8496d9020ff3). Names take the place of
 * file descriptors and BTF ids.
 */
import { EBUSY, EINVAL } from '../../kernel/errno.js';
import { BPF_F_NO_USER_CONV } from '../arena/arena_struct.js';
import * as I from '../insn.js';
import type { BpfMapReference, BpfSourceLine, BpfText } from '../text/asm.js';
import { bpf_prog_calc_tag, withoutImmediates } from './link-tag.js';
import type { LinkArena, LinkCallTarget, LinkInput, PointerKind } from './link-types.js';
import { type KernelCall, VerifierError, type VerifierInput, type WideImmediate } from './verifier.js';
import type { KernelPointer } from './verifier-value.js';

/** A program with its names looked up. */
export interface LoadedText {
  readonly verifier: VerifierInput;
  /** Of the main program: of the instructions as they are loaded. */
  readonly tag: string;
  /** By slot of the whole. */
  readonly targets: ReadonlyMap<number, LinkCallTarget>;
  readonly lines: ReadonlyMap<number, BpfSourceLine>;
  readonly arena: { readonly name: string; readonly arena: LinkArena } | null;
  /** Function and slot in it of a slot of the whole. */
  at(slot: number): [func: string, slot: number];
}

/** Throws a VerifierError, and a RangeError for names that are there twice or not at all. */
export function loadTexts(input: LinkInput): LoadedText {
  return new Loader(input).load();
}

class Loader {
  readonly #starts = new Map<string, number>();
  readonly #insns: I.bpf_insn[] = [];
  readonly #wide = new Map<number, WideImmediate>();
  readonly #targets = new Map<number, LinkCallTarget>();
  readonly #calls = new Map<number, KernelCall>();
  readonly #lines = new Map<number, BpfSourceLine>();
  #arena: { readonly name: string; readonly arena: LinkArena } | null = null;

  constructor(readonly input: LinkInput) {}

  load(): LoadedText {
    const { input } = this;
    let start = 0;
    for (const { name, text } of input.functions) {
      if (this.#starts.has(name)) throw new RangeError(`function ${name} is there twice`);
      this.#starts.set(name, start);
      start += text.insns.length;
    }
    for (const name of input.boundMaps) this.#useMap(name, null);
    for (const { name, text } of input.functions) this.#function(name, text);
    // Addresses of kernel variables are BTF ids when a program is loaded; they are not known here and are 0.
    const loadedInsns = withoutImmediates(this.#insns, [I.BPF_PSEUDO_BTF_ID]);
    return {
      verifier: this.#verifierInput(),
      tag: bpf_prog_calc_tag(loadedInsns),
      targets: this.#targets,
      lines: this.#lines,
      arena: this.#arena,
      at: (slot) => this.#at(slot),
    };
  }

  #at(slot: number): [func: string, slot: number] {
    const [name, start] = [...this.#starts].findLast(([, first]) => first <= slot) ?? ['', 0];
    return [name, slot - start];
  }

  #fail(message: string, errno: number, slot: number | null): never {
    const [func, at] = slot === null ? [null, null] : this.#at(slot);
    throw new VerifierError(message, -errno, func, at);
  }

  #function(name: string, text: BpfText): void {
    const start = this.#starts.get(name) ?? 0;
    for (const [slot, insn] of text.insns.entries()) this.#insns[start + slot] = insn;
    for (const [slot, line] of text.lines) this.#lines.set(start + slot, line);
    const withLines = this.input.functions.some((fn) => fn.text.lines.size > 0);
    if (withLines && !text.lines.has(0)) {
      const func = this.input.functions.findIndex((fn) => fn.name === name);
      this.#fail(`missing bpf_line_info for func#${func}`, EINVAL, start);
    }
    for (const [slot, target] of text.calls) this.#call(start + slot, target);
    for (const [slot, map] of text.maps) this.#map(start + slot, map);
    for (const [slot, symbol] of text.symbols) this.#symbol(start + slot, symbol);
  }

  #patch(slot: number, fields: Partial<I.bpf_insn>): void {
    const insn = this.#insns[slot];
    if (insn !== undefined) this.#insns[slot] = { ...insn, ...fields };
  }

  #setWide(slot: number, src_reg: number, value: bigint, wide: WideImmediate): void {
    this.#patch(slot, { src_reg, imm: Number(BigInt.asIntN(32, value)) });
    this.#patch(slot + 1, { imm: Number(BigInt.asIntN(32, value >> 32n)) });
    this.#wide.set(slot, wide);
  }

  #call(slot: number, name: string): void {
    const start = this.#starts.get(name);
    if (start !== undefined) {
      this.#patch(slot, { src_reg: I.BPF_PSEUDO_CALL, imm: start - slot - 1 });
      return;
    }
    const target = this.input.targets.get(name);
    if (target === undefined) {
      this.#fail(`${name}() is no function of the program, no kfunc and no helper`, EINVAL, slot);
    }
    const kfunc = target.kind === 'kfunc';
    this.#patch(slot, { src_reg: kfunc ? I.BPF_PSEUDO_KFUNC_CALL : 0, imm: target.id });
    this.#targets.set(slot, target);
    const { args, aux_register: regno } = target;
    const returns = target.returns === 'void' ? null : typeOf(target.returns);
    const arg_prog = regno === null ? null : { regno, aux: this.input.aux() };
    this.#calls.set(slot, { name, kfunc, returns, args, arg_prog });
  }

  #map(slot: number, { name, offset }: BpfMapReference): void {
    const map = this.#useMap(name, slot);
    if (offset === null) {
      const wide = { kind: 'map', map: name, tname: map.btf_name } as const;
      this.#setWide(slot, I.BPF_PSEUDO_MAP_FD, map.address, wide);
      return;
    }
    const { value_size: size, map_direct_value_addr } = map;
    if (map_direct_value_addr === null) {
      this.#fail('no direct value access support for this map type', EINVAL, slot);
    }
    const address = map_direct_value_addr(BigInt(offset));
    if (typeof address === 'number') {
      this.#fail(`invalid access to map value pointer, value_size=${size} off=${offset}`, -address, slot);
    }
    const wide =
      map.arena === null
        ? ({ kind: 'map_value', map: name, size, off: offset } as const)
        : ({ kind: 'arena_value' } as const);
    this.#setWide(slot, I.BPF_PSEUDO_MAP_VALUE, address + BigInt(offset), wide);
  }

  /** add_used_map(): an arena becomes the program's. */
  #useMap(name: string, slot: number | null): NonNullable<ReturnType<LinkInput['maps']['get']>> {
    const map = this.input.maps.get(name);
    if (map === undefined) return this.#fail(`there is no map ${name}`, EINVAL, slot);
    const { arena } = map;
    if (arena === null || this.#arena?.name === name) return map;
    if (this.#arena !== null) this.#fail('Only one arena per program', EBUSY, slot);
    this.#arena = { name, arena };
    if (arena.user_vm_start === 0n) {
      this.#fail("arena's user address must be set via map_extra or mmap()", EINVAL, slot);
    }
    return map;
  }

  #symbol(slot: number, name: string): void {
    const start = this.#starts.get(name);
    if (start !== undefined) {
      const subprog = [...this.#starts.keys()].indexOf(name);
      this.#patch(slot, { src_reg: I.BPF_PSEUDO_FUNC, imm: start - slot - 1 });
      this.#wide.set(slot, { kind: 'func', subprog });
      return;
    }
    const symbol = this.input.symbols.get(name);
    if (symbol === undefined) this.#fail(`there is no symbol ${name}`, EINVAL, slot);
    const type = typeOf(symbol.kind);
    const src_reg = type === 'SCALAR_VALUE' ? 0 : I.BPF_PSEUDO_BTF_ID;
    this.#setWide(slot, src_reg, symbol.address, { kind: 'symbol', type });
  }

  #verifierInput(): VerifierInput {
    const { sleepable, context, arch, options } = this.input;
    const fields = context.flatMap(({ offset, kind }): (readonly [number, KernelPointer])[] => {
      const type = typeOf(kind);
      return type === 'SCALAR_VALUE' ? [] : [[offset, type]];
    });
    return {
      insns: this.#insns,
      subprogs: [...this.#starts].map(([name, start]) => ({ name, start })),
      wide: this.#wide,
      calls: this.#calls,
      hasArena: this.#arena !== null,
      noUserConv: ((this.#arena?.arena.map_flags ?? 0) & BPF_F_NO_USER_CONV) !== 0,
      sleepable,
      context: new Map(fields),
      uaddress_limit: arch.uaddress_limit,
      supports_insn: (insn) => arch.supports_insn(insn, options),
    };
  }
}

function typeOf(kind: PointerKind): KernelPointer | 'SCALAR_VALUE' {
  switch (kind) {
    case 'scalar':
      return 'SCALAR_VALUE';
    case 'btf_id':
      return 'PTR_TO_BTF_ID';
    case 'trusted':
      return 'PTR_TRUSTED';
    case 'mem':
      return 'PTR_TO_MEM';
    case 'rdonly_untrusted_mem':
      return 'RDONLY_UNTRUSTED_MEM';
  }
}
