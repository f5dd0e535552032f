/** What tells the event stream about one CPU; the base of both builds' `Trace`. */
import { DEFAULT_PATIENCE, type Patience } from './endless.js';
import { type Event, type EventSink, NO_EVENTS } from './events.js';
import type { Delegate } from './path.js';

export class Narrator {
  /**
   * False when nobody gets the events. Places that make one often ask first; decisions and ported
   * functions do by themselves.
   */
  listening = false;
  /**
   * Called at each decision of a path on this CPU, when its event is out and before the path goes on:
   * where another CPU may act between two steps. What it does may be a path: that is
   * then gone through there. Null when nobody wants that.
   */
  onDecision: ((fn: string, test: string) => Delegate<void> | undefined) | null = null;
  /** How long paths on this CPU may go round in a loop without anything changing. */
  patience: Patience = DEFAULT_PATIENCE;
  #sink: EventSink = NO_EVENTS;

  constructor(
    readonly cpu: number,
    sink: EventSink,
  ) {
    this.sink = sink;
  }

  get sink(): EventSink {
    return this.#sink;
  }
  set sink(sink: EventSink) {
    this.#sink = sink;
    this.listening = sink !== NO_EVENTS;
  }

  emit(event: Event): void {
    this.#sink.emit(event);
  }

  /** Records the return of `fn`. */
  leave(fn: string, value: unknown): void {
    if (this.listening) this.#sink.emit({ type: 'leave', cpu: this.cpu, fn, value });
  }
}
