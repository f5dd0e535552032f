/** The snippets as the editor inserts them, without anything changed: each is a fixture that passes. */
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { parseFixture } from '../../vector/format/load.js';
import { Source } from '../../vector/format/source.js';
import { runFixture } from '../../vector/run/run-fixture.js';

interface Snippet {
  readonly prefix: string;
  readonly description: string;
  readonly body: readonly string[];
}

const snippets: Readonly<Record<string, Snippet>> = JSON.parse(
  readFileSync(new URL('snippets.json', import.meta.url), 'utf8'),
);

/** A placeholder with text, one with choices, a tab stop, an escaped character; or a $ that is none of these. */
const TAB_STOP = /\$\{(\d+):([^${}]*)\}|\$\{(\d+)\|([^|]*)\|\}|\$(\d+)|\\([$}\\])|(\$)/g;

/** What the editor inserts: a text for each choice, in which a number has the same value everywhere. */
function inserted(body: readonly string[]): string[] {
  const text = body.join('\n');
  const choices = [...text.matchAll(TAB_STOP)].find((match) => match[4] !== undefined)?.[4]?.split(',');
  return (choices ?? ['']).map((choice) => {
    const values = new Map([['0', '']]);
    return `${text.replace(TAB_STOP, (whole, number, value, chosen, _choices, again, escaped) => {
      if (escaped !== undefined) return escaped;
      if (number !== undefined) values.set(number, value);
      if (chosen !== undefined) values.set(chosen, choice);
      const known = values.get(number ?? chosen ?? again);
      if (known === undefined) throw new Error(`${whole} in a snippet is no tab stop with a value`);
      return known;
    })}\n`;
  });
}

const cases = Object.values(snippets).flatMap(({ prefix, body }) =>
  inserted(body).map((text, index) => [`${prefix} ${index}`, text] as const),
);

describe('snippets', () => {
  const engine = new NativeEngine(undefined, { reuse: true });
  afterAll(() => engine.close());

  test.each(cases)('%s is a fixture, and passes', async (name, text) => {
    const loaded = parseFixture(new Source(`${name}.yaml`, text));
    if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
    const { status, failures, errors } = await runFixture(loaded.fixture, engine);
    expect({ status, failures, errors }).toEqual({ status: 'passed', failures: [], errors: [] });
  });

  test('each kind is there for both architectures, with a prefix of its own', () => {
    const kinds = (arch: string): string[] =>
      cases
        .filter(([, text]) => text.includes(`\narch: ${arch}\n`))
        .map(([name]) => name.replace(/(-x86|-arm64)? \d$/, ''));
    expect(kinds('x86-64')).toEqual(kinds('arm64'));
    const prefixes = Object.values(snippets).map(({ prefix }) => prefix);
    expect(new Set(prefixes).size).toBe(prefixes.length);
  });
});
