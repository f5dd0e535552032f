/** `kfault schema`. */
import { jsonSchema } from '../vector/format/schema.js';
import { type Io, PASSED } from './io.js';

/** Prints the JSON Schema of fixtures. */
export function schemaCommand(io: Io): number {
  io.out(`${schemaText()}`);
  return PASSED;
}

/** The schema as it is published in docs/fixture.schema.json. */
export function schemaText(): string {
  return `${JSON.stringify(jsonSchema(), null, 2)}\n`;
}
