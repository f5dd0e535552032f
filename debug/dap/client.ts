/** How the client counts and names things, as it has said at the beginning. */
import { realpathSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Arguments } from './requests.js';

export class Client {
  readonly supportsMemoryEvent: boolean;
  readonly supportsInvalidatedEvent: boolean;
  readonly #line: number;
  readonly #column: number;
  readonly #uris: boolean;

  constructor(initialize: Arguments<'initialize'>) {
    this.supportsMemoryEvent = initialize.supportsMemoryEvent;
    this.supportsInvalidatedEvent = initialize.supportsInvalidatedEvent;
    this.#line = initialize.linesStartAt1 ? 0 : -1;
    this.#column = initialize.columnsStartAt1 ? 0 : -1;
    this.#uris = initialize.pathFormat === 'uri';
  }

  /** A line from 1 as the client counts. */
  line(line: number): number {
    return line + this.#line;
  }

  /** A line of the client's, from 1. */
  fromLine(line: number): number {
    return line - this.#line;
  }

  column(column: number): number {
    return column + this.#column;
  }

  fromColumn(column: number): number {
    return column - this.#column;
  }

  path(path: string): string {
    return this.#uris ? pathToFileURL(path).href : path;
  }

  /** Whether the client's name of a file means this one. */
  isFile(path: string, file: string): boolean {
    const named = this.fromPath(path);
    if (named === file) return true;
    try {
      return realpathSync(named) === realpathSync(file);
    } catch {
      // One of them is not there.
      return false;
    }
  }

  /** The absolute path of a file that the client names. */
  fromPath(path: string): string {
    if (!path.startsWith('file:')) return resolve(path);
    try {
      return fileURLToPath(path);
    } catch {
      // It names no file of this computer.
      return path;
    }
  }
}
