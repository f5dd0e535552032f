/**
 * The straight build's path.ts: the same names for code whose generators were made plain functions
 * (scripts/straighten.ts). Nothing can stop in it; what it emits is the same, event for event.
 */
import type { Primitive } from './events.js';
import { Narrator } from './narrator.js';
import type { RunWatch } from './run.js';

/** What a path is here: its result. */
export type Path<T> = T;
export type Delegate<T> = T;

/** The narrator of one CPU: emits events. */
export class Trace extends Narrator {
  /** Nobody can stop a straight path: setting it is an error of the program. */
  readonly pausing = false;
  /** Nor are runs of guest code watched. */
  readonly watch: RunWatch | null = null;

  decide<T extends Primitive>(fn: string, test: string, value: T): T {
    if (this.listening) this.emit({ type: 'decide', cpu: this.cpu, fn, test, value });
    if (this.onDecision !== null) this.onDecision(fn, test);
    return value;
  }

  immediate<T>(value: T): T {
    return value;
  }
}

/** The path has run when it was called. */
export function drain<T>(result: T): T {
  return result;
}

interface Traced {
  readonly trace: Trace;
}

const ported = new Set<string>();

export function portedFunctions(): string[] {
  return [...ported].sort();
}

/** A ported kernel function: its entry and its return are in the event stream under the kernel's name. */
export function port<C extends Traced, A extends readonly unknown[], R>(
  fn: string,
  argNames: readonly string[],
  body: (here: C, ...args: A) => R,
): (here: C, ...args: A) => R {
  ported.add(fn);
  return (here, ...args) => {
    const { trace } = here;
    if (!trace.listening) return body(here, ...args);
    trace.emit({ type: 'enter', cpu: trace.cpu, fn, argNames, args });
    const result = body(here, ...args);
    trace.leave(fn, result);
    return result;
  };
}
