/** What requests are answered with. */
import type { DebugSession } from '../api.js';
import type { Stop } from '../stop.js';
import type { BreakpointBook } from './breakpoint-book.js';
import type { Client } from './client.js';
import type { Launched } from './launched.js';
import type { Motion } from './motion.js';
import type { Arguments, Command } from './requests.js';

/** An answer: its body, and what is done once it has been sent. */
export interface Reply {
  readonly body?: object | undefined;
  readonly after?: () => void;
}

export type Answer = Reply | Promise<Reply>;

export interface MoveOptions {
  readonly direction: 'forward' | 'back';
  /** It goes on behind what has broken it off for a moment. */
  readonly resumes?: boolean;
}

/** What a command has changed. */
export interface MemoryChange {
  readonly reference: string;
  readonly count: number;
}

export interface Desk {
  handle<C extends Command>(command: C, answer: (args: Arguments<C>) => Answer): void;
  /** Throws a RequestError before the client has said who it is. */
  readonly client: Client;
  /** The fixture that is debugged. Throws a RequestError when there is none, or no more. */
  readonly launched: Launched;
  /** The same, while the machine stands still. */
  readonly still: Launched;
  readonly book: BreakpointBook;
  readonly motion: Motion;
  /** Moves the machine, once the answer has been sent. Throws a RequestError when it cannot be moved now. */
  move(body: object | undefined, go: (session: DebugSession) => Promise<Stop>, options: MoveOptions): Reply;
  /** The user has changed something: what the client has of it is old. */
  changed(memory: MemoryChange | null): void;
  /** A command of the user's has moved the machine. */
  moved(): void;
  /** The session is over. */
  end(): void;
}
