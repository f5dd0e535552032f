/**
 * Address expressions: numbers, symbols, labels and arenas with the operators of C, wrapping at 64 bits.
 *
 *   a.kern + 0x26203000        write_cmask.loop        -EBUSY        (a.page(3) & ~0xfff) | 7
 *
 * Precedence from loose to tight: `|`, `^`, `&`, `<< >>`, `+ -`, `*`, unary `- ~`.
 */
import { u64 } from '../../emu/address.js';
import { quoted } from './fixture-error.js';

/** A mistake at `offset` characters into the expression. */
export class ExpressionError extends Error {
  override name = 'ExpressionError';
  constructor(
    readonly offset: number,
    message: string,
    readonly hint = '',
  ) {
    super(message);
  }
}

export type BinaryOperator = '|' | '^' | '&' | '<<' | '>>' | '+' | '-' | '*';

/** A parsed expression; `offset` is where it (or its operator) stands in the text. */
export type Node =
  | { readonly kind: 'number'; readonly offset: number; readonly value: bigint }
  | { readonly kind: 'name'; readonly offset: number; readonly name: string }
  | { readonly kind: 'member'; readonly offset: number; readonly object: string; readonly member: string }
  | {
      readonly kind: 'call';
      readonly offset: number;
      /** `a` of `a.page(3)`, null for a plain function. */
      readonly object: string | null;
      readonly fn: string;
      readonly args: readonly Node[];
    }
  | { readonly kind: 'unary'; readonly offset: number; readonly operator: '-' | '~'; readonly operand: Node }
  | {
      readonly kind: 'binary';
      readonly offset: number;
      readonly operator: BinaryOperator;
      readonly left: Node;
      readonly right: Node;
    };

/** What names mean. Each throws an ExpressionError (at `offset`) for what it does not know. */
export interface Scope {
  name(name: string, offset: number): bigint;
  member(object: string, member: string, offset: number): bigint;
  /** `args` are not evaluated yet: a function may take the name of an arena. */
  call(object: string | null, fn: string, args: readonly Node[], offset: number): bigint;
}

/** Longest expression in characters and deepest nesting; both far beyond any sensible use. */
const LENGTH_MAX = 1000;
const DEPTH_MAX = 64;

interface Token {
  readonly kind: 'number' | 'name' | 'operator' | 'end';
  readonly text: string;
  readonly offset: number;
}

const TOKEN = /\s*(?:([0-9][0-9A-Za-z_]*)|([A-Za-z_][A-Za-z0-9_]*)|(<<|>>|[-+*&|^~().,]))/y;

function tokenize(text: string): Token[] {
  if (text.length > LENGTH_MAX) {
    throw new ExpressionError(0, `an expression of ${text.length} characters: ${LENGTH_MAX} is the most`);
  }
  const tokens: Token[] = [];
  let at = 0;
  const end = text.trimEnd().length;
  while (at < end) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (match === null) {
      const offset = at + (/^\s*/.exec(text.slice(at))?.[0].length ?? 0);
      throw new ExpressionError(offset, `${quoted(text.charAt(offset))} means nothing in an expression`);
    }
    const [whole, number, name, operator] = match;
    const word = number ?? name ?? operator ?? '';
    const kind = number !== undefined ? 'number' : name !== undefined ? 'name' : 'operator';
    at += whole.length;
    tokens.push({ kind, text: word, offset: at - word.length });
  }
  tokens.push({ kind: 'end', text: '', offset: end });
  return tokens;
}

function parseNumber(token: Token): bigint {
  const digits = token.text.replaceAll('_', '');
  if (!/^(?:0[xX][0-9a-fA-F]+|0[bB][01]+|[0-9]+)$/.test(digits) || /__|_$/.test(token.text)) {
    throw new ExpressionError(
      token.offset,
      `${quoted(token.text)} is not a number`,
      'Numbers are decimal, 0x… or 0b…, with _ between digits where it helps.',
    );
  }
  if (/^0[0-9]/.test(digits)) {
    throw new ExpressionError(
      token.offset,
      `${quoted(token.text)}: a leading zero is not allowed (octal or decimal?)`,
    );
  }
  const value = BigInt(digits);
  if (value >= 1n << 64n)
    throw new ExpressionError(token.offset, `${quoted(token.text)} does not fit 64 bits`);
  return value;
}

const LEVELS: readonly (readonly BinaryOperator[])[] = [['|'], ['^'], ['&'], ['<<', '>>'], ['+', '-'], ['*']];

class Parser {
  #at = 0;
  #depth = 0;
  constructor(readonly tokens: readonly Token[]) {}

  get token(): Token {
    return this.tokens[this.#at] ?? { kind: 'end', text: '', offset: 0 };
  }

  take(): Token {
    const { token } = this;
    this.#at += 1;
    return token;
  }

  is(operator: string): boolean {
    return this.token.kind === 'operator' && this.token.text === operator;
  }

  expect(operator: string): void {
    if (!this.is(operator)) {
      throw new ExpressionError(this.token.offset, `\`${operator}\` is missing here${this.found()}`);
    }
    this.#at += 1;
  }

  found(): string {
    return this.token.kind === 'end' ? '' : `, not ${quoted(this.token.text)}`;
  }

  binary(level: number): Node {
    const operators = LEVELS[level];
    if (operators === undefined) return this.unary();
    let left = this.binary(level + 1);
    for (;;) {
      const operator = operators.find((o) => this.is(o));
      if (operator === undefined) return left;
      const { offset } = this.take();
      left = { kind: 'binary', offset, operator, left, right: this.binary(level + 1) };
    }
  }

  unary(): Node {
    this.#depth += 1;
    if (this.#depth > DEPTH_MAX) throw new ExpressionError(this.token.offset, 'nested too deep');
    const node = this.unaryInner();
    this.#depth -= 1;
    return node;
  }

  private unaryInner(): Node {
    const { token } = this;
    if (this.is('-') || this.is('~')) {
      this.take();
      return {
        kind: 'unary',
        offset: token.offset,
        operator: token.text as '-' | '~',
        operand: this.unary(),
      };
    }
    if (this.is('(')) {
      this.take();
      const inner = this.binary(0);
      this.expect(')');
      return inner;
    }
    if (token.kind === 'number') {
      this.take();
      return { kind: 'number', offset: token.offset, value: parseNumber(token) };
    }
    if (token.kind === 'name') return this.named();
    throw new ExpressionError(token.offset, `a number, a name or ( is missing here${this.found()}`);
  }

  private named(): Node {
    const { text: name, offset } = this.take();
    if (this.is('(')) return { kind: 'call', offset, object: null, fn: name, args: this.args() };
    if (!this.is('.')) return { kind: 'name', offset, name };
    this.take();
    const member = this.take();
    if (member.kind !== 'name') {
      throw new ExpressionError(member.offset, `a name is missing behind ${quoted(`${name}.`)}`);
    }
    if (!this.is('(')) return { kind: 'member', offset, object: name, member: member.text };
    return { kind: 'call', offset, object: name, fn: member.text, args: this.args() };
  }

  private args(): Node[] {
    this.expect('(');
    const args: Node[] = [];
    if (!this.is(')')) {
      args.push(this.binary(0));
      while (this.is(',')) {
        this.take();
        args.push(this.binary(0));
      }
    }
    this.expect(')');
    return args;
  }
}

/** Parses an expression. Throws an ExpressionError with the offset of the mistake. */
export function parseExpression(text: string): Node {
  const parser = new Parser(tokenize(text));
  if (text.trim() === '') throw new ExpressionError(0, 'an expression is missing here');
  const node = parser.binary(0);
  if (parser.token.kind !== 'end') {
    throw new ExpressionError(
      parser.token.offset,
      `an operator is missing before ${quoted(parser.token.text)}`,
    );
  }
  return node;
}

/** Value of an expression, an unsigned 64-bit number. */
export function evaluate(node: Node, scope: Scope): bigint {
  switch (node.kind) {
    case 'number':
      return node.value;
    case 'name':
      return u64(scope.name(node.name, node.offset));
    case 'member':
      return u64(scope.member(node.object, node.member, node.offset));
    case 'call':
      return u64(scope.call(node.object, node.fn, node.args, node.offset));
    case 'unary': {
      const value = evaluate(node.operand, scope);
      return u64(node.operator === '-' ? -value : ~value);
    }
    case 'binary':
      return binary(node.operator, evaluate(node.left, scope), evaluate(node.right, scope));
  }
}

function binary(operator: BinaryOperator, left: bigint, right: bigint): bigint {
  switch (operator) {
    case '|':
      return left | right;
    case '^':
      return left ^ right;
    case '&':
      return left & right;
    case '<<':
      return right > 63n ? 0n : u64(left << right);
    case '>>':
      return right > 63n ? 0n : left >> right;
    case '+':
      return u64(left + right);
    case '-':
      return u64(left - right);
    case '*':
      return u64(left * right);
  }
}

/** Walks an expression without evaluating it: for checking names ahead of a run. */
export function walkNames(
  node: Node,
  visit: (node: Extract<Node, { kind: 'name' | 'member' | 'call' }>) => void,
): void {
  switch (node.kind) {
    case 'number':
      return;
    case 'name':
    case 'member':
      visit(node);
      return;
    case 'call':
      visit(node);
      // The argument of scratch() is an arena: not a number, and checked with the call.
      if (node.fn !== 'scratch') for (const arg of node.args) walkNames(arg, visit);
      return;
    case 'unary':
      walkNames(node.operand, visit);
      return;
    case 'binary':
      walkNames(node.left, visit);
      walkNames(node.right, visit);
      return;
  }
}
