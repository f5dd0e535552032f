/** Bytes to messages: `Content-Length: N`, an empty line, N bytes of JSON. Finds the next message behind broken ones. */

export type Incoming =
  | { readonly kind: 'message'; readonly value: unknown }
  /** Bytes that were no message, and why. */
  | { readonly kind: 'bad'; readonly why: string };

/** The longest message, in bytes. */
const MESSAGE_MAX = 16 * 2 ** 20;
/** The longest header, in bytes, with everything that may stand in front of it. */
const HEADER_MAX = 8192;
const END = '\r\n\r\n';
const LENGTH = /Content-Length: *((?:(?!Content-Length:)[^\r\n])*)/gi;

/** Takes bytes as they come. */
export class MessageReader {
  #chunks: Buffer[] = [];
  #size = 0;
  /** Length of the body that comes next; null: a header does. */
  #wanted: number | null = null;

  push(bytes: Uint8Array): Incoming[] {
    this.#chunks.push(Buffer.from(bytes));
    this.#size += bytes.length;
    const found: Incoming[] = [];
    while (this.#wanted === null ? this.#header(found) : this.#body(this.#wanted, found));
    return found;
  }

  get #all(): Buffer {
    const [first, ...others] = this.#chunks;
    if (first === undefined) return Buffer.alloc(0);
    if (others.length === 0) return first;
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [all];
    return all;
  }

  #keep(rest: Buffer): void {
    this.#chunks = rest.length === 0 ? [] : [rest];
    this.#size = rest.length;
  }

  /** Takes a header; false when there is none yet. */
  #header(found: Incoming[]): boolean {
    if (this.#size === 0) return false;
    const all = this.#all;
    const end = all.indexOf(END);
    if (end < 0) {
      // What is too long for a header is dropped, but for what may be the beginning of one.
      if (all.length <= HEADER_MAX) return false;
      found.push({ kind: 'bad', why: `${all.length} bytes without a header` });
      const last = all.toString('latin1').toLowerCase().lastIndexOf('content-length:');
      this.#keep(Buffer.from(all.subarray(last > all.length - 64 ? last : all.length - 16)));
      return false;
    }
    const text = all.toString('latin1', 0, end);
    this.#keep(Buffer.from(all.subarray(end + END.length)));
    // The last one counts: bytes of a broken message may stand in front of it.
    const lengths = [...text.matchAll(LENGTH)];
    const last = lengths.at(-1);
    if (last === undefined) {
      found.push({ kind: 'bad', why: 'a header without Content-Length' });
      return true;
    }
    if (last.index > 0 && !/^([\w-]+:[^\r\n]*\r\n)*$/.test(text.slice(0, last.index))) {
      found.push({ kind: 'bad', why: 'bytes in front of a header' });
    }
    const digits = (last[1] ?? '').trim();
    if (!/^[0-9]{1,9}$/.test(digits) || Number(digits) > MESSAGE_MAX) {
      const said = digits === '' ? 'empty' : digits.slice(0, 40);
      found.push({ kind: 'bad', why: `Content-Length is ${said}, no number up to ${MESSAGE_MAX}` });
      return true;
    }
    this.#wanted = Number(digits);
    return true;
  }

  /** Takes a body; false when it is not there as a whole. */
  #body(length: number, found: Incoming[]): boolean {
    if (this.#size < length) return false;
    const all = this.#all;
    const body = all.subarray(0, length);
    const rest = all.subarray(length);
    this.#wanted = null;
    try {
      found.push({ kind: 'message', value: JSON.parse(body.toString('utf8')) });
      this.#keep(Buffer.from(rest));
    } catch (error) {
      found.push({ kind: 'bad', why: `no JSON: ${error instanceof Error ? error.message : String(error)}` });
      // A length that was too great has swallowed what came next.
      const next = all.indexOf('Content-Length:');
      this.#keep(Buffer.from(next < 0 || next >= length ? rest : all.subarray(next)));
    }
    return true;
  }
}

/** A message as it goes over the wire. */
export function framed(message: unknown): Buffer {
  const body = Buffer.from(JSON.stringify(message), 'utf8');
  return Buffer.concat([Buffer.from(`Content-Length: ${body.length}${END}`, 'latin1'), body]);
}
