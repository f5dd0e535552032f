/**
 * Where each line of a function stands: the length of a jump depends on the distance to its target, which
 * depends on the lengths.
 */
import { u64 } from '../address.js';
import type { Isa } from '../disassembler.js';
import { isArm64Keyword } from './arm64-text.js';
import { concreteItem, OperandError, unknownWord } from './concrete.js';
import { directiveBytes, MAX_CODE } from './directive.js';
import type { Scope } from './expression.js';
import type { KeystoneItem, KeystoneResult } from './keystone.js';
import { AssemblerError, parseLine, quote, type SourceLine, type Statement } from './source.js';
import { isX86Register } from './x86-text.js';

/** A function's body. */
export interface AssembleRequest {
  readonly isa: Isa;
  /** Where its first byte will stand, unsigned. */
  readonly address: bigint;
  readonly lines: readonly SourceLine[];
  /** Addresses of names outside of it. */
  readonly symbols: ReadonlyMap<string, bigint>;
}

/** Jumps get longer from pass to pass until they reach; more than this many never were needed. */
const MAX_PASSES = 32;

/** Everything at its place. */
export interface Layout {
  readonly statements: readonly Statement[];
  readonly offsets: readonly number[];
  readonly bytes: readonly Uint8Array[];
  readonly length: number;
  readonly labels: ReadonlyMap<string, bigint>;
  scope(at: number): Scope;
}

export type Placing = Generator<KeystoneItem[], Layout, readonly KeystoneResult[]>;

export function needsAssembler(statement: Statement): boolean {
  return statement.bytes === null && statement.text !== '' && !isDirective(statement);
}

export function isDirective(statement: Statement): boolean {
  return statement.text.startsWith('.');
}

/**
 * Finds the layout: the length of a jump depends on where its target is, which depends on the lengths.
 * Starts with short jumps and repeats until nothing moves. Asks for what only an assembler can do.
 */
export function* place(request: AssembleRequest): Placing {
  const { isa } = request;
  const statements = request.lines.map((line) => parseLine(isa, line));
  const named = namedLabels(request, statements);
  const numbered = numberedLabels(statements);
  const known = new Map<string, KeystoneResult>();
  let lengths = statements.map((s) => s.bytes?.length ?? (needsAssembler(s) ? 4 : 0));

  for (let pass = 0; pass < MAX_PASSES; pass++) {
    const offsets = offsetsOf(lengths);
    const address = (at: number): bigint => u64(request.address + BigInt(offsets[at] ?? 0));
    const scope = (at: number): Scope => scopeAt(at, request, named, numbered, address);
    const items = statements.map((statement, at) =>
      needsAssembler(statement) ? itemOf(isa, statement, address(at), lengths[at] ?? 0, scope(at)) : null,
    );
    const missing = items.filter((item) => item !== null).filter((item) => !known.has(keyOf(item)));
    const answers = missing.length === 0 ? [] : yield missing;
    for (const [i, item] of missing.entries()) known.set(keyOf(item), answers[i] ?? { error: 'no answer' });

    let length = 0;
    const bytes = statements.map((statement, at) => {
      const own = bytesOf(isa, statement, items[at] ?? null, known, address(at), scope(at));
      length += own.length;
      if (length <= MAX_CODE) return own;
      throw new AssemblerError(`more than ${MAX_CODE} bytes of code`, statement.line);
    });
    if (bytes.every((own, at) => own.length === lengths[at])) {
      const labels = new Map([...named].map(([name, at]) => [name, address(at)]));
      return { statements, offsets, bytes, length, labels, scope };
    }
    lengths = bytes.map((own) => own.length);
  }
  throw new AssemblerError(
    'the lengths of the jumps do not come to rest; put the bytes of one in front of it',
    statements.at(-1)?.line ?? 0,
  );
}

function bytesOf(
  isa: Isa,
  statement: Statement,
  item: KeystoneItem | null,
  known: ReadonlyMap<string, KeystoneResult>,
  address: bigint,
  scope: Scope,
): Uint8Array {
  if (item === null) {
    if (statement.bytes !== null) return statement.bytes;
    if (statement.text === '') return new Uint8Array(0);
    return directiveBytes(isa, statement.text, statement.line, address, scope);
  }
  const answer = known.get(keyOf(item)) ?? { error: 'no answer' };
  if ('error' in answer) throw refusal(isa, statement, scope, answer.error);
  if (answer.bytes.length === 0) throw refusal(isa, statement, scope, 'Keystone makes nothing of it');
  return answer.bytes;
}

/** Offset of each statement, and at the end that of what would follow. */
function offsetsOf(lengths: readonly number[]): number[] {
  const offsets = [0];
  for (const length of lengths) offsets.push((offsets.at(-1) ?? 0) + length);
  return offsets;
}

function keyOf(item: KeystoneItem): string {
  return `${item.address} ${item.text}`;
}

function itemOf(isa: Isa, statement: Statement, address: bigint, length: number, scope: Scope): KeystoneItem {
  try {
    return concreteItem(isa, statement.text, address, length, scope);
  } catch (error) {
    if (!(error instanceof OperandError)) throw error;
    throw new AssemblerError(`cannot assemble ${quote(statement.text)}: ${error.message}`, statement.line);
  }
}

/** Index of the statement that each named label stands before. */
function namedLabels(request: AssembleRequest, statements: readonly Statement[]): Map<string, number> {
  const labels = new Map<string, number>();
  const reserved = request.isa === 'x86-64' ? isX86Register : isArm64Keyword;
  for (const [at, statement] of statements.entries()) {
    for (const name of statement.labels) {
      if (/^\d/.test(name)) continue;
      if (reserved(name.toLowerCase())) {
        throw new AssemblerError(
          `a label cannot be called ${name}: it is a word of the assembly language`,
          statement.line,
        );
      }
      if (labels.has(name)) throw new AssemblerError(`the label ${name} is there twice`, statement.line);
      if (request.symbols.has(name)) {
        throw new AssemblerError(`the label ${name} is already the name of something else`, statement.line);
      }
      labels.set(name, at);
    }
  }
  return labels;
}

/** Indexes of the statements that each number stands before, in order. */
function numberedLabels(statements: readonly Statement[]): Map<string, number[]> {
  const labels = new Map<string, number[]>();
  for (const [at, statement] of statements.entries()) {
    for (const name of statement.labels) {
      if (/^\d/.test(name)) labels.set(name, [...(labels.get(name) ?? []), at]);
    }
  }
  return labels;
}

function scopeAt(
  at: number,
  request: AssembleRequest,
  named: ReadonlyMap<string, number>,
  numbered: ReadonlyMap<string, readonly number[]>,
  address: (at: number) => bigint,
): Scope {
  return {
    resolve: (name) => {
      if (name === '.' || name === '$') return address(at);
      const local = /^(\d+)([bf])$/.exec(name);
      if (local !== null) {
        const places = numbered.get(local[1] ?? '') ?? [];
        const place =
          local[2] === 'b' ? places.findLast((other) => other <= at) : places.find((other) => other > at);
        return place === undefined ? undefined : address(place);
      }
      const label = named.get(name);
      return label === undefined ? request.symbols.get(name) : address(label);
    },
  };
}

function refusal(isa: Isa, statement: Statement, scope: Scope, reason: string): AssemblerError {
  const { text, line } = statement;
  const word = /KS_ERR_ASM_SYMBOL_MISSING|^Unknown error/.test(reason) ? unknownWord(isa, text, scope) : null;
  const why =
    word === null ? keystoneReason(reason) : `${quote(word)} is no register or symbol that Keystone knows`;
  return new AssemblerError(`cannot assemble ${quote(text)}: ${why}${WAY_OUT}`, line);
}

const WAY_OUT = '; if it is right, put its bytes in front of it';

/** `Invalid operand (KS_ERR_ASM_INVALIDOPERAND)` without what only a C programmer wants to know. */
function keystoneReason(reason: string): string {
  if (reason.startsWith('Unknown error')) return 'Keystone refuses it without a reason';
  const words = /^(.)(.*?)\s*\(KS_ERR\w*\)$/.exec(reason);
  return words === null ? reason : `Keystone says ${(words[1] ?? '').toLowerCase()}${words[2]}`;
}
