/** From a file to a fixture whose every word has been checked as far as that goes without a machine. */
import { Expression } from './bound-expression.js';
import { checkFixture } from './check-fixture.js';
import { FixtureError } from './fixture-error.js';
import { Names } from './names.js';
import { type FixtureData, fixture } from './schema.js';
import { schemaErrors } from './schema-issues.js';
import { type Path, parseYaml, readSource, type Source } from './source.js';

/** A fixture with the text it came from. */
export interface Fixture {
  readonly source: Source;
  readonly data: FixtureData;
}

export type LoadResult =
  | { readonly ok: true; readonly fixture: Fixture }
  | { readonly ok: false; readonly errors: readonly FixtureError[] };

/** Loads the fixture in `file`. All mistakes found are in the result; nothing is thrown for bad input. */
export function loadFixture(file: string): LoadResult {
  try {
    return parseFixture(readSource(file));
  } catch (error) {
    if (error instanceof FixtureError) return { ok: false, errors: [error] };
    throw error;
  }
}

/** The same from text that is already there. */
export function parseFixture(source: Source): LoadResult {
  if (source.text.trim() === '') {
    return {
      ok: false,
      errors: [source.error(null, 'the file is empty: a fixture has at least name, arch and steps')],
    };
  }
  const { value, errors } = parseYaml(source);
  if (errors.length > 0) return { ok: false, errors };
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    const place = source.valuePlace([]);
    return {
      ok: false,
      errors: [source.error(place, 'a fixture is a mapping: name, arch, steps and so on')],
    };
  }
  const parsed = fixture.safeParse(value);
  if (!parsed.success)
    return { ok: false, errors: schemaErrors(source, fixture, value, parsed.error.issues) };

  const names = new Names(parsed.data);
  const found = bindExpressions(source, parsed.data, [], names);
  found.push(...checkFixture(source, parsed.data));
  if (found.length > 0) {
    found.sort((a, b) => a.line - b.line || a.column - b.column);
    return { ok: false, errors: found };
  }
  return { ok: true, fixture: { source, data: parsed.data } };
}

function bindExpressions(source: Source, value: unknown, path: Path, names: Names): FixtureError[] {
  if (value instanceof Expression) {
    const error = value.bind(source, path) ?? value.check(names.checkAt(path));
    return error === null ? [] : [error];
  }
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value)) return [];
  if (Array.isArray(value)) {
    return value.flatMap((item, i) => bindExpressions(source, item, [...path, i], names));
  }
  return Object.entries(value).flatMap(([key, item]) => bindExpressions(source, item, [...path, key], names));
}
