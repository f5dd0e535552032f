/**
 * A fixture's text as YAML with places: reads the file, refuses what is not plain data, and hands out the
 * value together with the place of every key and value in it.
 */
import { readFileSync, statSync } from 'node:fs';
import {
  Composer,
  type CST,
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  Lexer,
  Parser,
  type YAMLError,
} from 'yaml';
import { FixtureError, type Place, quoted } from './fixture-error.js';

/** Largest fixture in bytes. */
export const FIXTURE_MAX = 1 << 20;
/** Deepest nesting of lists and mappings. */
const DEPTH_MAX = 24;

/** A path of keys and list indexes into the value. */
export type Path = readonly (string | number)[];

/** Plain data as YAML has it. Integers that a number cannot hold exactly are decimal text. */
export type Value = null | boolean | number | string | Value[] | { [key: string]: Value };

const YAML_OPTIONS = {
  intAsBigInt: true,
  keepSourceTokens: false,
  logLevel: 'error',
  merge: false,
  prettyErrors: false,
  stringKeys: false,
  uniqueKeys: false,
  version: '1.2',
} as const;

interface Spot {
  /** Offset of the value (of its first character behind a quote). */
  readonly value: number;
  readonly key: number | null;
  /** A block scalar: `value` is the offset of its | or >. */
  readonly block: 'literal' | 'folded' | null;
}

/** The text of one fixture with its places. */
export class Source {
  readonly lines: readonly string[];
  readonly #spots = new Map<string, Spot>();
  readonly #starts: number[];

  constructor(
    readonly file: string,
    readonly text: string,
  ) {
    this.lines = text.split(/\r?\n/);
    this.#starts = [0];
    for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', at + 1)) this.#starts.push(at + 1);
  }

  /** Line and column of an offset in the text. */
  place(offset: number): Place {
    let low = 0;
    let high = this.#starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#starts[middle] ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    return { line: low + 1, column: offset - (this.#starts[low] ?? 0) + 1 };
  }

  /** Where the value at `path` starts; the nearest enclosing value when the path does not exist. */
  valuePlace(path: Path, offset = 0): Place {
    const spot = this.#nearest(path);
    if (spot === undefined) return { line: 1, column: 1 };
    return this.place(spot.value + (spot.block === null ? offset : 0));
  }

  /** Where the key of the value at `path` stands (the value itself in a list). */
  keyPlace(path: Path): Place {
    const spot = this.#nearest(path);
    if (spot === undefined) return { line: 1, column: 1 };
    return this.place(spot.key ?? spot.value);
  }

  /** Line on which line `index` (from 0) of the block text at `path` stands. */
  blockLine(path: Path, index: number): number {
    const spot = this.#nearest(path);
    if (spot === undefined) return 1;
    const { line } = this.place(spot.value);
    return spot.block === null ? line : line + 1 + index;
  }

  /** The place of line `index` (from 0) of the text at `path`: its first character that is not blank. */
  textPlace(path: Path, index: number): Place {
    if (this.blockStyle(path) === null) return this.valuePlace(path);
    const line = this.blockLine(path, index);
    return { line, column: (/\S/.exec(this.lines[line - 1] ?? '')?.index ?? 0) + 1 };
  }

  /** Whether the value at `path` is a block scalar: `|` is literal, `>` folded; null if it is neither. */
  blockStyle(path: Path): 'literal' | 'folded' | null {
    return this.#spots.get(JSON.stringify(path))?.block ?? null;
  }

  remember(path: Path, spot: Spot): void {
    this.#spots.set(JSON.stringify(path), spot);
  }

  error(place: Place | null, message: string, hint = ''): FixtureError {
    return new FixtureError(this.file, place, message, hint, this.lines);
  }

  /** An error at the value of `path`, `offset` characters into it. */
  at(path: Path, message: string, hint = '', offset = 0): FixtureError {
    return this.error(this.valuePlace(path, offset), message, hint);
  }

  #nearest(path: Path): Spot | undefined {
    for (let length = path.length; length >= 0; length -= 1) {
      const spot = this.#spots.get(JSON.stringify(path.slice(0, length)));
      if (spot !== undefined) return spot;
    }
    return undefined;
  }
}

/** Reads a fixture file. Throws a FixtureError that says in one sentence why it cannot be used. */
export function readSource(file: string): Source {
  let bytes: Uint8Array;
  try {
    const stat = statSync(file);
    if (!stat.isFile()) throw new FixtureError(file, null, 'this is not a file');
    if (stat.size > FIXTURE_MAX) {
      throw new FixtureError(
        file,
        null,
        `${stat.size} bytes: a fixture has at most ${FIXTURE_MAX} bytes (1 MiB)`,
      );
    }
    bytes = readFileSync(file);
  } catch (error) {
    if (error instanceof FixtureError) throw error;
    throw new FixtureError(file, null, readFailure(error));
  }
  return new Source(file, decode(file, bytes));
}

/** Why a file or folder cannot be read, in words. */
export function readFailure(error: unknown): string {
  const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return 'there is no such file or folder';
    case 'EACCES':
    case 'EPERM':
      return 'no permission to read it';
    case 'ELOOP':
      return 'its symbolic links go round in circles';
    default:
      return `it cannot be read (${typeof code === 'string' ? code : String(error)})`;
  }
}

function decode(file: string, bytes: Uint8Array): string {
  if (bytes.includes(0)) {
    throw new FixtureError(file, null, 'this is a binary file: a fixture is YAML text in UTF-8');
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    const { line, column } = firstBadByte(bytes);
    throw new FixtureError(file, { line, column }, 'this byte is not UTF-8: a fixture is YAML text in UTF-8');
  }
}

function firstBadByte(bytes: Uint8Array): Place {
  const decodes = (length: number, stream: boolean): boolean => {
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, length), { stream });
      return true;
    } catch {
      return false;
    }
  };
  let good = 0;
  let bad = bytes.length + 1;
  // The longest prefix that could go on well; what it leaves unfinished at its end is bad too.
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    if (decodes(middle, true)) good = middle;
    else bad = middle;
  }
  while (good > 0 && !decodes(good, false)) good -= 1;
  const before = new TextDecoder().decode(bytes.subarray(0, good));
  return { line: before.split('\n').length, column: before.length - before.lastIndexOf('\n') };
}

/** Parses the text to plain data. Throws the FixtureErrors that YAML itself gives, at most a few. */
export function parseYaml(source: Source): { value: Value; errors: FixtureError[] } {
  let document: Document | null = null;
  try {
    for (const each of new Composer(YAML_OPTIONS).compose(tokens(source), true, source.text.length)) {
      if (document !== null) {
        const message = 'several YAML documents: a fixture is one document';
        return { value: null, errors: [source.error(source.place(each.range[0]), message)] };
      }
      document = each;
    }
  } catch (error) {
    if (!(error instanceof FixtureError)) throw error;
    return { value: null, errors: [error] };
  }
  if (document === null) return { value: null, errors: [] };
  if (document.errors.length > 0) {
    // One mistake in YAML often gives a trail of errors: the first is the one to mend.
    const first = document.errors[0];
    return { value: null, errors: first === undefined ? [] : [yamlError(source, first)] };
  }
  const directive = /^%\S*/m.exec(source.text);
  if (directive !== null && source.text.slice(0, directive.index).trim() === '') {
    return {
      value: null,
      errors: [source.error(source.place(directive.index), 'a fixture has no YAML directives')],
    };
  }
  const errors: FixtureError[] = [];
  const value = toValue(source, document.contents, [], null, errors);
  return { value, errors };
}

/**
 * The tokens of a text. Throws a FixtureError where it is nested too deep: what makes a document of them is
 * recursive and would not survive it.
 */
function* tokens(source: Source): Generator<CST.Token> {
  const parser = new Parser();
  const depth = new Depth();
  let offset = 0;
  for (const lexeme of new Lexer().lex(source.text)) {
    if (depth.tooDeep(lexeme)) {
      const message = `nested more than ${DEPTH_MAX} deep: no fixture needs that`;
      throw source.error(source.place(offset), message);
    }
    // The marks that the lexer makes up stand for no characters.
    if (lexeme !== '\u0002' && lexeme !== '\u0018' && lexeme !== '\u001f') offset += lexeme.length;
    yield* parser.next(lexeme);
  }
  yield* parser.end();
}

/** How deep the text is nested where the lexer is. */
class Depth {
  #flow = 0;
  #onLine = 0;
  #indent = 0;
  #lineStart = true;

  /** Takes the next lexeme. */
  tooDeep(lexeme: string): boolean {
    const newLine = lexeme === '\n' || lexeme === '\r\n';
    if (newLine) this.#onLine = 0;
    else if (lexeme === '[' || lexeme === '{') this.#flow += 1;
    else if (lexeme === ']' || lexeme === '}') this.#flow -= 1;
    else if (lexeme === '-' || lexeme === '?' || lexeme === ':') this.#onLine += 1;
    else if (this.#lineStart && /^ +$/.test(lexeme)) this.#indent = lexeme.length;
    this.#lineStart = newLine;
    return (
      this.#flow > DEPTH_MAX ||
      this.#onLine > 4 * DEPTH_MAX ||
      (this.#flow === 0 && this.#indent > 16 * DEPTH_MAX)
    );
  }
}

function yamlError(source: Source, error: YAMLError): FixtureError {
  const at = error.pos[0];
  switch (error.code) {
    case 'TAB_AS_INDENT':
      return source.error(source.place(at), 'YAML: a tab cannot indent; use blanks');
    case 'BLOCK_AS_IMPLICIT_KEY':
      return source.error(
        source.place(at),
        `YAML: ${lowerFirst(error.message)}`,
        'Text with a colon and a blank in it needs quotes around it.',
      );
    default:
      return source.error(source.place(at), `YAML: ${lowerFirst(error.message)}`);
  }
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

function toValue(
  source: Source,
  node: unknown,
  path: Path,
  key: number | null,
  errors: FixtureError[],
): Value {
  if (isAlias(node)) {
    errors.push(
      source.error(
        source.place(node.range?.[0] ?? 0),
        `alias ${quoted(`*${node.source}`)}: a fixture has no anchors and aliases`,
        'Write the value out where it is used.',
      ),
    );
    return null;
  }
  if (!isScalar(node) && !isMap(node) && !isSeq(node)) {
    source.remember(path, { value: key ?? 0, key, block: null });
    return null;
  }
  const start = node.range?.[0] ?? 0;
  if (node.anchor !== undefined) {
    errors.push(
      source.error(
        source.place(start),
        `anchor ${quoted(`&${node.anchor}`)}: a fixture has no anchors and aliases`,
        'Write the value out where it is used.',
      ),
    );
  }
  if (node.tag !== undefined) {
    errors.push(source.error(source.place(start), `tag ${quoted(node.tag)}: a fixture has no YAML tags`));
  }
  if (isScalar(node)) {
    const block = node.type === 'BLOCK_LITERAL' ? 'literal' : node.type === 'BLOCK_FOLDED' ? 'folded' : null;
    const quotedScalar = node.type === 'QUOTE_DOUBLE' || node.type === 'QUOTE_SINGLE';
    source.remember(path, { value: start + (quotedScalar ? 1 : 0), key, block });
    return scalarValue(node.value);
  }
  source.remember(path, { value: start, key, block: null });
  if (isSeq(node)) return node.items.map((item, i) => toValue(source, item, [...path, i], null, errors));

  // A null prototype: `__proto__` is a key like any other.
  const map: { [key: string]: Value } = Object.create(null) as { [key: string]: Value };
  for (const pair of node.items) {
    const name = isScalar(pair.key) ? scalarValue(pair.key.value) : undefined;
    const at =
      isScalar(pair.key) || isMap(pair.key) || isSeq(pair.key) ? (pair.key.range?.[0] ?? start) : start;
    if (name === undefined || name === null || typeof name === 'object') {
      errors.push(source.error(source.place(at), 'this key is not a word'));
      continue;
    }
    const word = String(name);
    if (word === '__proto__') {
      errors.push(source.error(source.place(at), 'this key is not a word'));
      continue;
    }
    if (word === '<<') {
      errors.push(source.error(source.place(at), 'merge key `<<`: a fixture has no merge keys'));
      continue;
    }
    if (Object.hasOwn(map, word)) {
      errors.push(source.error(source.place(at), `key ${quoted(word)} stands here a second time`));
      continue;
    }
    map[word] = toValue(source, pair.value, [...path, word], at, errors);
  }
  return map;
}

function scalarValue(value: unknown): Value {
  switch (typeof value) {
    case 'bigint':
      return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
    case 'string':
    case 'boolean':
    case 'number':
      return value;
    default:
      return null;
  }
}
