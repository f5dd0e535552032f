/**
 * Formats of programs: port of bpf_bprintf_prepare() and its buffers, kernel/bpf/helpers.c, and of bstr_printf(),
 * lib/vsprintf.c (bpf-next merge 8496d9020ff3).
 *
 * Programs may say: %d %i %u %x %X with l or ll, %c, %s, %p %pK %px %ps %pS %pB %pks %pus %pi4 %pI4 %pi6 %pI6
 * and %%, with the flags `0`, `-`, `+`, a space, and a width. Left out: build ids (%pSb, %pSR), kptr_restrict
 * other than 0.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { EBUSY, EINVAL, ENOSPC } from '../../kernel/errno.js';
import { copy_from_nofault, strncpy_from_nofault } from '../../kernel/maccess.js';
import {
  number,
  plainSpec,
  pointerField,
  type printf_spec,
  string_nocheck,
  TextBuffer,
} from '../../kernel/vsnprintf.js';
import type { BpfEnv } from '../env.js';

/** Bytes of a formatted text, its NUL included. */
export const MAX_BPRINTF_BUF = 1024;
/** Bytes of the arguments in their binary form. */
export const MAX_BPRINTF_BIN_ARGS = 512;
/** Arguments of a format. */
export const MAX_BPRINTF_VARARGS = 12;
/** Texts that may be in the making on one CPU, each inside the one before. */
export const MAX_BPRINTF_NEST_LEVEL = 3;

/** bpf_bprintf_nest_level of each CPU. */
export class BprintfBuffers {
  readonly #level = new Map<number, number>();

  /** How many are taken on a CPU. */
  level(cpu: number): number {
    return this.#level.get(cpu) ?? 0;
  }

  /** Says how many are taken, as if something below had been interrupted. */
  setLevel(cpu: number, level: number): void {
    this.#level.set(cpu, level);
  }
}

/** bpf_try_get_buffers(): 0, or -EBUSY with a warning when all are taken. */
export function bpf_try_get_buffers(here: ThisCpu, env: BpfEnv): number {
  const { id } = here.cpu;
  const level = env.bprintf.level(id) + 1;
  if (level > MAX_BPRINTF_NEST_LEVEL) {
    const site = 'kernel/bpf/helpers.c';
    const test = 'nest_level > MAX_BPRINTF_NEST_LEVEL';
    if (here.kernel.once(`${site}:${test}`)) here.kernel.warn(here, site, 'bpf_try_get_buffers', null);
    return -EBUSY;
  }
  env.bprintf.setLevel(id, level);
  here.current.preempt_count += 1;
  return 0;
}

/** bpf_put_buffers() */
export function bpf_put_buffers(here: ThisCpu, env: BpfEnv): void {
  const { id } = here.cpu;
  env.bprintf.setLevel(id, env.bprintf.level(id) - 1);
  here.current.preempt_count -= 1;
}

const at = (fmt: Uint8Array, i: number): number => fmt[i] ?? 0;
const code = (char: string): number => char.charCodeAt(0);
const isascii = (c: number): boolean => c < 0x80;
const isprint = (c: number): boolean => c >= 0x20 && c < 0x7f;
const isspace = (c: number): boolean => c === 0x20 || (c >= 9 && c <= 13);
const isdigit = (c: number): boolean => c >= 0x30 && c <= 0x39;
const isalpha = (c: number): boolean => (c | 0x20) >= 0x61 && (c | 0x20) <= 0x7a && isascii(c);
const isalnum = (c: number): boolean => isdigit(c) || isalpha(c);
const ispunct = (c: number): boolean => c > 0x20 && c < 0x7f && !isalnum(c);
const isOneOf = (c: number, chars: string): boolean => c !== 0 && chars.includes(String.fromCharCode(c));
/** The end of the format, white space or punctuation: what may stand behind %s and a bare %p. */
const endsField = (c: number): boolean => c === 0 || isspace(c) || ispunct(c);

/** A format in which something is not allowed. */
class BadFormat {
  constructor(readonly errno: number) {}
}

/** The arguments in the binary form that bstr_printf() reads. */
class BinArgs {
  readonly bytes = new Uint8Array(MAX_BPRINTF_BIN_ARGS);
  readonly view = new DataView(this.bytes.buffer);
  end = 0;

  /** Room that is left. */
  get room(): number {
    return MAX_BPRINTF_BIN_ARGS - this.end;
  }

  need(size: number): void {
    if (this.room < size) throw new BadFormat(-ENOSPC);
  }

  put(bytes: Uint8Array): void {
    this.bytes.set(bytes, this.end);
    this.end += bytes.length;
  }

  /** An aligned word of 4 or 8 bytes. */
  putWord(value: bigint, size: 4 | 8): void {
    this.end = (this.end + 3) & ~3;
    this.need(size);
    if (size === 8) this.view.setBigUint64(this.end, BigInt.asUintN(64, value), true);
    else this.view.setUint32(this.end, Number(BigInt.asUintN(32, value)), true);
    this.end += size;
  }

  /** snprintf() into what is left; the place moves by the whole length all the same. */
  putText(text: string): void {
    const bytes = new TextEncoder().encode(text);
    const kept = Math.max(Math.min(bytes.length, this.room - 1), 0);
    this.bytes.set(bytes.subarray(0, kept), this.end);
    if (this.room > 0) this.bytes[this.end + kept] = 0;
    this.end += bytes.length + 1;
  }
}

/** Skips `[0 +-]*` and a width. */
function skipWidth(fmt: Uint8Array, from: number): number {
  let i = from;
  while (isOneOf(at(fmt, i), '0+- ')) i += 1;
  if (at(fmt, i) !== code('0') && isdigit(at(fmt, i))) while (isdigit(at(fmt, i))) i += 1;
  return i;
}

/**
 * bpf_bprintf_prepare(): checks a format and puts the arguments into their binary form.
 * @param fmt without its NUL
 * @returns the arguments, or -EINVAL for a format that is not allowed or has too few arguments, -ENOSPC when
 *   the arguments do not fit
 */
export function bpf_bprintf_prepare(
  here: ThisCpu,
  fmt: Uint8Array,
  raw_args: readonly bigint[],
): Uint8Array | number {
  const args = new BinArgs();
  let num_spec = 0;
  try {
    for (let i = 0; i < fmt.length; i++) {
      const c = at(fmt, i);
      if (isascii(c) && !isprint(c) && !isspace(c)) return -EINVAL;
      if (c !== code('%')) continue;
      if (at(fmt, i + 1) === code('%')) {
        i += 1;
        continue;
      }
      const arg = raw_args[num_spec];
      if (arg === undefined) return -EINVAL;
      if (!isascii(at(fmt, i + 1))) return -EINVAL;
      i = prepareField(here, args, fmt, skipWidth(fmt, i + 1), arg);
      num_spec += 1;
    }
  } catch (refused) {
    if (refused instanceof BadFormat) return refused.errno;
    throw refused;
  }
  return args.bytes;
}

/** Puts one argument; the place of the last character of its conversion. */
function prepareField(here: ThisCpu, args: BinArgs, fmt: Uint8Array, i: number, arg: bigint): number {
  const c = at(fmt, i);
  if (c === code('p')) return preparePointer(here, args, fmt, i, arg);
  if (c === code('s')) return prepareString(here, args, fmt, i, arg, 's');
  if (c === code('c')) {
    args.need(1);
    args.put(Uint8Array.of(Number(arg & 0xffn)));
    return i;
  }
  let size: 4 | 8 = 4;
  let last = i;
  if (at(fmt, last) === code('l')) {
    size = 8;
    last += 1;
  }
  if (at(fmt, last) === code('l')) last += 1;
  if (!isOneOf(at(fmt, last), 'iduxX')) throw new BadFormat(-EINVAL);
  args.putWord(arg, size);
  return last;
}

function preparePointer(here: ThisCpu, args: BinArgs, fmt: Uint8Array, i: number, arg: bigint): number {
  const kind = at(fmt, i + 1);
  if (endsField(kind)) {
    args.putWord(arg, 8);
    return i;
  }
  if (isOneOf(kind, 'ku') && at(fmt, i + 2) === code('s')) {
    return prepareString(here, args, fmt, i + 2, arg, kind === code('k') ? 'k' : 'u');
  }
  if (isOneOf(kind, 'KxsS')) {
    args.putWord(arg, 8);
    return i + 1;
  }
  if (kind === code('B')) {
    args.putText(here.kernel.sprint_backtrace(arg));
    return i + 1;
  }
  const version = at(fmt, i + 2);
  if (!isOneOf(kind, 'iI') || !isOneOf(version, '46')) throw new BadFormat(-EINVAL);
  const size = version === code('4') ? 4 : 16;
  args.need(size);
  const ip = copy_from_nofault(here, arg, size) ?? new Uint8Array(size);
  args.putText(size === 4 ? ip4_string(ip, kind === code('i')) : ip6_string(ip, kind === code('I')));
  return i + 2;
}

/** A string, which is read now; one that cannot be read is empty. */
function prepareString(
  here: ThisCpu,
  args: BinArgs,
  fmt: Uint8Array,
  i: number,
  arg: bigint,
  from: 's' | 'k' | 'u',
): number {
  if (!endsField(at(fmt, i + 1))) throw new BadFormat(-EINVAL);
  args.need(1);
  // CONFIG_ARCH_HAS_NON_OVERLAPPING_ADDRESS_SPACE: %s takes either kind of address.
  const user = from === 'u' || (from === 's' && arg < here.arch.layout.user.end);
  const text = strncpy_from_nofault(here, arg, args.room, user);
  args.put(text instanceof Uint8Array ? text : Uint8Array.of(0));
  return i;
}

/** %pI4; %pi4 has leading zeros. */
function ip4_string(ip: Uint8Array, leadingZeros: boolean): string {
  return Array.from(ip, (byte) => String(byte).padStart(leadingZeros ? 3 : 0, '0')).join('.');
}

/** %pI6; %pi6 has no colons. */
function ip6_string(ip: Uint8Array, colons: boolean): string {
  const digits = Array.from(ip, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return (digits.match(/..../g) ?? []).join(colons ? ':' : '');
}

/** Reads the arguments in their binary form. */
class ArgReader {
  readonly #view: DataView;
  at = 0;
  constructor(readonly bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  word(size: 4 | 8): bigint {
    this.at = (this.at + 3) & ~3;
    const value =
      size === 8 ? this.#view.getBigUint64(this.at, true) : BigInt(this.#view.getUint32(this.at, true));
    this.at += size;
    return value;
  }

  byte(): number {
    const value = this.bytes[this.at] ?? 0;
    this.at += 1;
    return value;
  }

  /** Up to the next NUL, which is left behind. */
  string(): Uint8Array {
    const end = this.bytes.indexOf(0, this.at);
    const text = this.bytes.subarray(this.at, end < 0 ? this.bytes.length : end);
    this.at += text.length + 1;
    return text;
  }
}

/** format_decode() of flags and width: the place behind them. */
function decodeFlags(fmt: Uint8Array, from: number, spec: printf_spec): number {
  let i = from;
  for (; isOneOf(at(fmt, i), '0+- '); i++) {
    const c = at(fmt, i);
    if (c === code('0')) spec.zeropad = true;
    else if (c === code('+')) spec.plus = true;
    else if (c === code('-')) spec.left = true;
    else spec.space = true;
  }
  if (!isdigit(at(fmt, i))) return i;
  spec.field_width = 0;
  for (; isdigit(at(fmt, i)); i++) {
    spec.field_width = (Math.imul(spec.field_width, 10) + at(fmt, i) - code('0')) | 0;
  }
  return i;
}

/**
 * bstr_printf() into a buffer of MAX_BPRINTF_BUF bytes.
 * @param fmt a format that bpf_bprintf_prepare() has allowed, and the arguments as it has made them
 */
export function bstr_printf(here: ThisCpu, fmt: Uint8Array, bin_args: Uint8Array): TextBuffer {
  const out = new TextBuffer(MAX_BPRINTF_BUF);
  const args = new ArgReader(bin_args);
  for (let i = 0; i < fmt.length; i++) {
    const c = at(fmt, i);
    if (c !== code('%')) {
      out.put(c);
      continue;
    }
    const spec = plainSpec();
    i = printField(here, out, args, fmt, decodeFlags(fmt, i + 1, spec), spec);
  }
  return out;
}

/** Prints one conversion; the place of its last character. */
function printField(
  here: ThisCpu,
  out: TextBuffer,
  args: ArgReader,
  fmt: Uint8Array,
  from: number,
  spec: printf_spec,
): number {
  let i = from;
  switch (String.fromCharCode(at(fmt, i))) {
    case '%':
      out.put(code('%'));
      return i;
    case 'c':
      string_nocheck(out, Uint8Array.of(args.byte()), spec);
      return i;
    case 's':
      string_nocheck(out, args.string(), spec);
      return i;
    case 'p':
      return printPointer(here, out, args, fmt, i, spec);
    default: {
      const size = at(fmt, i) === code('l') ? 8 : 4;
      while (at(fmt, i) === code('l')) i += 1;
      const kind = at(fmt, i);
      const word = args.word(size);
      const signed = isOneOf(kind, 'di');
      const value = signed ? BigInt.asIntN(size * 8, word) : word;
      number(out, value, { base: isOneOf(kind, 'xX') ? 16 : 10, signed, upper: kind === code('X') }, spec);
      return i;
    }
  }
}

function printPointer(
  here: ThisCpu,
  out: TextBuffer,
  args: ArgReader,
  fmt: Uint8Array,
  i: number,
  spec: printf_spec,
): number {
  const kind = at(fmt, i + 1);
  if (isOneOf(kind, 'SsxKe') || !isalnum(kind)) {
    const address = args.word(8);
    if (kind === code('x')) pointerField(out, address, spec);
    else if (isOneOf(kind, 'sS')) string_nocheck(out, symbolText(here, address, kind === code('s')), spec);
    else pointerField(out, BigInt(`0x${here.kernel.hashed_pointer(address)}`), spec);
  } else if (!out.full) {
    // The text was made with the arguments. When nothing more is kept, the kernel leaves it where it is.
    out.append(args.string());
  }
  // Letters and digits behind a pointer belong to it, whatever they are.
  let last = i;
  while (isalnum(at(fmt, last + 1))) last += 1;
  return last;
}

/** %pS, and %ps: without offset and size. */
function symbolText(here: ThisCpu, address: bigint, bare: boolean): Uint8Array {
  const text = here.kernel.sprint_symbol(address);
  return new TextEncoder().encode(bare ? text.replace(/\+0x[0-9a-f]+\/0x[0-9a-f]+/, '') : text);
}
