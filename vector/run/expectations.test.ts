/**
 * Every expectation of a fixture that passes is changed in turn: exactly that one must fail, by its name.
 * On the real machine, on both architectures. Together the fixtures have every key that the schema knows.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { isScalar, isSeq, parseDocument, visit } from 'yaml';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { buildMachine } from '../build/build-machine.js';
import { wherePath } from '../checks/failure.js';
import { formatFixture } from '../format/format-file.js';
import { parseFixture } from '../format/load.js';
import { jsonSchema } from '../format/schema.js';
import { type Path, Source } from '../format/source.js';
import type { FixtureResult } from './result.js';
import { runFixture } from './run-fixture.js';
import { ARCHES, fixturesFor } from './testing.js';

const engine = new NativeEngine(undefined, { reuse: true });
afterAll(() => engine.close());

/** Keys that say where to look: not expectations by themselves. */
const PLACES = new Set(['at', 'va', 'level']);

/** Paths of all values below `expect` and `check`, empty lists included. */
function expectationsOf(text: string): Path[] {
  const paths: Path[] = [];
  visit(parseDocument(text), (key, node, ancestors) => {
    if (key === 'key' || !(isScalar(node) || (isSeq(node) && node.items.length === 0))) return;
    const path = pathOf(node, ancestors);
    const below = path.findIndex((part) => part === 'expect' || part === 'check');
    if (below >= 0 && !PLACES.has(String(path.at(-1)))) paths.push(path);
  });
  return paths;
}

function pathOf(node: unknown, ancestors: readonly unknown[]): (string | number)[] {
  const path: (string | number)[] = [];
  const chain = [...ancestors, node];
  chain.forEach((each, i) => {
    const parent = chain[i - 1] as { items?: unknown[]; key?: unknown } | undefined;
    if (parent === undefined) return;
    if (isPair(parent)) path.push(String((parent.key as { value: unknown }).value));
    else if (Array.isArray(parent.items) && !isPair(each)) path.push(parent.items.indexOf(each));
  });
  return path;
}

function isPair(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'key' in value && 'value' in value;
}

/** Another value that the format allows at the same place. */
function changed(path: Path, value: unknown): unknown {
  const key = path.at(-1);
  const parent = path.at(-2);
  if (typeof value === 'boolean') return !value;
  if (Array.isArray(value)) return key === 'faults' ? [{}] : key === 'tlb_flushes' ? ['all'] : ['more'];
  if (parent === 'not') return 'bpf_arena_handle_page_fault';
  if (parent === 'path') return 'no_such_function';
  switch (key) {
    case 'outcome':
    case 'kind':
      return 'panic';
    case 'access':
      return 'fetch';
    case 'state':
      return 'freed';
    case 'queued':
      return value === 'work' ? 'none' : 'work';
    case 'ranges':
    case 'deferred':
      return value === 'none' ? '15' : 'none';
    case 'resolved_by':
      return 'kfence';
    case 'exception':
    case 'fn':
    case 'test':
    case 'title':
    case 'why':
    case 'console':
    case 'stdout':
    case 'stderr':
    case 'stream':
    case 'text':
    case 'taint':
    case 'owner':
    case 'log':
      return `${value} `;
    case 'bytes':
      return `${value} 99`;
    default:
      if (value === 'none') return 'page';
      if (value === 'page') return 'none';
      return `(${value}) ^ 1`;
  }
}

/**
 * Where the failure is reported: a decision that is not found, whatever of it is wrong, at its test; addresses of one
 * page, and pages that are flushed, at the list.
 */
function reportedAt(path: Path): Path {
  const last = path.at(-1);
  const list = path.at(-3) === 'same_page' || path.at(-2) === 'tlb_flushes';
  if (list && typeof last === 'number') return path.slice(0, -1);
  return last === 'fn' ? [...path.slice(0, -1), 'test'] : path;
}

/** The text with the bytes of its instructions, so that no run waits for the assembler. */
async function withBytes(text: string): Promise<string> {
  const loaded = parseFixture(new Source('all.yaml', text));
  if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
  const { machine, images } = await buildMachine(loaded.fixture, engine);
  machine.close();
  return formatFixture(loaded.fixture, images);
}

async function run(text: string): Promise<FixtureResult & { readonly source: Source }> {
  const source = new Source('all.yaml', text);
  const loaded = parseFixture(source);
  if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
  return { ...(await runFixture(loaded.fixture, engine)), source };
}

const FIXTURES = ARCHES.flatMap((arch) =>
  Object.entries(fixturesFor(arch)).map(([name, text]): [string, string] => [`${name} on ${arch}`, text]),
);

describe.each(FIXTURES)('%s', (_, source) => {
  let text = '';
  beforeAll(async () => {
    text = await withBytes(source);
  });

  test('the fixture passes', async () => {
    const result = await run(text);
    expect(result.errors.map((error) => error.format())).toEqual([]);
    expect(result.failures).toEqual([]);
  });

  test.each(expectationsOf(source).map((path): [string, Path] => [wherePath(path), path]))(
    '%s',
    async (_where, path) => {
      const document = parseDocument(text);
      const node = document.getIn(path, true);
      document.setIn(path, changed(path, isSeq(node) ? [] : isScalar(node) ? node.value : null));
      const { failures, errors, status, source: place } = await run(String(document));
      const { line, column } = place.valuePlace(reportedAt(path));
      if (path[0] === 'steps' || path[0] === 'expect') {
        expect(status).toBe('failed');
        expect(failures.map((each) => each.where)).toEqual([wherePath(reportedAt(path))]);
        expect(failures).toMatchObject([{ line, column }]);
      } else {
        // What the kernel says to an arena or a program before the first step.
        expect(status).toBe('invalid');
        expect(errors.map((each) => [each.line, each.column])).toEqual([[line, column]]);
      }
    },
  );
});

type Json = { readonly [key: string]: unknown };

/** A place in the schema below `expect` or `check`: keys, `*` for any name, `[]` for any index. */
type Pattern = readonly string[];

/** Every value that can be expected, of whatever: `faults [] decisions [] test`. */
function expectablePatterns(): Pattern[] {
  const root = jsonSchema() as Json;
  const defs = root.$defs as Json;
  const found = new Map<string, Pattern>();
  const seen = new Set<unknown>();

  /** Follows a schema to its values; `pattern` is null until there is an `expect` or `check` on the way. */
  function follow(schema: unknown, pattern: Pattern | null): void {
    if (typeof schema !== 'object' || schema === null) return;
    const { $ref, properties, additionalProperties, items, anyOf } = schema as Json;
    if (pattern === null) {
      if (seen.has(schema)) return;
      seen.add(schema);
    }
    const name = typeof $ref === 'string' ? ($ref.split('/').at(-1) ?? '') : null;
    const isText = name === 'lines';
    if (name !== null && !isText) follow(defs[name], pattern);
    for (const [key, value] of Object.entries((properties ?? {}) as Json)) {
      const begins = pattern === null && (key === 'expect' || key === 'check');
      follow(value, pattern === null ? (begins ? [] : null) : [...pattern, key]);
    }
    if (additionalProperties !== false) {
      follow(additionalProperties, pattern === null ? null : [...pattern, '*']);
    }
    follow(items, pattern === null ? null : [...pattern, '[]']);
    if (Array.isArray(anyOf)) for (const each of anyOf) follow(each, pattern);
    const isValue =
      isText || (name === null && ![properties, items, anyOf].some(Boolean) && !isRecord(schema));
    if (pattern !== null && isValue) found.set(pattern.join(' '), pattern);
  }

  follow(root, null);
  return [...found.values()].filter((pattern) => !PLACES.has(pattern.at(-1) ?? ''));
}

function isRecord(schema: object): boolean {
  return typeof (schema as Json).additionalProperties === 'object';
}

function matches(path: Path, pattern: Pattern): boolean {
  const below = path.slice(path.findIndex((part) => part === 'expect' || part === 'check') + 1);
  return (
    below.length === pattern.length &&
    below.every((part, i) =>
      typeof part === 'number' ? pattern[i] === '[]' : ['*', part].includes(pattern[i] ?? ''),
    )
  );
}

test('nothing that the schema lets expect is without an expectation that was changed', () => {
  const paths = FIXTURES.flatMap(([, text]) => expectationsOf(text));
  const patterns = expectablePatterns();
  const missing = patterns.filter((pattern) => !paths.some((path) => matches(path, pattern)));
  expect(missing.map((pattern) => pattern.join(' '))).toEqual([]);
  expect(patterns.length).toBeGreaterThan(75);
});
