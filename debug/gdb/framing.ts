/**
 * Packets of the GDB remote protocol as bytes: `$data#checksum`, acknowledgements, and the interrupt byte. See
 * "Overview" and "Packet Acknowledgment" in the appendix of gdb's manual on the protocol.
 */

/** What a stream of bytes comes to. */
export type Item =
  | { readonly kind: 'packet'; readonly data: Uint8Array }
  /** A packet whose checksum is wrong, or that is longer than any may be. */
  | { readonly kind: 'bad' }
  | { readonly kind: 'ack' }
  | { readonly kind: 'nak' }
  | { readonly kind: 'interrupt' };

/** The longest packet that is taken or sent, in bytes between `$` and `#`; escapes are counted. */
export const PACKET_MAX = 0x4000;

const DOLLAR = 0x24;
const HASH = 0x23;
const ESCAPE = 0x7d;
const STAR = 0x2a;
const PLUS = 0x2b;
const MINUS = 0x2d;
const INTERRUPT = 0x03;

/** Takes a stream of bytes apart. Holds one packet at the most. */
export class PacketReader {
  readonly #data = new Uint8Array(PACKET_MAX);
  /** Bytes of the packet so far; more than fit: they are counted, not kept. */
  #length = 0;
  #sum = 0;
  #state: 'idle' | 'data' | 'first digit' | 'second digit' = 'idle';
  #digit = 0;

  /** What the bytes complete, in order. Bytes between packets that mean nothing are skipped. */
  push(bytes: Uint8Array): Item[] {
    const items: Item[] = [];
    for (const byte of bytes) {
      const item = this.#take(byte);
      if (item !== null) items.push(item);
    }
    return items;
  }

  #take(byte: number): Item | null {
    switch (this.#state) {
      case 'idle':
        if (byte === DOLLAR) this.#begin();
        else if (byte === PLUS) return { kind: 'ack' };
        else if (byte === MINUS) return { kind: 'nak' };
        else if (byte === INTERRUPT) return { kind: 'interrupt' };
        return null;
      case 'data':
        // It is escaped inside of packets: whoever sent the one before has given up in the middle.
        if (byte === DOLLAR) this.#begin();
        else if (byte === HASH) this.#state = 'first digit';
        else {
          if (this.#length < PACKET_MAX) this.#data[this.#length] = byte;
          this.#length += 1;
          this.#sum = (this.#sum + byte) & 0xff;
        }
        return null;
      case 'first digit':
        if (byte === DOLLAR) return this.#cutShort();
        this.#digit = digit(byte);
        this.#state = 'second digit';
        return null;
      case 'second digit': {
        if (byte === DOLLAR) return this.#cutShort();
        this.#state = 'idle';
        const sum = this.#digit * 16 + digit(byte);
        if (sum !== this.#sum || this.#length > PACKET_MAX) return { kind: 'bad' };
        return { kind: 'packet', data: unescaped(this.#data.subarray(0, this.#length)) };
      }
    }
  }

  #cutShort(): Item {
    this.#begin();
    return { kind: 'bad' };
  }

  #begin(): void {
    this.#state = 'data';
    this.#length = 0;
    this.#sum = 0;
  }
}

/** Far from every sum when it is no digit. */
function digit(byte: number): number {
  const value = Number.parseInt(String.fromCharCode(byte), 16);
  return Number.isNaN(value) ? 0x1000 : value;
}

function unescaped(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes.length);
  let length = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i] ?? 0;
    if (byte === ESCAPE && i + 1 < bytes.length) {
      i += 1;
      out[length++] = (bytes[i] ?? 0) ^ 0x20;
    } else {
      out[length++] = byte;
    }
  }
  return out.slice(0, length);
}

function isEscaped(byte: number): boolean {
  return byte === DOLLAR || byte === HASH || byte === ESCAPE || byte === STAR;
}

/** How long `data` gets when it is escaped. */
function escapedLength(data: Uint8Array): number {
  let length = data.length;
  for (const byte of data) if (isEscaped(byte)) length += 1;
  return length;
}

/** As many of the first bytes as fit into `room` when they are escaped. */
export function fitting(data: Uint8Array, room: number): Uint8Array {
  let length = 0;
  for (let i = 0; i < data.length; i++) {
    length += isEscaped(data[i] ?? 0) ? 2 : 1;
    if (length > room) return data.subarray(0, i);
  }
  return data;
}

/** A packet, ready to be sent. */
export function packet(data: Uint8Array): Uint8Array {
  const out = new Uint8Array(escapedLength(data) + 4);
  let length = 0;
  let sum = 0;
  const put = (byte: number): void => {
    out[length++] = byte;
    sum = (sum + byte) & 0xff;
  };
  out[length++] = DOLLAR;
  for (const byte of data) {
    if (isEscaped(byte)) {
      put(ESCAPE);
      put(byte ^ 0x20);
    } else {
      put(byte);
    }
  }
  out[length++] = HASH;
  const digits = sum.toString(16).padStart(2, '0');
  out[length++] = digits.charCodeAt(0);
  out[length] = digits.charCodeAt(1);
  return out;
}

export const ACK: Uint8Array = Uint8Array.of(PLUS);
export const NAK: Uint8Array = Uint8Array.of(MINUS);
