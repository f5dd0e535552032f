/**
 * How ported kernel code runs: as generators that can be stopped at each decision.
 *
 * Code says `yield* trace.decide(...)`; the event is in the stream at once, and when somebody watches
 * (`pausing`), the generator also stops there. When nobody watches, nothing is yielded at all, because a
 * yield through a deep chain of delegations costs more than the rest of the path.
 */
import type { DecideEvent, EnterEvent, LeaveEvent, Primitive } from './events.js';
import { Narrator } from './narrator.js';
import type { RunWatch } from './run.js';

/** A stop between two instructions, or between two steps of a run: whoever asked for it knows why. */
export interface Pause {
  readonly type: 'pause';
}

/** What a stopped path shows: the event that it has just emitted. */
export type Step = EnterEvent | LeaveEvent | DecideEvent | Pause;

/** A ported function in the making: drain it, or stop in it. */
export type Path<T> = Generator<Step, T, void>;

/** Something that can be delegated to with `yield*`. */
export type Delegate<T> = Iterable<Step, T, void>;

const PAUSE: Pause = { type: 'pause' };

class Immediate<T> implements Iterator<Step, T, void> {
  readonly result: IteratorReturnResult<T>;
  constructor(value: T) {
    this.result = { done: true, value };
  }
  next(): IteratorResult<Step, T> {
    return this.result;
  }
  [Symbol.iterator](): this {
    return this;
  }
}

class Paused<T> implements Iterator<Step, T, void> {
  #shown = false;
  constructor(
    readonly step: Step,
    readonly value: T,
  ) {}
  next(): IteratorResult<Step, T> {
    if (this.#shown) return { done: true, value: this.value };
    this.#shown = true;
    return { done: false, value: this.step };
  }
  [Symbol.iterator](): this {
    return this;
  }
}

/** The narrator of one CPU: emits events, and stops the path where someone watches. */
export class Trace extends Narrator {
  /** Set by whoever wants paths to stop at each step (debugger, explorer); at any time, also in a path. */
  pausing = false;
  /** Who is asked about each start of guest code on this CPU, and told of each stop; usually nobody. */
  watch: RunWatch | null = null;
  // One object serves every step that does not pause: it is consumed before the next one is made.
  readonly #immediate = new Immediate<unknown>(undefined);

  /** Records a decision of `fn` and hands its value back: `if (yield* trace.decide(…)) …`. */
  decide<T extends Primitive>(fn: string, test: string, value: T): Delegate<T> {
    if (!this.listening && !this.pausing) {
      if (this.onDecision !== null) return this.#interrupted(null, fn, test, value);
      return this.immediate(value);
    }
    const event: DecideEvent = { type: 'decide', cpu: this.cpu, fn, test, value };
    this.emit(event);
    if (this.onDecision !== null) return this.#interrupted(event, fn, test, value);
    return this.#stop(event, value);
  }

  /** Lets somebody else act behind a decision; the path is seen to stop at it before that. */
  *#interrupted<T>(step: DecideEvent | null, fn: string, test: string, value: T): Path<T> {
    if (step !== null && this.pausing) yield step;
    const others = this.onDecision?.(fn, test);
    if (others !== undefined) yield* others;
    return value;
  }

  /** Records the return of `fn` and hands its value on. */
  left<T>(fn: string, value: T): Delegate<T> {
    if (!this.listening && !this.pausing) return this.immediate(value);
    const event: LeaveEvent = { type: 'leave', cpu: this.cpu, fn, value };
    this.emit(event);
    return this.#stop(event, value);
  }

  /** Stops here, between two instructions or two steps of a run. */
  pause<T>(value: T): Delegate<T> {
    return new Paused(PAUSE, value);
  }

  /** A value that is there already, to be delegated to at once. */
  immediate<T>(value: T): Delegate<T> {
    (this.#immediate.result as { value: unknown }).value = value;
    return this.#immediate as Immediate<T>;
  }

  #stop<T>(step: Step, value: T): Delegate<T> {
    return this.pausing ? new Paused(step, value) : this.immediate(value);
  }
}

/** Runs a path to its end without looking at its steps. */
export function drain<T>(path: Delegate<T>): T {
  const iterator = path[Symbol.iterator]();
  for (;;) {
    const turn = iterator.next();
    if (turn.done === true) return turn.value;
  }
}

/** The least that a ported function's first argument must offer. */
export interface Traced {
  readonly trace: Trace;
}

/** A call that stopped on its way: goes on when it is resumed, and says so when it returns. */
class Call<T> implements Iterator<Step, T, void> {
  #first: Step | null;
  /** The return, once the body has come to it. */
  #left: Iterator<Step, T, void> | null = null;
  constructor(
    readonly fn: string,
    readonly trace: Trace,
    first: Step,
    readonly body: Iterator<Step, T, void>,
  ) {
    this.#first = first;
  }
  next(): IteratorResult<Step, T> {
    if (this.#first !== null) {
      const value = this.#first;
      this.#first = null;
      return { done: false, value };
    }
    if (this.#left !== null) return this.#left.next();
    const turn = this.body.next();
    if (turn.done !== true) return turn;
    this.#left = this.trace.left(this.fn, turn.value)[Symbol.iterator]();
    return this.#left.next();
  }
  [Symbol.iterator](): this {
    return this;
  }
}

const ported = new Set<string>();

/** Names of all ported kernel functions loaded so far, sorted; the debugger breaks on them. */
export function portedFunctions(): string[] {
  return [...ported].sort();
}

/**
 * Makes a ported kernel function of a generator: its entry and its return are in the event stream under
 * the kernel's name. `argNames` name the arguments after the first (the CPU).
 *
 * The function runs when it is called, as far as nothing stops it; the caller delegates to the result at
 * once (`yield* fn(here, …)`), so that nobody can tell, except by the time it takes.
 */
export function port<C extends Traced, A extends readonly unknown[], R>(
  fn: string,
  argNames: readonly string[],
  body: (here: C, ...args: A) => Path<R>,
): (here: C, ...args: A) => Delegate<R> {
  ported.add(fn);
  return (here, ...args) => {
    const { trace } = here;
    const path = body(here, ...args);
    if (trace.listening || trace.pausing) {
      const enter: EnterEvent = { type: 'enter', cpu: trace.cpu, fn, argNames, args };
      trace.emit(enter);
      if (trace.pausing) return new Call(fn, trace, enter, path);
    }
    const turn = path.next();
    if (turn.done !== true) return new Call(fn, trace, turn.value, path);
    return trace.left(fn, turn.value);
  };
}
