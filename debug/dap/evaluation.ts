/** Expressions and command lines of the user's. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { type DebugSession, SessionError } from '../api.js';
import { CommandError } from '../terminal/command-error.js';
import { complete } from '../terminal/complete.js';
import { bytesOf, littleEndian } from '../terminal/format.js';
import { palette } from '../terminal/lines.js';
import { parsePlace } from '../terminal/place.js';
import { Shell } from '../terminal/shell.js';
import { reference } from './memory-reference.js';
import { RequestError } from './request-error.js';
import { addressText, memoryAt } from './variables.js';

/** A value with what is told about it. */
export interface Evaluated {
  readonly value: bigint;
  readonly shown: DebugProtocol.EvaluateResponse['body'];
}

/** A shell of the terminal whose lines are kept until they are taken. */
export class Console {
  readonly shell: Shell;
  #text = '';

  constructor(readonly session: DebugSession) {
    const keep = (text: string): void => {
      this.#text += text;
    };
    this.shell = new Shell(session, { out: keep, err: keep, columns: () => null, palette: palette(false) });
  }

  take(): string {
    const text = this.#text;
    this.#text = '';
    return text.replace(/\n$/, '');
  }

  /** True when a line is a command and no expression: commands by their full names or usual abbreviations come first. */
  isCommand(line: string): boolean {
    const word = /^\s*([A-Za-z][\w-]*)(?=[\s/]|$)/.exec(line)?.[1];
    if (word === undefined) return false;
    const { all } = this.shell.commands;
    if (all.some(({ name, aliases }) => [name, ...aliases].some((each) => each.split(' ')[0] === word))) {
      return true;
    }
    try {
      this.session.evaluate(line);
      return false;
    } catch (error) {
      if (!(error instanceof SessionError)) throw error;
    }
    try {
      this.shell.commands.parse(line);
      return true;
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      return false;
    }
  }

  complete(text: string): { readonly words: readonly string[]; readonly beginning: string } {
    const [words, beginning] = complete(text, this.shell.commands, this.session);
    if (words.length > 0 || !/^\s*[\w.$]*$/.test(text)) return { words, beginning };
    // The first word may be an expression as well.
    const [more] = complete(`print ${text.trimStart()}`, this.shell.commands, this.session);
    return { words: more, beginning: text.trimStart() };
  }
}

/** The value of an expression: of a fixture, with registers, and with `*` what stands in memory. */
export function evaluate(session: DebugSession, shell: Shell, text: string): Evaluated {
  const { value, size } = wordOf(session, shell, text);
  const { address, size: inMemory } = parsePlace(text);
  const memory = inMemory === null ? memoryAt(session, value).memory : reference(session.evaluate(address));
  return {
    value,
    shown: {
      result: addressText(session, value),
      type: `u${size * 8}`,
      variablesReference: 0,
      ...(memory === undefined ? {} : { memoryReference: memory }),
    },
  };
}

function wordOf(session: DebugSession, shell: Shell, text: string): { value: bigint; size: number } {
  try {
    return shell.value(text);
  } catch (error) {
    // In the text of a function registers have no dollar.
    const name = text.trim();
    if (!(error instanceof SessionError) || !/^[a-z][a-z0-9_]*$/i.test(name)) throw error;
    if (!session.registers().some((register) => register.name === name.toLowerCase())) throw error;
    return { value: session.register(name), size: 8 };
  }
}

/** Changes what an expression stands for: a register, or memory. Returns where memory has changed. */
export function assign(
  session: DebugSession,
  text: string,
  value: bigint,
): { readonly address: bigint; readonly length: number } | null {
  const trimmed = text.trim();
  const register = /^\$([a-z][a-z0-9_]*)$/i.exec(trimmed)?.[1];
  if (register !== undefined) {
    session.writeRegister(register, value);
    return null;
  }
  const { address, size } = parsePlace(trimmed);
  if (size === null) {
    throw new RequestError(`${trimmed.slice(0, 60)} cannot be changed: $NAME and *(u64 *)ADDRESS can`);
  }
  const at = session.evaluate(address);
  session.writeMemory(at, bytesOf(value, size));
  return { address: at, length: size };
}

/** What stands at an address now. */
export function wordAt(session: DebugSession, address: bigint, length: number): bigint | null {
  const bytes = session.readMemory(address, length);
  return bytes === null ? null : littleEndian(bytes);
}
