/** The keyboard, one line at a time: what is typed or pasted while a command runs waits for the next prompt. */
import { Readable } from 'node:stream';

/** What there is of a terminal's input. */
export interface Keys extends NodeJS.EventEmitter {
  setRawMode?(raw: boolean): unknown;
  pause(): unknown;
  resume(): unknown;
}

const INTERRUPT = 0x03;
const TAB = 0x09;
const LF = 0x0a;
const CR = 0x0d;
const ESCAPE = 0x1b;
const BLANK = 0x20;

/**
 * Hands on what comes from `keys` up to the end of a line, and the rest of it after `next()`. Without it readline would
 * show all lines of a paste at once, and what they print far behind them.
 */
export class TypeAhead extends Readable {
  #waiting: Buffer = Buffer.alloc(0);
  #holding = false;
  #ended = false;
  /** The last byte that was handed on: a line feed behind a carriage return is no line of its own. */
  #last = 0;
  readonly #onData = (data: Buffer | string): void => this.#take(Buffer.from(data));
  readonly #onEnd = (): void => {
    this.#ended = true;
    if (this.#waiting.length === 0) this.push(null);
  };

  /** `interrupt` is called for a Ctrl-C that comes while a command runs; what was typed before it is dropped. */
  constructor(
    readonly keys: Keys,
    readonly interrupt: () => void,
  ) {
    super();
    keys.on('data', this.#onData);
    keys.on('end', this.#onEnd);
  }

  /** Where readline looks for it. */
  setRawMode(raw: boolean): this {
    this.keys.setRawMode?.(raw);
    return this;
  }

  override _read(): void {
    this.keys.resume();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.keys.off('data', this.#onData);
    this.keys.off('end', this.#onEnd);
    this.keys.pause();
    done(error);
  }

  /** The command is done: hands on the next line, as far as it was typed. */
  next(): void {
    this.#holding = false;
    const waiting = this.#waiting;
    this.#waiting = Buffer.alloc(0);
    this.#take(waiting);
  }

  /**
   * One byte at a time: characters that come together are put at the end of the line by readline (node 20), wherever
   * the cursor stands.
   */
  #handOn(part: Buffer): void {
    const bytes = typed(part);
    for (let i = 0; i < bytes.length; i += 1) this.push(bytes.subarray(i, i + 1));
  }

  #take(data: Buffer): void {
    if (this.#holding) {
      const at = data.lastIndexOf(INTERRUPT);
      this.#waiting = at < 0 ? Buffer.concat([this.#waiting, data]) : Buffer.from(data.subarray(at + 1));
      if (at >= 0) this.interrupt();
      return;
    }
    if (data.length === 0) {
      if (this.#ended) this.push(null);
      return;
    }
    const from = this.#last === CR && data[0] === LF ? 1 : 0;
    const end = lineEnd(data, from, this.#last);
    const part = end === null ? data.subarray(from) : data.subarray(from, end);
    this.#last = data[(end ?? data.length) - 1] ?? 0;
    this.#holding = end !== null;
    this.#handOn(part);
    if (end !== null) this.#take(data.subarray(end));
    else if (this.#ended) this.push(null);
  }
}

/** A Tab with something behind it that came at once was pasted: nobody wants it to complete anything. */
function typed(bytes: Buffer): Buffer {
  const last = bytes.findLastIndex((byte) => byte !== TAB);
  return Buffer.from(bytes.map((byte, i) => (byte === TAB && i < last ? BLANK : byte)));
}

/** Behind the first end of a line, null if there is none; a Return behind Escape is a key that ends nothing. */
function lineEnd(data: Buffer, from: number, before: number): number | null {
  for (let i = from; i < data.length; i += 1) {
    const byte = data[i];
    const previous = i === 0 ? before : data[i - 1];
    if ((byte === CR || byte === LF) && previous !== ESCAPE) return i + 1;
  }
  return null;
}
