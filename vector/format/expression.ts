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

export type BinaryOperator =
  | '|'
  | '^'
  | '&'
  | '<<'
  | '>>'
  | '+'
  | '-'
  | '*'
  | '||'
  | '&&'
  | '=='
  | '!='
  | '<'
  | '<='
  | '>'
  | '>='
  | '/'
  | '%';
export type UnaryOperator = '-' | '~' | '!';

/** Bytes of a number in memory. */
export type Size = 1 | 2 | 4 | 8;

/**
 * What a debugger's expressions have besides: registers `$rdi`, numbers in memory `*(u32 *)ADDRESS`, comparisons and
 * logic, `/` and `%`, and C's `&` in front of a name. Here is the size of a C type by its name; null for what is none.
 */
export type Types = (name: string) => Size | null;

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
  | { readonly kind: 'register'; readonly offset: number; readonly name: string }
  | { readonly kind: 'load'; readonly offset: number; readonly size: Size; readonly address: Node }
  | {
      readonly kind: 'unary';
      readonly offset: number;
      readonly operator: UnaryOperator;
      readonly operand: Node;
    }
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
  /** Where registers can be asked for, without the `$`. */
  register?(name: string, offset: number): bigint;
  /** Where memory can be read: an unsigned number. */
  load?(address: bigint, size: Size, offset: number): bigint;
}

/** Longest expression in characters and deepest nesting; both far beyond any sensible use. */
const LENGTH_MAX = 1000;
const DEPTH_MAX = 64;

interface Token {
  readonly kind: 'number' | 'name' | 'register' | 'operator' | 'end';
  readonly text: string;
  readonly offset: number;
}

const TOKEN = /\s*(?:([0-9][0-9A-Za-z_]*)|([A-Za-z_][A-Za-z0-9_]*)|(<<|>>|[-+*&|^~().,]))/y;
const DEBUGGER_TOKEN =
  /\s*(?:([0-9][0-9A-Za-z_]*)|([A-Za-z_][A-Za-z0-9_]*)|(<<|>>|[<>=!]=|&&|\|\||[-+*/%&|^~!<>().,])|(\$[A-Za-z_]\w*))/y;

function tokenize(text: string, pattern: RegExp): Token[] {
  if (text.length > LENGTH_MAX) {
    throw new ExpressionError(0, `an expression of ${text.length} characters: ${LENGTH_MAX} is the most`);
  }
  const tokens: Token[] = [];
  let at = 0;
  const end = text.trimEnd().length;
  while (at < end) {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match === null) {
      const offset = at + (/^\s*/.exec(text.slice(at))?.[0].length ?? 0);
      throw new ExpressionError(offset, `${quoted(text.charAt(offset))} means nothing in an expression`);
    }
    const [whole, number, name, operator, register] = match;
    const word = number ?? name ?? operator ?? register ?? '';
    at += whole.length;
    tokens.push({ kind: kindOf(number, name, operator), text: word, offset: at - word.length });
  }
  tokens.push({ kind: 'end', text: '', offset: end });
  return tokens;
}

function kindOf(number?: string, name?: string, operator?: string): Token['kind'] {
  if (number !== undefined) return 'number';
  if (name !== undefined) return 'name';
  return operator !== undefined ? 'operator' : 'register';
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

type Levels = readonly (readonly BinaryOperator[])[];

const LEVELS: Levels = [['|'], ['^'], ['&'], ['<<', '>>'], ['+', '-'], ['*']];
const DEBUGGER_LEVELS: Levels = [
  ['||'],
  ['&&'],
  ['|'],
  ['^'],
  ['&'],
  ['==', '!='],
  ['<', '<=', '>', '>='],
  ['<<', '>>'],
  ['+', '-'],
  ['*', '/', '%'],
];

class Parser {
  #at = 0;
  #depth = 0;
  readonly #levels: Levels;

  constructor(
    readonly tokens: readonly Token[],
    readonly types: Types | null,
  ) {
    this.#levels = types === null ? LEVELS : DEBUGGER_LEVELS;
  }

  get token(): Token {
    return this.#tokenAt(this.#at);
  }

  #tokenAt(index: number): Token {
    return this.tokens[index] ?? { kind: 'end', text: '', offset: 0 };
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
    const operators = this.#levels[level];
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
    const { offset } = token;
    if (this.is('-') || this.is('~') || this.is('!')) {
      this.take();
      return { kind: 'unary', offset, operator: token.text as UnaryOperator, operand: this.unary() };
    }
    if (this.is('*') && this.types !== null) {
      this.take();
      return { kind: 'load', offset, size: this.pointed(this.types), address: this.unary() };
    }
    if (this.is('&') && this.types !== null && this.#tokenAt(this.#at + 1).kind === 'name') {
      // Names are addresses already.
      this.take();
      return this.named();
    }
    if (token.kind === 'register') {
      this.take();
      return { kind: 'register', offset, name: token.text.slice(1) };
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

  /** The size of what `(u32 *)` points to, which may stand behind a `*`; without it, of a long. */
  private pointed(types: Types): Size {
    if (!this.is('(')) return 8;
    let end = this.#at + 1;
    while (this.#tokenAt(end).kind === 'name') end += 1;
    const names = this.tokens.slice(this.#at + 1, end);
    const pointers = end;
    while (this.#tokenAt(end).text === '*') end += 1;
    if (names.length === 0 || end === pointers || this.#tokenAt(end).text !== ')') return 8;
    const { offset } = this.#tokenAt(this.#at + 1);
    const type = names.map(({ text }) => text).join(' ');
    this.#at = end + 1;
    // A pointer to a pointer.
    const size = end - pointers > 1 ? 8 : types(type);
    if (size !== null) return size;
    throw new ExpressionError(
      offset,
      `${quoted(type)} is no type that is known here: u8, u16, u32 and u64 are`,
    );
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

/**
 * Parses an expression. Throws an ExpressionError with the offset of the mistake.
 * @param types a debugger's expression; null: a fixture's
 */
export function parseExpression(text: string, types: Types | null = null): Node {
  const parser = new Parser(tokenize(text, types === null ? TOKEN : DEBUGGER_TOKEN), types);
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
    case 'register':
      if (scope.register === undefined) break;
      return u64(scope.register(node.name, node.offset));
    case 'load':
      if (scope.load === undefined) break;
      return u64(scope.load(evaluate(node.address, scope), node.size, node.offset));
    case 'unary': {
      const value = evaluate(node.operand, scope);
      if (node.operator === '!') return truth(value === 0n);
      return u64(node.operator === '-' ? -value : ~value);
    }
    case 'binary': {
      const left = evaluate(node.left, scope);
      if (node.operator === '&&' && left === 0n) return 0n;
      if (node.operator === '||' && left !== 0n) return 1n;
      return binary(node.operator, left, evaluate(node.right, scope), node.offset);
    }
  }
  throw new ExpressionError(node.offset, 'registers and memory mean nothing here');
}

function truth(holds: boolean): bigint {
  return holds ? 1n : 0n;
}

function binary(operator: BinaryOperator, left: bigint, right: bigint, offset: number): bigint {
  switch (operator) {
    case '||':
    case '&&':
      // What is on the left did not decide it.
      return truth(right !== 0n);
    case '==':
      return truth(left === right);
    case '!=':
      return truth(left !== right);
    case '<':
      return truth(left < right);
    case '<=':
      return truth(left <= right);
    case '>':
      return truth(left > right);
    case '>=':
      return truth(left >= right);
    case '/':
    case '%':
      if (right === 0n) throw new ExpressionError(offset, 'division by zero');
      return operator === '/' ? left / right : left % right;
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

type Named = Extract<Node, { kind: 'name' | 'member' | 'call' }>;
type Register = Extract<Node, { kind: 'register' }>;

/** Walks an expression without evaluating it: for checking names, and a debugger's registers, ahead of a run. */
export function walkNames(
  node: Node,
  visit: (node: Named) => void,
  visitRegister: (node: Register) => void = () => {},
): void {
  const walk = (inner: Node): void => walkNames(inner, visit, visitRegister);
  switch (node.kind) {
    case 'number':
      return;
    case 'register':
      visitRegister(node);
      return;
    case 'load':
      walk(node.address);
      return;
    case 'name':
    case 'member':
      visit(node);
      return;
    case 'call':
      visit(node);
      // The argument of scratch() is an arena: not a number, and checked with the call.
      if (node.fn !== 'scratch') for (const arg of node.args) walk(arg);
      return;
    case 'unary':
      walk(node.operand);
      return;
    case 'binary':
      walk(node.left);
      walk(node.right);
      return;
  }
}
