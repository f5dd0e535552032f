/**
 * Fields of a format as lib/vsprintf.c makes them (bpf-next merge 8496d9020ff3): number(), string(),
 * pointer_string(), and the buffer that keeps counting when it is full.
 *
 * Left out: precision, `#` and octal numbers; nobody who formats here can ask for them.
 */

/** struct printf_spec, the part that is used. */
export interface printf_spec {
  /** FLAG_LEFT: `-`. */
  left: boolean;
  /** FLAG_PLUS: `+`. */
  plus: boolean;
  /** FLAG_SPACE: a space. */
  space: boolean;
  /** FLAG_ZEROPAD: `0`. */
  zeropad: boolean;
  /** -1 when the format names none. */
  field_width: number;
}

export function plainSpec(): printf_spec {
  return { left: false, plus: false, space: false, zeropad: false, field_width: -1 };
}

/** What vsnprintf() writes to: the first bytes are kept, all are counted. */
export class TextBuffer {
  readonly #bytes: Uint8Array;
  /** Length of the whole text, that which did not fit included. */
  length = 0;

  /** @param size bytes, the NUL behind the text included */
  constructor(readonly size: number) {
    this.#bytes = new Uint8Array(size);
  }

  put(byte: number): void {
    if (this.length < this.size) this.#bytes[this.length] = byte;
    this.length += 1;
  }

  repeat(byte: number, count: number): void {
    if (count <= 0) return;
    if (this.length < this.size) this.#bytes.fill(byte, this.length, this.length + count);
    this.length += count;
  }

  append(bytes: Uint8Array): void {
    const room = this.size - this.length;
    if (room > 0) this.#bytes.set(bytes.subarray(0, room), this.length);
    this.length += bytes.length;
  }

  /** True when nothing more is kept. */
  get full(): boolean {
    return this.length >= this.size;
  }

  /** The buffer up to the length of the text: a text that reaches its end has a NUL for its last byte. */
  finish(): Uint8Array {
    const kept = this.#bytes.slice(0, Math.min(this.length, this.size));
    if (this.length >= this.size) kept[this.size - 1] = 0;
    return kept;
  }
}

const SPACE = 0x20;
const ZERO = 0x30;
const encoder = new TextEncoder();

/** How an integer is to be written. */
export interface NumberKind {
  readonly base: 10 | 16;
  /** FLAG_SIGN: `value` may be negative. */
  readonly signed: boolean;
  /** FLAG_SMALL is not set: `%X`. */
  readonly upper?: boolean;
}

/** number(): `value` is what the C type holds, negative only when it is signed. */
export function number(out: TextBuffer, value: bigint, kind: NumberKind, spec: printf_spec): void {
  let width = spec.field_width;
  let sign = '';
  if (kind.signed) {
    if (value < 0n) sign = '-';
    else if (spec.plus) sign = '+';
    else if (spec.space) sign = ' ';
  }
  width -= sign.length;
  const lower = (value < 0n ? -value : value).toString(kind.base);
  const digits = kind.upper === true ? lower.toUpperCase() : lower;
  width -= digits.length;
  if (!spec.zeropad && !spec.left) {
    out.repeat(SPACE, width);
    width = 0;
  }
  if (sign !== '') out.put(sign.charCodeAt(0));
  if (!spec.left) {
    out.repeat(ZERO, width);
    width = 0;
  }
  out.append(encoder.encode(digits));
  out.repeat(SPACE, width);
}

/** string_nocheck(): padded with spaces, whatever the flags say about zeros. */
export function string_nocheck(out: TextBuffer, text: Uint8Array, spec: printf_spec): void {
  const spaces = spec.field_width - text.length;
  if (!spec.left) out.repeat(SPACE, spaces);
  out.append(text);
  if (spec.left) out.repeat(SPACE, spaces);
}

/** pointer_string(): without a width of its own, 16 digits. */
export function pointerField(out: TextBuffer, value: bigint, spec: printf_spec): void {
  const own = spec.field_width === -1;
  const full = own ? { ...spec, field_width: 16, zeropad: true } : spec;
  number(out, value, { base: 16, signed: false }, full);
}
