/** An expression in a fixture: its text, its parsed form and the place it came from. */
import {
  ExpressionError,
  evaluate,
  type Node,
  parseExpression,
  type Scope,
  walkNames,
} from './expression.js';
import type { FixtureError } from './fixture-error.js';
import type { Path, Source } from './source.js';

export class Expression {
  #node: Node | null = null;
  #source: Source | null = null;
  #path: Path = [];

  constructor(readonly text: string) {}

  get path(): Path {
    return this.#path;
  }

  /** Ties the expression to its place and parses it; the mistake found, or null. */
  bind(source: Source, path: Path): FixtureError | null {
    this.#source = source;
    this.#path = path;
    try {
      this.#node = parseExpression(this.text);
      return null;
    } catch (error) {
      return this.#located(error);
    }
  }

  /** The first name that `visit` refuses (by an ExpressionError), or null. */
  check(visit: Parameters<typeof walkNames>[1]): FixtureError | null {
    if (this.#node === null) return null;
    try {
      walkNames(this.#node, visit);
      return null;
    } catch (error) {
      return this.#located(error);
    }
  }

  /** The value, unsigned 64 bits. Throws a FixtureError at the place of a name that means nothing now. */
  value(scope: Scope): bigint {
    if (this.#node === null) throw new Error(`expression ${this.text} was never bound`);
    try {
      return evaluate(this.#node, scope);
    } catch (error) {
      throw this.#located(error);
    }
  }

  /** The value as a number. Throws a FixtureError when it lies outside `min`..`max`. */
  number(scope: Scope, min: number, max: number, what: string): number {
    const value = this.value(scope);
    if (value < BigInt(min) || value > BigInt(max)) {
      const shown = this.text.startsWith('-') ? BigInt.asIntN(64, value) : value;
      throw this.error(`${what} of ${shown}: it must be ${min} to ${max}`);
    }
    return Number(value);
  }

  /** An error at this expression. */
  error(message: string, hint = ''): FixtureError {
    if (this.#source === null) throw new Error(`expression ${this.text} was never bound`);
    return this.#source.at(this.#path, message, hint);
  }

  #located(error: unknown): FixtureError {
    if (!(error instanceof ExpressionError) || this.#source === null) throw error;
    return this.#source.at(this.#path, error.message, error.hint, error.offset);
  }
}
