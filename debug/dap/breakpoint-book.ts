/**
 * Breakpoints as the client has them: each of its requests tells all of a kind anew. Numbers of those that stay the
 * same stay the same.
 */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { type DebugSession, SessionError } from '../api.js';
import type { BreakpointSpec } from '../breakpoints.js';
import { RequestError } from './request-error.js';

/** How a kind of breakpoints is called when it has stopped the machine. */
export type Category = 'source' | 'function' | 'instruction' | 'exception' | 'data';

/** A breakpoint that the client wants. */
export interface Wish {
  /** Throws a SessionError or a RequestError that says why there can be none. */
  spec(): BreakpointSpec;
  readonly condition?: string | undefined;
  readonly hitCondition?: string | undefined;
  /** What is told about it besides number and state. */
  shown?(spec: BreakpointSpec): Partial<DebugProtocol.Breakpoint>;
  /** Told with the wish when it cannot be fulfilled. */
  readonly refused?: Partial<DebugProtocol.Breakpoint>;
}

export type Wishes = (session: DebugSession) => readonly Wish[];

interface Placed {
  readonly key: string;
  /** Number in the session; null when it could not be set. */
  readonly sessionId: number | null;
  readonly shown: DebugProtocol.Breakpoint & { readonly id: number };
}

export class BreakpointBook {
  readonly #placed = new Map<Category, readonly Placed[]>();
  /** Kept for the next session: a restart sets them again. */
  readonly #wishes = new Map<Category, Wishes>();
  #session: DebugSession;
  #last = 0;

  constructor(session: DebugSession) {
    this.#session = session;
  }

  /** Replaces all breakpoints of a category. */
  set(category: Category, wishes: Wishes): DebugProtocol.Breakpoint[] {
    this.#wishes.set(category, wishes);
    const old = [...(this.#placed.get(category) ?? [])];
    const placed: Placed[] = [];
    for (const wish of wishes(this.#session)) placed.push(this.#place(wish, old));
    for (const { sessionId } of old) if (sessionId !== null) this.#remove(sessionId);
    this.#placed.set(category, placed);
    return placed.map(({ shown }) => shown);
  }

  /** The same breakpoints in another session; returns those about which there is something else to tell now. */
  rebind(session: DebugSession): DebugProtocol.Breakpoint[] {
    const before = new Map([...this.#placed].map(([category, placed]) => [category, [...placed]]));
    this.#session = session;
    this.#placed.clear();
    const changed: DebugProtocol.Breakpoint[] = [];
    for (const [category, wishes] of this.#wishes) {
      const old = before.get(category) ?? [];
      const placed = wishes(session).map((wish, i) => this.#place(wish, [], old[i]?.shown.id));
      this.#placed.set(category, placed);
      placed.forEach(({ shown }, i) => {
        if (JSON.stringify(shown) !== JSON.stringify(old[i]?.shown)) changed.push(shown);
      });
    }
    return changed;
  }

  /** What a breakpoint of the session is for the client; null where it is none of its own. */
  hit(sessionId: number): { readonly category: Category; readonly id: number } | null {
    for (const [category, placed] of this.#placed) {
      const found = placed.find((each) => each.sessionId === sessionId);
      if (found !== undefined) return { category, id: found.shown.id };
    }
    return null;
  }

  /** Takes a breakpoint out of `old` if it is there already. */
  #place(wish: Wish, old: Placed[], id?: number): Placed {
    try {
      const spec = wish.spec();
      const key = keyOf(spec, wish);
      const i = old.findIndex((each) => each.key === key && each.sessionId !== null);
      const [kept] = i < 0 ? [] : old.splice(i, 1);
      if (kept !== undefined) return kept;
      const ignore = ignoredHits(wish.hitCondition);
      const options = {
        ...(wish.condition === undefined || wish.condition.trim() === ''
          ? {}
          : { condition: wish.condition }),
        ...(ignore === 0 ? {} : { ignore }),
      };
      const { id: sessionId } = this.#session.addBreakpoint(spec, options);
      const shown = { verified: true, ...wish.shown?.(spec), id: id ?? this.#next() };
      return { key, sessionId, shown };
    } catch (error) {
      if (!(error instanceof SessionError || error instanceof RequestError)) throw error;
      const shown = {
        ...wish.refused,
        verified: false,
        message: error.message,
        reason: 'failed' as const,
        id: id ?? this.#next(),
      };
      return { key: '', sessionId: null, shown };
    }
  }

  #next(): number {
    this.#last += 1;
    return this.#last;
  }

  #remove(id: number): void {
    // One that was set for once, or that the user has deleted by a command, is not there any more.
    if (this.#session.breakpoints.some((each) => each.id === id)) this.#session.removeBreakpoint(id);
  }
}

function keyOf(spec: BreakpointSpec, { condition = '', hitCondition = '' }: Wish): string {
  const what = JSON.stringify(spec, (_, value: unknown) =>
    typeof value === 'bigint' ? `0x${value.toString(16)}` : value,
  );
  return `${what}\n${condition}\n${hitCondition}`;
}

/** Hits to be passed over: of `5` and `>= 5` four, of `> 5` five. Throws a RequestError for other conditions. */
function ignoredHits(hitCondition: string | undefined): number {
  if (hitCondition === undefined || hitCondition.trim() === '') return 0;
  const match = /^\s*(>=|>)?\s*([0-9]{1,9})\s*$/.exec(hitCondition);
  if (match === null) {
    throw new RequestError(
      `hit count \`${hitCondition.slice(0, 40)}\`: a number N, >= N or > N is understood`,
    );
  }
  const count = Number(match[2]);
  return match[1] === '>' ? count : Math.max(0, count - 1);
}
