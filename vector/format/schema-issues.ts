/** What zod found, said in the words of the fixture format and at the place of the mistake. */
import { z } from 'zod';
import { type FixtureError, quoted } from './fixture-error.js';
import { KFUNCS, STEP_KEYS, step } from './schema-steps.js';
import type { Path, Source, Value } from './source.js';
import { didYouMean, listOf } from './suggest.js';

type Issue = z.core.$ZodIssue;
type Schema = z.core.$ZodType;

/** The mistakes behind the issues of a failed parse, in the order of the text. */
export function schemaErrors(
  source: Source,
  schema: Schema,
  value: Value,
  issues: readonly Issue[],
): FixtureError[] {
  const errors = worthTelling(issues).flatMap((issue) => explain(source, schema, value, [], issue));
  return errors.sort((a, b) => a.line - b.line || a.column - b.column);
}

/** A number that is too large to be exact is over its own bound as well, and that one says what would be right. */
function worthTelling(issues: readonly Issue[]): Issue[] {
  return issues.filter(
    (issue) =>
      issue.code !== 'too_big' ||
      issue.maximum !== Number.MAX_SAFE_INTEGER ||
      !issues.some((other) => other !== issue && other.path.join() === issue.path.join()),
  );
}

function explain(source: Source, root: Schema, value: Value, base: Path, issue: Issue): FixtureError[] {
  const relative = issue.path.map((key) => (typeof key === 'number' ? key : String(key)));
  const path = [...base, ...relative];
  const reached = descend(root, valueAt(value, base), relative);
  const got = valueAt(value, path);
  if (got === undefined) return [missing(source, path, reached)];

  const stepError = reached === (step as Schema) ? wrongStep(source, path, got) : null;
  if (stepError !== null) return [stepError];
  const here = issue.code === 'invalid_union' ? reached : option(reached, got);

  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys.map((key) => unknownKey(source, [...path, key], here));
    case 'invalid_type':
      return [source.at(path, `${wanted(issue.expected)} is wanted here, not ${kindOf(got)}`)];
    case 'invalid_value':
      return [invalidValue(source, path, issue.values.map(String), got)];
    case 'too_small':
    case 'too_big': {
      if (!issue.message.startsWith('Too ')) return [source.at(path, issue.message)];
      const bound = issue.code === 'too_small' ? `at least ${issue.minimum}` : `at most ${issue.maximum}`;
      const what = typeof got === 'string' ? `${got.length} characters` : String(got);
      return [source.at(path, `${what}: it must be ${bound}`)];
    }
    case 'invalid_key':
      return issue.issues.map((inner) =>
        source.error(source.keyPlace(path), `${quoted(String(path.at(-1)))}: ${inner.message}`),
      );
    case 'invalid_union':
      return invalidUnion(source, here, value, path, issue);
    case 'invalid_format':
    case 'not_multiple_of':
    case 'invalid_element':
    case 'custom':
      return [source.at(path, `${typeof got === 'string' ? `${quoted(got)}: ` : ''}${issue.message}`)];
  }
}

function invalidUnion(
  source: Source,
  schema: Schema,
  value: Value,
  path: Path,
  issue: z.core.$ZodIssueInvalidUnion,
): FixtureError[] {
  const got = valueAt(value, path) ?? null;
  const isMap = got !== null && typeof got === 'object' && !Array.isArray(got);
  if (!isMap && issue.message !== 'Invalid input') return [source.at(path, issue.message)];
  const options = schema instanceof z.ZodUnion ? (schema.options as readonly Schema[]) : [];
  const choice = chooseOption(options, got);
  const chosen = options[choice];
  const inner = issue.errors[choice] ?? [];
  if (chosen === undefined || inner.length === 0)
    return [source.at(path, `${kindOf(got)} is not wanted here`)];
  return worthTelling(inner).flatMap((each) => explain(source, chosen, value, path, each));
}

function wrongStep(source: Source, path: Path, got: Value): FixtureError | null {
  if (got === null || typeof got !== 'object' || Array.isArray(got)) return null;
  const kinds = STEP_KEYS.filter((key) => Object.hasOwn(got, key));
  const kfunc = valueAt(got, ['kfunc']);
  if (kinds.length === 1 && typeof kfunc === 'string' && !KFUNCS.some((known) => known === kfunc)) {
    return invalidValue(source, [...path, 'kfunc'], KFUNCS, kfunc);
  }
  if (kinds.length === 1) return null;
  if (kinds.length > 1) {
    return source.error(
      source.keyPlace([...path, kinds[1] ?? '']),
      `one step cannot be ${listOf(kinds.map((key) => `\`${key}\``))} at once: make it two steps`,
    );
  }
  for (const key of Object.keys(got)) {
    const near = didYouMean(key, STEP_KEYS);
    if (near !== '')
      return source.error(source.keyPlace([...path, key]), `unknown key ${quoted(key)}${near}`);
  }
  return source.at(path, 'this step does nothing', `A step has one of the keys ${listOf(STEP_KEYS)}.`);
}

function missing(source: Source, path: Path, schema: Schema): FixtureError {
  const key = path.at(-1);
  const parent = path.slice(0, -1);
  const help = description(schema);
  return source.error(
    parent.length === 0 ? { line: 1, column: 1 } : source.valuePlace(parent),
    `key \`${key}\` is missing${parent.length === 0 ? '' : ' here'}`,
    help === '' ? '' : `${key}: ${help}`,
  );
}

function unknownKey(source: Source, path: Path, schema: Schema): FixtureError {
  const key = String(path.at(-1));
  const bare = unwrap(schema);
  const known = bare instanceof z.ZodObject ? Object.keys(bare.shape) : [];
  const near = didYouMean(key, known);
  const isOption = path.length === 2 && path[0] === 'config' && near === '';
  return source.error(
    source.keyPlace(path),
    isOption ? `the option ${quoted(key)} is not modelled` : `unknown key ${quoted(key)}${near}`,
    near === '' && known.length > 0
      ? `${isOption ? 'Modelled' : 'Known here'}: ${listOf(known, isOption ? known.length : undefined)}.`
      : '',
  );
}

function invalidValue(source: Source, path: Path, values: readonly string[], got: Value): FixtureError {
  const shown = got !== null && typeof got === 'object' ? kindOf(got) : quoted(String(got));
  const near = typeof got === 'string' ? didYouMean(got, values) : '';
  return source.at(path, `${shown} is not known here${near}`, `It must be one of ${listOf(values)}.`);
}

/** The option of a union that a value was probably meant to be; -1 if none fits at all. */
function chooseOption(options: readonly Schema[], value: Value): number {
  const scores = options.map((option) => score(unwrap(option), value));
  const best = Math.max(...scores);
  return best === Number.NEGATIVE_INFINITY ? -1 : scores.indexOf(best);
}

function score(option: Schema, value: Value): number {
  const isMap = value !== null && typeof value === 'object' && !Array.isArray(value);
  if (!(option instanceof z.ZodObject)) return isMap ? Number.NEGATIVE_INFINITY : 0;
  if (!isMap) return Number.NEGATIVE_INFINITY;
  let total = 0;
  for (const [key, field] of Object.entries(option.shape as Record<string, z.ZodType>)) {
    const has = Object.hasOwn(value, key);
    const optional = field.safeParse(undefined).success;
    if (has) total += 1;
    else if (!optional) total -= 4;
    const bare = unwrap(field);
    if (has && !optional && bare instanceof z.ZodEnum && !bare.safeParse(value[key]).success) total -= 1;
  }
  return total;
}

/** Follows a path of keys down a schema; in a union along the option that fits the value. */
function descend(schema: Schema, value: Value | undefined, path: Path): Schema {
  let at = unwrap(schema);
  let got = value;
  for (const key of path) {
    at = option(at, got ?? null);
    if (at instanceof z.ZodObject) at = (at.shape as Record<string, Schema>)[String(key)] ?? z.unknown();
    else if (at instanceof z.ZodArray) at = at.element;
    else if (at instanceof z.ZodRecord) at = at.valueType;
    else return z.unknown();
    at = unwrap(at);
    got = got === undefined ? undefined : valueAt(got, [key]);
  }
  return at;
}

/** A union's option that fits the value; anything else is itself. */
function option(schema: Schema, value: Value): Schema {
  if (!(schema instanceof z.ZodUnion)) return schema;
  const options = schema.options as readonly Schema[];
  const chosen = options[chooseOption(options, value)];
  return chosen === undefined ? schema : unwrap(chosen);
}

function unwrap(schema: Schema): Schema {
  let at = schema;
  for (;;) {
    if (at instanceof z.ZodOptional || at instanceof z.ZodDefault || at instanceof z.ZodNullable)
      at = at.unwrap();
    else if (at instanceof z.ZodPipe) at = at.in;
    else if (at instanceof z.ZodLazy) at = at.unwrap();
    else return at;
  }
}

/** What a key is for, in a few words, to go behind a message that it is missing. */
function description(schema: Schema): string {
  if (schema instanceof z.ZodEnum) return listOf(schema.options.map(String));
  return schema instanceof z.ZodType ? (schema.description ?? '') : '';
}

function valueAt(value: Value, path: Path): Value | undefined {
  let at: Value | undefined = value;
  for (const key of path) {
    if (at === null || typeof at !== 'object') return undefined;
    if (Array.isArray(at)) at = typeof key === 'number' ? at[key] : undefined;
    else at = Object.hasOwn(at, key) ? at[String(key)] : undefined;
    if (at === undefined) return undefined;
  }
  return at;
}

function wanted(expected: string): string {
  switch (expected) {
    case 'object':
    case 'record':
      return 'a mapping';
    case 'array':
      return 'a list';
    case 'string':
      return 'text';
    case 'int':
      return 'a whole number';
    case 'number':
      return 'a number';
    case 'boolean':
      return 'true or false';
    default:
      return expected;
  }
}

function kindOf(value: Value): string {
  if (value === null) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  switch (typeof value) {
    case 'string':
      return `text (${quoted(value, 30)})`;
    case 'number':
      return Number.isInteger(value) ? `a number (${value})` : `a fraction (${value})`;
    case 'boolean':
      return `${value}`;
    case 'object':
      return 'a mapping';
  }
}
