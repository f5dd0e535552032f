/** What names in expressions mean on a machine. */
import type { AddressLayout, Pgtable } from '../../arch/arch.js';
import { hex, u64 } from '../../emu/address.js';
import { PROTECTIONS } from '../format/constants.js';
import { ExpressionError, evaluate, type Node, type Scope } from '../format/expression.js';
import { quoted } from '../format/fixture-error.js';

/** Addresses of an arena that exists. */
export interface ArenaAddresses {
  /** kern_vm_start */
  readonly kern: bigint;
  /** kern_vm->addr */
  readonly kern_vm: bigint;
  /** user_vm_start */
  readonly user: bigint;
  /** user_vm_end */
  readonly user_end: bigint;
  /** Physical address of the scratch page. */
  readonly scratch: number;
  readonly max_entries: number;
}

export interface ScopeParts {
  readonly constants: ReadonlyMap<string, bigint>;
  readonly pgtable: Pgtable;
  readonly layout: AddressLayout;
  /** Functions and data. */
  readonly symbols: ReadonlyMap<string, bigint>;
  /** Labels by symbol. */
  readonly labels: ReadonlyMap<string, ReadonlyMap<string, bigint>>;
  /** Native addresses of the instructions of a program in BPF text, by slot; undefined for other names. */
  insns(program: string): readonly (bigint | undefined)[] | undefined;
  /** struct bpf_map * of an arena that exists. */
  mapPointer(arena: string): bigint;
  /** Null for an arena that was refused, or destroyed. */
  arena(name: string): ArenaAddresses | null;
  /** KFENCE's pool and where its objects begin. */
  readonly kfence: { readonly pool: bigint; addressOf(slot: number): bigint } | null;
  /** The last entry that a walk reaches. */
  entryOf(va: bigint): bigint;
  /** Physical address, -1 if not mapped. */
  physical(va: bigint): number;
}

const PAGE = 4096n;

export class MachineScope implements Scope {
  readonly #parts: ScopeParts;

  constructor(parts: ScopeParts) {
    this.#parts = parts;
  }

  name(name: string, offset: number): bigint {
    const { symbols, pgtable, constants } = this.#parts;
    const protection = PROTECTIONS.find((each) => each === name);
    const value =
      symbols.get(name) ??
      constants.get(name) ??
      (protection === undefined ? this.#place(name) : pgtable[protection]);
    if (value === undefined) throw new ExpressionError(offset, `${quoted(name)} has no value here`);
    return value;
  }

  /** The same with the labels of one function as names of their own. */
  within(symbol: string): Scope {
    const labels = this.#parts.labels.get(symbol);
    return {
      name: (name, offset) => labels?.get(name) ?? this.name(name, offset),
      member: (object, member, offset) => this.member(object, member, offset),
      call: (object, fn, args, offset) => this.call(object, fn, args, offset),
    };
  }

  #place(name: string): bigint | undefined {
    const { layout } = this.#parts;
    switch (name) {
      case 'PAGE_OFFSET':
        return layout.directMap;
      case 'PHYS_OFFSET':
        return BigInt(layout.physBase);
      case 'VMALLOC_START':
        return layout.vmalloc.start;
      case 'VMALLOC_END':
        return layout.vmalloc.end;
      case 'TASK_SIZE':
        return layout.user.end;
      default:
        return undefined;
    }
  }

  member(object: string, member: string, offset: number): bigint {
    const label = this.#parts.labels.get(object)?.get(member);
    if (label !== undefined) return label;
    const { kfence } = this.#parts;
    if (object === 'kfence' && kfence !== null && member === 'pool') return kfence.pool;
    const arena = this.#arena(object, offset);
    switch (member) {
      case 'kern':
        return arena.kern;
      case 'kern_vm':
        return arena.kern_vm;
      case 'user':
        return arena.user;
      case 'user_end':
        return arena.user_end;
      case 'guard':
        return u64(arena.kern + 0x1_0000_0000n);
      case 'end':
        return u64(arena.kern + 0x1_0000_8000n);
      case 'scratch':
        return BigInt(arena.scratch);
      case 'map':
        return this.#parts.mapPointer(object);
      default:
        throw new ExpressionError(offset, `${quoted(`${object}.${member}`)} has no value here`);
    }
  }

  call(object: string | null, fn: string, args: readonly Node[], offset: number): bigint {
    const { pgtable } = this.#parts;
    const { kfence } = this.#parts;
    if (object === 'kfence' && kfence !== null) return this.#kfence(kfence, fn, this.#argument(args, 0));
    const insns = object === null ? undefined : this.#parts.insns(object);
    if (object !== null && insns !== undefined) {
      const slot = this.#argument(args, 0);
      const address = insns[Number(slot)];
      if (address !== undefined) return address;
      throw new ExpressionError(offset, `${quoted(object)} has no instruction ${slot}: they count from 0`);
    }
    if (object !== null) {
      const arena = this.#arena(object, offset);
      const page = this.#argument(args, 0) * PAGE;
      // The band is indexed by the low half of the user address, not by the number of the page.
      return fn === 'upage' ? u64(arena.user + page) : u64(arena.kern + ((arena.user + page) & 0xffff_ffffn));
    }
    switch (fn) {
      case 'scratch': {
        const arena = args[0];
        const name = arena?.kind === 'name' ? arena.name : '';
        return pgtable.mk_pte(this.#arena(name, offset).scratch, pgtable.PAGE_KERNEL);
      }
      case 'mk_pte':
        return pgtable.mk_pte(this.#physical(args, offset), this.#argument(args, 1));
      case 'mk_pmd':
        return pgtable.mk_pmd(this.#physical(args, offset), this.#argument(args, 1));
      case 'mk_pud':
        return pgtable.mk_pud(this.#physical(args, offset), this.#argument(args, 1));
      case 'pte':
        return this.#parts.entryOf(this.#argument(args, 0));
      case 'phys': {
        const va = this.#argument(args, 0);
        const pa = this.#parts.physical(va);
        if (pa < 0) throw new ExpressionError(offset, `${hex(va)} is not mapped: it has no physical address`);
        return BigInt(pa);
      }
      default:
        throw new ExpressionError(offset, `unknown function ${quoted(fn)}`);
    }
  }

  #kfence(kfence: NonNullable<ScopeParts['kfence']>, fn: string, index: bigint): bigint {
    if (fn === 'object') return kfence.addressOf(Number(index));
    // Two pages lie in front of the first object, and a guard page behind each.
    return u64(kfence.pool + (fn === 'slot' ? (index + 1n) * 2n : index) * PAGE);
  }

  #arena(name: string, offset: number): ArenaAddresses {
    const arena = this.#parts.arena(name);
    if (arena === null) throw new ExpressionError(offset, `arena ${quoted(name)} does not exist now`);
    return arena;
  }

  #argument(args: readonly Node[], index: number): bigint {
    const node = args[index];
    return node === undefined ? 0n : evaluate(node, this);
  }

  #physical(args: readonly Node[], offset: number): number {
    const pa = this.#argument(args, 0);
    if (pa >= 1n << 52n) throw new ExpressionError(offset, `${hex(pa)} is no physical address`);
    return Number(pa);
  }
}
