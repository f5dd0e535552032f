/**
 * For tests: whether a message is one that the protocol has. What it has is read from the types that its authors
 * publish (`@vscode/debugprotocol`, made from the protocol's JSON schema), so that nothing is believed twice.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

type Type =
  | { readonly kind: 'any' }
  | { readonly kind: 'plain'; readonly name: 'string' | 'number' | 'boolean' | 'null' }
  | { readonly kind: 'literal'; readonly text: string }
  | { readonly kind: 'named'; readonly name: string }
  | { readonly kind: 'array'; readonly of: Type }
  | { readonly kind: 'union'; readonly of: readonly Type[] }
  | { readonly kind: 'record'; readonly of: Type }
  | { readonly kind: 'object'; readonly fields: ReadonlyMap<string, Field> };

interface Field {
  readonly type: Type;
  readonly optional: boolean;
}

interface Declared {
  readonly parent: string | null;
  readonly type: Type;
}

export class Protocol {
  readonly #declared: ReadonlyMap<string, Declared>;

  constructor() {
    const folder = dirname(createRequire(import.meta.url).resolve('@vscode/debugprotocol/package.json'));
    this.#declared = new Declarations(readFileSync(join(folder, 'lib', 'debugProtocol.d.ts'), 'utf8')).read();
  }

  /** What is wrong with a message that an adapter has sent: a line each. */
  problems(message: unknown): string[] {
    const { type, event, command, success } = { ...(message as Record<string, unknown>) };
    const name =
      type === 'event'
        ? `${upper(event)}Event`
        : success === true
          ? `${upper(command)}Response`
          : 'ErrorResponse';
    if (!this.#declared.has(name)) return [`the protocol has no ${name}`];
    const found: string[] = [];
    this.#check(message, { kind: 'named', name }, '', found);
    return found;
  }

  #fields(name: string): Map<string, Field> | null {
    const declared = this.#declared.get(name);
    if (declared?.type.kind !== 'object') return null;
    const inherited = declared.parent === null ? [] : [...(this.#fields(declared.parent) ?? [])];
    return new Map([...inherited, ...declared.type.fields]);
  }

  #check(value: unknown, type: Type, where: string, found: string[]): void {
    switch (type.kind) {
      case 'any':
        return;
      case 'plain':
        if (type.name === 'null' ? value === null : typeof value === type.name) {
          // All numbers of the protocol that an adapter sends are integers.
          if (typeof value === 'number' && !Number.isSafeInteger(value)) found.push(`${where}: ${value}`);
          return;
        }
        found.push(`${where}: ${JSON.stringify(value)} is no ${type.name}`);
        return;
      case 'literal':
        if (value !== type.text) found.push(`${where}: ${JSON.stringify(value)} is not '${type.text}'`);
        return;
      case 'union':
        if (type.of.every((each) => this.#fails(value, each))) {
          found.push(`${where}: ${JSON.stringify(value)} is none of them`);
        }
        return;
      case 'array':
        if (!Array.isArray(value)) found.push(`${where}: no array`);
        else for (const [i, each] of value.entries()) this.#check(each, type.of, `${where}[${i}]`, found);
        return;
      case 'record':
        if (!isObject(value)) found.push(`${where}: no object`);
        else for (const key of Object.keys(value)) this.#check(value[key], type.of, `${where}.${key}`, found);
        return;
      case 'object':
        this.#object(value, type.fields, where, found);
        return;
      case 'named': {
        const fields = this.#fields(type.name);
        if (fields !== null) this.#object(value, fields, where, found);
        else this.#check(value, this.#declared.get(type.name)?.type ?? { kind: 'any' }, where, found);
      }
    }
  }

  #fails(value: unknown, type: Type): boolean {
    const found: string[] = [];
    this.#check(value, type, '', found);
    return found.length > 0;
  }

  #object(value: unknown, fields: ReadonlyMap<string, Field>, where: string, found: string[]): void {
    if (!isObject(value)) {
      found.push(`${where}: no object`);
      return;
    }
    for (const [key, { type, optional }] of fields) {
      if (value[key] !== undefined) this.#check(value[key], type, `${where}.${key}`, found);
      else if (!optional) found.push(`${where}.${key} is missing`);
    }
    for (const key of Object.keys(value)) if (!fields.has(key)) found.push(`${where}.${key} is not known`);
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function upper(word: unknown): string {
  return typeof word === 'string' ? word.charAt(0).toUpperCase() + word.slice(1) : '?';
}

/** Reads the declarations of interfaces and types, in the little TypeScript that they are written in. */
class Declarations {
  readonly #tokens: readonly string[];
  #at = 0;

  constructor(text: string) {
    const bare = text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/\/\/.*$/gm, '');
    this.#tokens = bare.match(/'[^']*'|[\w$]+|[{}[\]|;:?=]/g) ?? [];
  }

  read(): Map<string, Declared> {
    const found = new Map<string, Declared>();
    while (this.#at < this.#tokens.length) {
      const word = this.#take();
      if (word === 'interface') {
        const name = this.#take();
        const parent = this.#skip('extends') ? this.#take() : null;
        found.set(name, { parent, type: this.#type() });
      } else if (word === 'type') {
        const name = this.#take();
        this.#expect('=');
        found.set(name, { parent: null, type: this.#type() });
      }
    }
    return found;
  }

  #take(): string {
    this.#at += 1;
    return this.#tokens[this.#at - 1] ?? '';
  }

  #skip(token: string): boolean {
    if (this.#tokens[this.#at] !== token) return false;
    this.#at += 1;
    return true;
  }

  #expect(token: string): void {
    if (!this.#skip(token)) throw new Error(`${token} is missing at ${this.#tokens[this.#at]}`);
  }

  #type(): Type {
    this.#skip('|');
    const types = [this.#single()];
    while (this.#skip('|')) types.push(this.#single());
    const [first] = types;
    return types.length === 1 && first !== undefined ? first : { kind: 'union', of: types };
  }

  #single(): Type {
    let type = this.#atom();
    while (this.#skip('[')) {
      this.#expect(']');
      type = { kind: 'array', of: type };
    }
    return type;
  }

  #atom(): Type {
    const word = this.#take();
    if (word === '{') return this.#object();
    if (word.startsWith("'")) return { kind: 'literal', text: word.slice(1, -1) };
    if (word === 'any') return { kind: 'any' };
    if (word === 'string' || word === 'number' || word === 'boolean' || word === 'null') {
      return { kind: 'plain', name: word };
    }
    return { kind: 'named', name: word };
  }

  #object(): Type {
    const fields = new Map<string, Field>();
    let record: Type | null = null;
    while (!this.#skip('}')) {
      if (this.#skip('[')) {
        // [key: string]: T
        while (!this.#skip(']')) this.#take();
        this.#expect(':');
        record = { kind: 'record', of: this.#type() };
      } else {
        const name = this.#take();
        const optional = this.#skip('?');
        this.#expect(':');
        fields.set(name, { type: this.#type(), optional });
      }
      this.#skip(';');
    }
    return record ?? { kind: 'object', fields };
  }
}
