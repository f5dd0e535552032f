/**
 * Assembly text as fixtures hold it: one statement a line, with labels before it, its bytes in front and
 * a comment behind.
 */
import type { Isa } from '../disassembler.js';

/** One line as its author wrote it. */
export interface SourceLine {
  readonly text: string;
  /** Where the author finds it; errors carry it. */
  readonly line: number;
}

/** A line that does not assemble. The message says what is wrong, without the place. */
export class AssemblerError extends Error {
  override name = 'AssemblerError';
  constructor(
    message: string,
    /** `SourceLine.line` of the line at fault. */
    readonly line: number,
  ) {
    super(message);
  }
}

/** A line taken apart. */
export interface Statement {
  readonly line: number;
  /** Labels that stand before the statement, without colons. */
  readonly labels: readonly string[];
  /** Bytes given in front, in memory order. */
  readonly bytes: Uint8Array | null;
  /** Instruction or directive without bytes and comment; empty if there is none. */
  readonly text: string;
  /** With its marker; empty if there is none. */
  readonly comment: string;
}

/** An instruction's or directive's first word and the operands, split at the commas between them. */
export interface Words {
  readonly mnemonic: string;
  readonly operands: readonly string[];
}

const LABEL = /^(?:([A-Za-z_.$][\w.$]*)|(\d+))\s*:\s*/;
/** objdump prints x86 code as pairs of digits, and A64 code as words. */
const X86_BYTES = /^[0-9a-f]{2}(?:\s+[0-9a-f]{2})*(?=\s|$)/i;
const ARM64_WORD = /^[0-9a-f]{8}(?=\s|$)/i;

export function parseLine(isa: Isa, { text, line }: SourceLine): Statement {
  const [code, comment] = splitComment(isa, text);
  let rest = code.trim();
  const labels: string[] = [];
  for (let match = LABEL.exec(rest); match !== null; match = LABEL.exec(rest)) {
    labels.push(match[1] ?? match[2] ?? '');
    rest = rest.slice(match[0].length);
  }
  const match = (isa === 'x86-64' ? X86_BYTES : ARM64_WORD).exec(rest);
  if (match === null) {
    if (isa === 'arm64' && /^(?:[0-9a-f]{2}\s+){4}/i.test(rest)) {
      throw new AssemblerError(
        'on arm64 the instruction stands in front as one word, such as f9000020',
        line,
      );
    }
    return { line, labels, bytes: null, text: rest, comment };
  }
  const digits = match[0].replace(/\s+/g, '');
  const bytes = Uint8Array.from(Buffer.from(digits, 'hex'));
  if (isa === 'arm64') bytes.reverse();
  return { line, labels, bytes, text: rest.slice(match[0].length).trim(), comment };
}

/** `#` begins an immediate on arm64, so it is a comment only on x86. */
function splitComment(isa: Isa, text: string): [code: string, comment: string] {
  const at = text.search(isa === 'x86-64' ? /#|;|\/\// : /;|\/\//);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at).trimEnd()];
}

/** Bytes as they stand in front of an instruction: pairs on x86, a word on arm64. */
export function bytesText(isa: Isa, bytes: Uint8Array): string {
  const pairs = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'));
  return isa === 'x86-64' ? pairs.join(' ') : pairs.reverse().join('');
}

/** Splits at commas outside of brackets and braces. */
export function splitOperands(text: string): string[] {
  const operands: string[] = [];
  let depth = 0;
  let from = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '[' || c === '{' || c === '(') depth += 1;
    if (c === ']' || c === '}' || c === ')') depth -= 1;
    if (c === ',' && depth === 0) {
      operands.push(text.slice(from, i).trim());
      from = i + 1;
    }
  }
  const last = text.slice(from).trim();
  if (last !== '' || operands.length > 0) operands.push(last);
  return operands;
}

/** First word, lower case, and operands as written. */
export function splitWords(text: string): Words {
  const match = /^\S+/.exec(text);
  const mnemonic = match === null ? '' : match[0];
  return { mnemonic: mnemonic.toLowerCase(), operands: splitOperands(text.slice(mnemonic.length).trim()) };
}

const LONGEST_QUOTE = 80;

/** Text of an author for a message. */
export function quote(text: string): string {
  return text.length <= LONGEST_QUOTE ? `"${text}"` : `"${text.slice(0, LONGEST_QUOTE)}…"`;
}
