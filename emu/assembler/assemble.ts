/**
 * Assembly text to machine code. Lines that carry their bytes are only checked; the others are assembled
 * by Keystone. Either way the bytes are disassembled, and the text must say what the disassembler says.
 */
import { u64 } from '../address.js';
import {
  BAD_INSTRUCTION,
  type DisassembledInstruction,
  type Disassembler,
  type Isa,
  instructionText,
  loadDisassembler,
} from '../disassembler.js';
import { parseArm64, sameArm64 } from './arm64-text.js';
import { concreteItem } from './concrete.js';
import { concat } from './directive.js';
import type { Scope } from './expression.js';
import { Keystone, type KeystoneItem } from './keystone.js';
import {
  type AssembleRequest,
  isDirective,
  type Layout,
  needsAssembler,
  type Placing,
  place,
} from './layout.js';
import { AssemblerError, bytesText, parseLine, quote, type Statement } from './source.js';
import { parseX86, sameX86 } from './x86-text.js';

export type { AssembleRequest } from './layout.js';
export { AssemblerError, type SourceLine } from './source.js';

/** A line that makes bytes. */
export interface AssembledLine {
  /** `SourceLine.line` */
  readonly line: number;
  /** Distance from the start of the function. */
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** Instruction or directive as written, without label, bytes and comment. */
  readonly text: string;
  /** False for directives. */
  readonly instruction: boolean;
}

export interface Assembled {
  readonly bytes: Uint8Array;
  readonly lines: readonly AssembledLine[];
  /** Addresses of the named labels. */
  readonly labels: ReadonlyMap<string, bigint>;
}

// One worker serves the process. It is started when first needed and does not keep the process alive.
const processKeystone = new Keystone();

/**
 * Assembles a function. Where all lines carry bytes, no assembler is started.
 * @throws AssemblerError for the first line that is wrong
 */
export async function assemble(
  request: AssembleRequest,
  keystone: Keystone = processKeystone,
): Promise<Assembled> {
  const disassembler = await loadDisassembler();
  const layout = await run(place(request), request.isa, keystone);
  try {
    check(request, layout, disassembler);
  } catch (error) {
    throw error instanceof Disagreement
      ? await withExpectedBytes(error, request, disassembler, keystone)
      : error;
  }
  return result(layout);
}

/**
 * The same without waiting, for functions all of whose instructions carry their bytes.
 * @throws AssemblerError also for an instruction without bytes
 */
export function assembleWithBytes(request: AssembleRequest, disassembler: Disassembler): Assembled {
  const layout = place(request).next();
  if (layout.done !== true) {
    const line = request.lines.map((l) => parseLine(request.isa, l)).find(needsAssembler);
    throw new AssemblerError(`${quote(line?.text ?? '')} has no bytes in front of it`, line?.line ?? 0);
  }
  check(request, layout.value, disassembler);
  return result(layout.value);
}

/**
 * Length of a function before the addresses of others are known: an upper bound if it jumps to them, exact
 * otherwise. Values of `symbols` do not matter, and texts are not compared with bytes.
 */
export async function measure(
  request: AssembleRequest,
  keystone: Keystone = processKeystone,
): Promise<number> {
  // Too far for a short jump, near enough for every other reference.
  const away = u64(request.address + 0x0400_0000n);
  const symbols = new Map([...request.symbols.keys()].map((name) => [name, away]));
  const layout = await run(place({ ...request, symbols }), request.isa, keystone);
  return layout.length;
}

async function run(placing: Placing, isa: Isa, keystone: Keystone): Promise<Layout> {
  let turn = placing.next();
  while (turn.done !== true) turn = placing.next(await keystone.assemble(isa, turn.value));
  return turn.value;
}

/** Bytes given with a text that says something else. */
class Disagreement extends AssemblerError {
  constructor(
    message: string,
    line: number,
    readonly item: KeystoneItem | null,
    readonly agrees: (bytes: Uint8Array, disassembler: Disassembler) => boolean,
  ) {
    super(message, line);
  }
}

/** Every instruction's bytes are one instruction, and it is the one that the text says. */
function check(request: AssembleRequest, layout: Layout, disassembler: Disassembler): void {
  for (const [at, statement] of layout.statements.entries()) {
    const bytes = layout.bytes[at];
    if (bytes === undefined || (statement.text === '' && statement.bytes === null)) continue;
    if (isDirective(statement)) {
      if (statement.bytes === null) continue;
      throw new AssemblerError('a directive stands without bytes in front of it', statement.line);
    }
    const address = u64(request.address + BigInt(layout.offsets[at] ?? 0));
    checkInstruction(request.isa, statement, bytes, address, layout.scope(at), disassembler);
  }
}

function checkInstruction(
  isa: Isa,
  statement: Statement,
  bytes: Uint8Array,
  address: bigint,
  scope: Scope,
  disassembler: Disassembler,
): void {
  const { text, line } = statement;
  const shown = bytesText(isa, bytes);
  if (isa === 'arm64' && address % 4n !== 0n) {
    throw new AssemblerError(`${quote(text)} does not stand at a multiple of 4 bytes; use .balign 4`, line);
  }
  const found = disassembler.disassemble(isa, bytes, address);
  const [only] = found;
  if (only === undefined || found.length !== 1 || only.mnemonic === BAD_INSTRUCTION) {
    const what = whyNotOne(isa, found);
    if (statement.bytes !== null) throw new AssemblerError(`the bytes ${shown} are ${what}`, line);
    throw new AssemblerError(
      `cannot assemble ${quote(text)}: Keystone makes ${shown} of it, which is ${what}`,
      line,
    );
  }
  const seen = instructionText(only);
  if (text === '') {
    throw new AssemblerError(`after the bytes ${shown} the instruction is missing: "${seen}"`, line);
  }
  if (agrees(isa, text, only, scope)) return;
  if (statement.bytes === null) {
    throw new AssemblerError(
      `cannot assemble ${quote(text)}: Keystone makes ${shown} of it, which is "${seen}"; ` +
        'if that is meant, write it so, otherwise put the right bytes in front',
      line,
    );
  }
  throw new Disagreement(
    `the bytes ${shown} are "${seen}", not ${quote(text)}`,
    line,
    expectedItem(isa, statement, address, scope),
    (other, by) => {
      const again = by.disassemble(isa, other, address);
      const [first] = again;
      return again.length === 1 && first !== undefined && agrees(isa, text, first, scope);
    },
  );
}

function whyNotOne(isa: Isa, found: readonly DisassembledInstruction[]): string {
  if (found.some((instruction) => instruction.mnemonic === BAD_INSTRUCTION)) {
    const directive = isa === 'x86-64' ? '.byte' : '.inst';
    return `no instruction that the disassembler knows, so no text can be checked; if they are right, use ${directive}`;
  }
  const texts = found.map((instruction) => `"${instructionText(instruction)}"`);
  return `${found.length} instructions, ${texts.join(' and ')}; give each a line`;
}

function agrees(isa: Isa, text: string, actual: DisassembledInstruction, scope: Scope): boolean {
  const seen = instructionText(actual);
  const nothing: Scope = { resolve: () => undefined };
  switch (isa) {
    case 'x86-64': {
      const [said, is] = [parseX86(text, scope), parseX86(seen, nothing)];
      const next = u64(actual.address + BigInt(actual.bytes.length));
      return said !== null && is !== null && sameX86(said, is, next);
    }
    case 'arm64': {
      const [said, is] = [parseArm64(text, scope), parseArm64(seen, nothing)];
      return said !== null && is !== null && sameArm64(said, is);
    }
  }
}

function expectedItem(isa: Isa, statement: Statement, address: bigint, scope: Scope): KeystoneItem | null {
  try {
    return concreteItem(isa, statement.text, address, statement.bytes?.length ?? 0, scope);
  } catch {
    return null;
  }
}

/** Adds the bytes that the text would have, if the assembler knows them. */
async function withExpectedBytes(
  error: Disagreement,
  request: AssembleRequest,
  disassembler: Disassembler,
  keystone: Keystone,
): Promise<AssemblerError> {
  if (error.item === null) return error;
  const [answer] = await keystone.assemble(request.isa, [error.item]);
  if (answer === undefined || 'error' in answer || !error.agrees(answer.bytes, disassembler)) return error;
  const expected = bytesText(request.isa, answer.bytes);
  return new AssemblerError(`${error.message}, which would be ${expected} here`, error.line);
}

function result(layout: Layout): Assembled {
  const lines: AssembledLine[] = [];
  for (const [at, { line, text, bytes }] of layout.statements.entries()) {
    if (text === '' && bytes === null) continue;
    lines.push({
      line,
      offset: layout.offsets[at] ?? 0,
      bytes: layout.bytes[at] ?? new Uint8Array(0),
      text,
      instruction: !text.startsWith('.'),
    });
  }
  return { bytes: concat(layout.bytes), lines, labels: layout.labels };
}
