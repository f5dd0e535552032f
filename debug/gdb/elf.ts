/**
 * The file that gdb is served: an ELF executable without code, of symbols and unwind tables. What is in memory gdb
 * reads from the machine. Layout as in the System V ABI, chapters 4 and 5, and its supplement for 64 bits.
 */
import type { SymbolView } from '../views.js';
import { type CfiFunction, type CfiRow, debugFrame } from './cfi.js';
import { ARM64_LR, arm64Rows } from './cfi-arm64.js';
import { X86_RETURN, x86Rows } from './cfi-x86.js';

const EM_X86_64 = 62;
const EM_AARCH64 = 183;
const ET_EXEC = 2;
const SHT_PROGBITS = 1;
const SHT_SYMTAB = 2;
const SHT_STRTAB = 3;
const SHT_NOBITS = 8;
const SHF_WRITE = 1n;
const SHF_ALLOC = 2n;
const SHF_EXECINSTR = 4n;
const STB_GLOBAL = 1;
const STT_NOTYPE = 0;
const STT_OBJECT = 1;
const STT_FUNC = 2;

const HEADER = 64;
const SECTION_HEADER = 64;
const SYMBOL = 24;

/**
 * gdb's `load` writes what is in the file, which would be nothing, and then sets pc to where it begins. A byte for a
 * place where nothing can be written, on both architectures, makes it fail, with the name of the section in front.
 */
const NOT_LOADED: Section = {
  name: '.the_machine_is_loaded_already',
  type: SHT_PROGBITS,
  flags: SHF_ALLOC,
  address: 0x8000_0000_0000_0000n,
  size: 1n,
  bytes: new Uint8Array(1),
  link: 0,
  info: 0,
  entry: 0,
  align: 1,
};

/** Symbols further apart than this are in sections of their own. */
const GAP = 0x1_0000n;

/** What the file is made of. */
export interface SymbolSource {
  readonly arch: 'x86-64' | 'arm64';
  symbols(): readonly SymbolView[];
  readMapped(va: bigint, length: number): Uint8Array;
}

interface Section {
  readonly name: string;
  readonly type: number;
  readonly flags: bigint;
  readonly address: bigint;
  readonly size: bigint;
  readonly bytes: Uint8Array | null;
  readonly link: number;
  readonly info: number;
  readonly entry: number;
  readonly align: number;
}

/** Makes the file of what the machine has now. */
export function symbolFile(source: SymbolSource): Uint8Array {
  const x86 = source.arch === 'x86-64';
  const symbols = withAliases(source.symbols());
  const clusters = cluster(symbols);
  const strings = new Strings();
  const table: number[] = new Array<number>(SYMBOL).fill(0);
  for (const { name, start, size, kind } of symbols) {
    const type = kind === 'code' ? STT_FUNC : kind === 'data' ? STT_OBJECT : STT_NOTYPE;
    const section = clusters.findIndex((each) => start >= each.start && start <= each.end) + 1;
    const info = (STB_GLOBAL << 4) | type;
    table.push(
      ...word(strings.add(name), 4),
      info,
      0,
      ...word(section, 2),
      ...word(start, 8),
      ...word(size, 8),
    );
  }
  const frame = debugFrame(x86 ? X86_RETURN : ARM64_LR, functionsOf(source, symbols));
  const plain = { address: 0n, flags: 0n, link: 0, info: 0, entry: 0, align: 8 };
  const file = (bytes: Uint8Array) => ({ bytes, size: BigInt(bytes.length) });
  const sections: Section[] = [
    ...clusters.map(({ code, start, end }, i) => ({
      ...plain,
      name: code ? `.text.${i}` : `.data.${i}`,
      type: SHT_NOBITS,
      flags: SHF_ALLOC | (code ? SHF_EXECINSTR : SHF_WRITE),
      address: start,
      size: end - start,
      bytes: null,
      align: 1,
    })),
    NOT_LOADED,
    { ...plain, name: '.debug_frame', type: SHT_PROGBITS, ...file(frame) },
    {
      ...plain,
      name: '.symtab',
      type: SHT_SYMTAB,
      ...file(Uint8Array.from(table)),
      link: clusters.length + 4,
      info: 1,
      entry: SYMBOL,
    },
    { ...plain, name: '.strtab', type: SHT_STRTAB, ...file(strings.bytes), align: 1 },
  ];
  const entry = clusters.find(({ code }) => code)?.start ?? 0n;
  return assemble(x86 ? EM_X86_64 : EM_AARCH64, entry, sections);
}

/** How the kernel calls a program's image. */
const IMAGE = /^bpf_prog_[0-9a-f]{16}_/;

/**
 * The same with `bpf_prog_NAME` for images: people do not know the tag by heart. Of several names for one place, gdb
 * shows the only one that has a size.
 */
function withAliases(symbols: readonly SymbolView[]): SymbolView[] {
  const names = new Set(symbols.map(({ name }) => name));
  const shown = new Map<bigint, SymbolView>();
  for (const symbol of symbols) {
    const other = shown.get(symbol.start);
    if (other === undefined || other.size === 0 || (IMAGE.test(symbol.name) && symbol.size > 0)) {
      shown.set(symbol.start, symbol);
    }
  }
  return symbols.flatMap((symbol) => {
    const own = shown.get(symbol.start) === symbol ? symbol : { ...symbol, size: 0 };
    const short = symbol.name.replace(IMAGE, 'bpf_prog_');
    if (short === symbol.name || names.has(short)) return [own];
    names.add(short);
    return [own, { ...symbol, name: short, size: 0 }];
  });
}

interface Cluster {
  readonly code: boolean;
  readonly start: bigint;
  end: bigint;
}

function cluster(symbols: readonly SymbolView[]): Cluster[] {
  const clusters: Cluster[] = [];
  const ascending = [...symbols].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
  for (const { start, size, kind } of ascending) {
    const end = start + BigInt(Math.max(size, 1));
    const last = clusters.at(-1);
    if (last !== undefined && last.code === (kind !== 'data') && start <= last.end + GAP) {
      if (end > last.end) last.end = end;
    } else if (last === undefined || start >= last.end) {
      clusters.push({ code: kind !== 'data', start, end });
    }
  }
  return clusters;
}

/** Code longer than that is not looked through. */
const CODE_MAX = 0x1_0000;

function functionsOf(source: SymbolSource, symbols: readonly SymbolView[]): CfiFunction[] {
  const seen = new Set<bigint>();
  return symbols.flatMap(({ start, size, kind }) => {
    if (kind !== 'code' || size === 0 || size > CODE_MAX || seen.has(start)) return [];
    seen.add(start);
    const code = source.readMapped(start, size);
    if (code.length < size) return [];
    return [{ start, size, rows: isFiller(code) ? END_OF_STACK : rowsOf(source.arch, code) }];
  });
}

/** Host code stands in for it: the way back is not on the stack. */
const END_OF_STACK: readonly CfiRow[] = [{ offset: 0, cfa: null, saved: new Map() }];

function rowsOf(arch: SymbolSource['arch'], code: Uint8Array): CfiRow[] {
  return arch === 'x86-64' ? x86Rows(code) : arm64Rows(code);
}

/** The same word all over, or on x86-64 int3. */
function isFiller(code: Uint8Array): boolean {
  return code.length >= 8
    ? code.every((byte, i) => byte === code[i % 4])
    : code.every((byte) => byte === 0xcc);
}

class Strings {
  readonly #bytes: number[] = [0];

  add(text: string): number {
    const at = this.#bytes.length;
    this.#bytes.push(...Buffer.from(text, 'utf8'), 0);
    return at;
  }

  get bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

function word(value: number | bigint, bytes: number): number[] {
  const whole = BigInt(value);
  return Array.from({ length: bytes }, (_, i) => Number((whole >> BigInt(8 * i)) & 0xffn));
}

function assemble(machine: number, entry: bigint, content: readonly Section[]): Uint8Array {
  const names = new Strings();
  const empty = { address: 0n, flags: 0n, link: 0, info: 0, entry: 0 };
  const called = content.map((section) => ({ section, name: names.add(section.name) }));
  const own = names.add('.shstrtab');
  const { bytes } = names;
  const last: Section = {
    ...empty,
    name: '.shstrtab',
    type: SHT_STRTAB,
    size: BigInt(bytes.length),
    bytes,
    align: 1,
  };
  const all = [...called, { section: last, name: own }];
  const body: Uint8Array[] = [];
  let offset = HEADER;
  const headers: number[] = new Array<number>(SECTION_HEADER).fill(0);
  for (const { section, name } of all) {
    const padding = (8 - (offset % 8)) % 8;
    body.push(new Uint8Array(padding));
    offset += padding;
    headers.push(
      ...word(name, 4),
      ...word(section.type, 4),
      ...word(section.flags, 8),
      ...word(section.address, 8),
      ...word(offset, 8),
      ...word(section.size, 8),
      ...word(section.link, 4),
      ...word(section.info, 4),
      ...word(section.align, 8),
      ...word(section.entry, 8),
    );
    if (section.bytes === null) continue;
    body.push(section.bytes);
    offset += section.bytes.length;
  }
  const padding = (8 - (offset % 8)) % 8;
  const header = [
    ...[0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...word(ET_EXEC, 2),
    ...word(machine, 2),
    ...word(1, 4),
    ...word(entry, 8),
    ...word(0, 8),
    ...word(offset + padding, 8),
    ...word(0, 4),
    ...word(HEADER, 2),
    ...word(0, 2),
    ...word(0, 2),
    ...word(SECTION_HEADER, 2),
    ...word(all.length + 1, 2),
    ...word(all.length, 2),
  ];
  return Uint8Array.from(
    Buffer.concat([Uint8Array.from(header), ...body, new Uint8Array(padding), Uint8Array.from(headers)]),
  );
}
