/**
 * BPF programs as the fault path sees them: port of the parts of kernel/bpf/core.c (bpf-next merge
 * 8496d9020ff3) that know where a program's image lies, what it is called, and which source line an
 * address belongs to.
 *
 * Left out: loading, verification, the JIT, BTF. A program arrives here as an image that lies in memory
 * already. The kernel's latch tree of symbols is a sorted array.
 *
 * The tag differs from the kernel's on purpose: the kernel hashes the BPF instructions, which do not
 * exist here, so the default is the first 8 bytes of the SHA-256 over the native image. Whoever knows the
 * real tag gives it.
 */
import { createHash } from 'node:crypto';
import type { ThisCpu } from '../arch/arch.js';
import { EINVAL, ENOENT } from '../kernel/errno.js';
import { MachineRefusal } from '../kernel/machine-refusal.js';
import type { bpf_arena } from './arena/arena_struct.js';
import { BPF_STDERR, BPF_STDOUT, bpf_stream } from './stream/stream.js';

/** struct bpf_line_info together with its place in the image (jited_linfo). */
export interface bpf_line_info {
  /** Native start of the BPF instruction, in bytes from the start of the image. */
  readonly offset: number;
  /** File as the BTF names it, possibly with folders. */
  readonly file: string;
  readonly line: number;
  /** Text of the source line, possibly indented. */
  readonly text: string;
}

/** struct bpf_ksym. `end` belongs to the symbol: a call may be the last instruction of a program. */
export interface bpf_ksym {
  readonly name: string;
  readonly start: bigint;
  readonly end: bigint;
  /** The program whose image this is; null for trampolines and dispatchers. */
  readonly prog: bpf_prog | null;
}

/** Exception table of a program: `num_exentries` entries of the architecture's format at `extable`. */
export interface ProgramExtable {
  readonly extable: bigint;
  readonly num_exentries: number;
}

/** struct bpf_prog_aux, the fields that are used here. */
export interface bpf_prog_aux {
  readonly prog: bpf_prog;
  readonly name: string;
  readonly ksym: bpf_ksym;
  arena: bpf_arena | null;
  /** aux of the main program; a main program's own aux. */
  readonly main_prog_aux: bpf_prog_aux;
  /** Line info of this (sub)program in the order of its instructions; null without BTF line info. */
  readonly linfo: readonly bpf_line_info[] | null;
  readonly table: ProgramExtable | null;
  /** stdout and stderr. Only those of a main program are ever written. */
  readonly stream: readonly [stdout: bpf_stream, stderr: bpf_stream];
}

/** struct bpf_prog. */
export interface bpf_prog {
  /** 16 lower-case hexadecimal digits. */
  readonly tag: string;
  /** Address of the first native instruction. */
  readonly bpf_func: bigint;
  /** Bytes of native code. */
  readonly jited_len: number;
  readonly aux: bpf_prog_aux;
}

/** A program as it is handed over, its image being in memory already. */
export interface BpfProgramSpec {
  /** Name from BTF, or aux->name; empty for a program without a name. */
  readonly name: string;
  /** Address of the image. */
  readonly start: bigint;
  readonly code: Uint8Array;
  /** 16 hexadecimal digits; by default a hash of the image. */
  readonly tag?: string | undefined;
  readonly arena?: bpf_arena | null | undefined;
  /** The main program, when this is a subprogram. It inherits the arena. */
  readonly main?: bpf_prog | null | undefined;
  readonly linfo?: readonly bpf_line_info[] | null | undefined;
  readonly table?: ProgramExtable | null | undefined;
}

/** First 8 bytes of the SHA-256 over a native image, as 16 hexadecimal digits. */
export function imageTag(code: Uint8Array): string {
  return createHash('sha256').update(code).digest('hex').slice(0, 16);
}

/** bpf_get_prog_name(): `bpf_prog_` + tag + `_` + name; it ends after the tag when the name is empty. */
export function bpf_get_prog_name(tag: string, name: string): string {
  return name === '' ? `bpf_prog_${tag}` : `bpf_prog_${tag}_${name}`;
}

/** All BPF symbols of a machine, and through them its programs. */
export class BpfPrograms {
  /** Ascending by start. */
  readonly #ksyms: bpf_ksym[] = [];
  /** struct bpf_prog_aux by its address, of the programs that have been given one. */
  readonly #auxes = new Map<bigint, bpf_prog_aux>();
  #lowest = 1n;
  #highest = 0n;
  /** The stack that was looked at last, and what was found on it. */
  #stack: readonly bigint[] | null = null;
  #onStack: bpf_prog | null = null;
  /** Changes whenever an address may resolve differently from before. */
  generation = 0;

  /** Every program and subprogram, by address. */
  get programs(): bpf_prog[] {
    return this.#ksyms.flatMap(({ prog }) => (prog === null ? [] : [prog]));
  }

  /** Makes a program known. Throws a RangeError for a malformed tag, a MachineRefusal for an image that overlaps another. */
  load(spec: BpfProgramSpec): bpf_prog {
    const tag = spec.tag ?? imageTag(spec.code);
    if (!/^[0-9a-f]{16}$/.test(tag)) {
      throw new RangeError(`program tag ${JSON.stringify(tag)}: a tag is 16 lower-case hexadecimal digits`);
    }
    const main = spec.main ?? null;
    const prog = makeProg(spec, tag, main);
    this.bpf_ksym_add(prog.aux.ksym);
    return prog;
  }

  /** Forgets a program; its streams go with it. Its subprograms are programs of their own here. */
  unload(prog: bpf_prog): void {
    this.bpf_ksym_del(prog.aux.ksym);
    for (const [address, aux] of this.#auxes) if (aux === prog.aux) this.#auxes.delete(address);
  }

  /** Says where struct bpf_prog_aux of a program lies: what is handed to kfuncs that ask who calls. */
  placeAux(address: bigint, aux: bpf_prog_aux): void {
    this.#auxes.set(address, aux);
  }

  /** The struct bpf_prog_aux at an address; null when none is there. */
  auxAt(address: bigint): bpf_prog_aux | null {
    return this.#auxes.get(address) ?? null;
  }

  /** Adds a symbol; trampolines (`bpf__<struct>_<member>`, `bpf_trampoline_<key>`) come this way. */
  bpf_ksym_add(ksym: bpf_ksym): void {
    const at = this.#countUpTo(ksym.start);
    const before = this.#ksyms[at - 1];
    const behind = this.#ksyms[at];
    const hit =
      before !== undefined && before.end > ksym.start
        ? before
        : behind !== undefined && ksym.end > behind.start
          ? behind
          : null;
    if (hit !== null) throw new MachineRefusal(`image of ${ksym.name} overlaps the image of ${hit.name}`);
    this.#ksyms.splice(at, 0, ksym);
    this.#changed();
  }

  bpf_ksym_del(ksym: bpf_ksym): void {
    const at = this.#ksyms.indexOf(ksym);
    if (at < 0) return;
    this.#ksyms.splice(at, 1);
    this.#changed();
  }

  /** The symbol with start <= addr <= end. Where two meet, the one that starts at `addr`. */
  bpf_ksym_find(addr: bigint): bpf_ksym | null {
    if (addr < this.#lowest || addr > this.#highest) return null;
    const ksym = this.#ksyms[this.#countUpTo(addr) - 1];
    return ksym !== undefined && addr <= ksym.end ? ksym : null;
  }

  /** The program or subprogram at `addr`; null for trampolines. */
  bpf_prog_ksym_find(addr: bigint): bpf_prog | null {
    const ksym = this.bpf_ksym_find(addr);
    return ksym === null ? null : ksym.prog;
  }

  /** is_bpf_text_address(): trampolines count. */
  is_bpf_text_address(addr: bigint): boolean {
    return this.bpf_ksym_find(addr) !== null;
  }

  /**
   * Main program of the innermost BPF frame on the current kernel stack, or null. Only the first frame
   * that belongs to a program counts, whatever is further out.
   */
  bpf_prog_find_from_stack(here: ThisCpu): bpf_prog | null {
    const ips = here.arch.stackAddresses(here);
    if (ips !== this.#stack) {
      this.#stack = ips;
      this.#onStack = this.#firstOf(ips);
    }
    return this.#onStack;
  }

  #firstOf(ips: readonly bigint[]): bpf_prog | null {
    for (const ip of ips) {
      const prog = this.bpf_prog_ksym_find(ip);
      if (prog !== null) return main_prog(prog);
    }
    return null;
  }

  /** Number of symbols that start at or below `addr`. */
  #countUpTo(addr: bigint): number {
    let low = 0;
    let high = this.#ksyms.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ksyms[middle] as bpf_ksym).start <= addr) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #changed(): void {
    this.generation += 1;
    this.#stack = null;
    this.#lowest = this.#ksyms[0]?.start ?? 1n;
    this.#highest = this.#ksyms.at(-1)?.end ?? 0n;
  }
}

function makeProg(spec: BpfProgramSpec, tag: string, main: bpf_prog | null): bpf_prog {
  const jited_len = spec.code.length;
  const ksym = {
    name: bpf_get_prog_name(tag, spec.name),
    start: spec.start,
    end: spec.start + BigInt(jited_len),
    prog: null as bpf_prog | null,
  };
  const aux = {
    name: spec.name,
    ksym,
    arena: main === null ? (spec.arena ?? null) : main.aux.arena,
    linfo: spec.linfo ?? null,
    table: spec.table ?? null,
    stream: [new bpf_stream(BPF_STDOUT), new bpf_stream(BPF_STDERR)] as const,
  } as { -readonly [K in keyof bpf_prog_aux]: bpf_prog_aux[K] };
  const prog: bpf_prog = { tag, bpf_func: spec.start, jited_len, aux };
  ksym.prog = prog;
  aux.prog = prog;
  aux.main_prog_aux = main === null ? aux : main.aux.main_prog_aux;
  return prog;
}

/** prog->aux->main_prog_aux->prog */
export function main_prog(prog: bpf_prog): bpf_prog {
  return prog.aux.main_prog_aux.prog;
}

/**
 * bpf_prog_get_file_line(): the line that `ip` belongs to, ready to print (base name, no indentation).
 * An ip that is exactly the start of a line counts to the line before it, and to none at the start of the
 * first. -EINVAL without line info, -ENOENT when no line starts below `ip`.
 */
export function bpf_prog_get_file_line(
  prog: bpf_prog,
  ip: bigint,
): { readonly file: string; readonly line: number; readonly text: string } | number {
  const { linfo } = prog.aux;
  if (linfo === null || linfo.length === 0) return -EINVAL;
  const offset = ip - prog.bpf_func;
  const behind = linfo.findIndex((entry) => BigInt(entry.offset) >= offset);
  const hit = behind < 0 ? linfo.at(-1) : linfo[behind - 1];
  if (hit === undefined) return -ENOENT;
  return {
    file: hit.file.slice(hit.file.lastIndexOf('/') + 1),
    line: hit.line,
    text: hit.text.replace(/^[ \t\n\v\f\r]+/, ''),
  };
}
