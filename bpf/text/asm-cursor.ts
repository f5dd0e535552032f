/** Reads one line of BPF text from left to right. */

/** A mistake in one line; the caller knows which. */
export class LineError extends Error {
  /** @param column from 1 */
  constructor(
    message: string,
    readonly column: number,
  ) {
    super(message);
  }
}

/** `r3` or `w3`. */
export interface Register {
  readonly number: number;
  /** False for w. */
  readonly wide: boolean;
  readonly column: number;
}

const NUMBER = /^[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|[0-9][0-9_]*)/;

export class Cursor {
  #at = 0;

  /**
   * @param text the line, without its comment
   * @param first column of its first character, from 1
   * @param constant value of an expression in words, or null
   */
  constructor(
    readonly text: string,
    readonly first: number,
    readonly constant: (expression: string) => bigint | null,
  ) {
    this.blank();
  }

  get column(): number {
    return this.first + this.#at;
  }

  get atEnd(): boolean {
    return this.#at >= this.text.length;
  }

  /** What is not read yet. */
  get rest(): string {
    return this.text.slice(this.#at);
  }

  blank(): void {
    while (/\s/.test(this.text[this.#at] ?? '')) this.#at += 1;
  }

  fail(message: string, column = this.column): never {
    throw new LineError(message, column);
  }

  /** Reads what `pattern` (anchored with ^) matches, and blanks behind it; null if it does not. */
  match(pattern: RegExp): RegExpExecArray | null {
    const found = pattern.exec(this.rest);
    if (found === null) return null;
    this.#at += found[0].length;
    this.blank();
    return found;
  }

  eat(token: string): boolean {
    if (!this.rest.startsWith(token)) return false;
    this.#at += token.length;
    this.blank();
    return true;
  }

  /** Reads a word, not the beginning of a longer one. */
  eatWord(word: string): boolean {
    if (!this.rest.startsWith(word) || /[\w.]/.test(this.text[this.#at + word.length] ?? '')) return false;
    return this.eat(word);
  }

  expect(token: string): void {
    if (!this.eat(token)) this.fail(`expected ${JSON.stringify(token)}${this.#found()}`);
  }

  end(): void {
    if (!this.atEnd) this.fail(`nothing more is expected here${this.#found()}`);
  }

  #found(): string {
    return this.atEnd ? ', but the line ends' : `, found ${JSON.stringify(this.rest)}`;
  }

  /** A register, or null. r11 and above are no registers of programs. */
  maybeRegister(): Register | null {
    const column = this.column;
    const found = this.match(/^([rw])(\d+)(?![\w.])/);
    if (found === null) return null;
    const number = Number(found[2]);
    if (number > 10) this.fail(`${found[1]}${number}: registers are numbered 0 to 10`, column);
    return { number, wide: found[1] === 'r', column };
  }

  register(): Register {
    return this.maybeRegister() ?? this.fail(`expected a register${this.#found()}`);
  }

  wideRegister(): number {
    const { number, wide, column } = this.register();
    if (!wide) this.fail(`w${number}: an address takes 64 bits, r${number}`, column);
    return number;
  }

  /**
   * A number, or an expression in words up to the first of `stops` outside of parentheses. Null if there are words
   * that have no value; then nothing is read.
   */
  maybeNumber(stops: readonly string[]): bigint | null {
    const { expression, length } = this.#expression(stops);
    if (expression === '') this.fail(`expected a number${this.#found()}`);
    const literal = NUMBER.exec(expression)?.[0];
    const value = literal === expression ? parseNumber(literal) : this.constant(expression);
    if (value === null) return null;
    this.#at += length;
    this.blank();
    return value;
  }

  /** A number of `bits` bits: signed, and with `unsigned` also what is below 2 ** bits. */
  number(what: string, bits: number, unsigned: boolean, stops: readonly string[]): bigint {
    const column = this.column;
    const value = this.maybeNumber(stops);
    if (value === null) {
      this.fail(`${JSON.stringify(this.#expression(stops).expression)} has no value`, column);
    }
    const limit = 1n << BigInt(bits - 1);
    if (value < -limit || value >= (unsigned ? limit * 2n : limit)) {
      this.fail(`${what} ${value} does not fit ${bits} bits${unsigned ? '' : ' with a sign'}`, column);
    }
    return BigInt.asIntN(bits, value);
  }

  #expression(stops: readonly string[]): { readonly expression: string; readonly length: number } {
    let depth = 0;
    let length = 0;
    for (const rest = this.rest; length < rest.length; length += 1) {
      if (depth === 0 && stops.some((stop) => rest.startsWith(stop, length))) break;
      const char = rest[length];
      if (char === '(') depth += 1;
      else if (char === ')') depth -= 1;
    }
    const expression = this.rest.slice(0, length).trim();
    return { expression, length };
  }
}

/** Value of a literal of NUMBER, or null if its digits are missing. */
function parseNumber(literal: string): bigint | null {
  const negative = literal.startsWith('-');
  const digits = literal.replace(/^[+-]/, '').replaceAll('_', '');
  if (/^0[xXbB]$/.test(digits)) return null;
  return negative ? -BigInt(digits) : BigInt(digits);
}
