/** One move at a time, and what waits until the machine stands still. */
import type { DebugSession } from '../api.js';
import type { Stop } from '../stop.js';

interface Running {
  /** It can be broken off for a moment and gone on with. */
  readonly resume: (() => Promise<Stop>) | null;
  interrupt(): void;
}

export class Motion {
  #running: Running | null = null;
  #over: Promise<unknown> = Promise.resolve();
  /** Somebody wants the machine to stand still. */
  #halting = false;
  #waiting: (() => void)[] = [];

  get running(): boolean {
    return this.#running !== null;
  }

  /**
   * Carries a move out; nobody else may be under way.
   * @param resume how it goes on when it was broken off for those who wait; null: they wait until it is over
   */
  run(
    session: DebugSession,
    move: () => Promise<Stop>,
    resume: (() => Promise<Stop>) | null,
    interrupt: () => void = () => session.interrupt(),
  ): Promise<Stop> {
    this.#halting = false;
    // Before it begins: what interrupts it is heard from the first moment on.
    this.#running = { resume, interrupt };
    const over = this.#carryOut(move, resume);
    this.#over = over;
    return over;
  }

  async #carryOut(move: () => Promise<Stop>, resume: (() => Promise<Stop>) | null): Promise<Stop> {
    try {
      let stop = await move();
      while (stop.reason.kind === 'interrupted' && !this.#halting && resume !== null) {
        this.#serve();
        stop = await resume();
      }
      return stop;
    } finally {
      this.#running = null;
      this.#serve();
    }
  }

  #serve(): void {
    for (const work of this.#waiting.splice(0)) work();
  }

  /** Does something at once if the machine stands still, else as soon as it does. */
  whenStill<T>(work: () => T): T | Promise<T> {
    const running = this.#running;
    if (running === null) return work();
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push(() => {
        try {
          resolve(work());
        } catch (error) {
          reject(error);
        }
      });
      if (running.resume !== null) running.interrupt();
    });
  }

  /** Ends the move under way as soon as possible. */
  halt(): void {
    this.#halting = true;
    this.#running?.interrupt();
  }

  /** The same, and waits until it has ended. */
  async halted(): Promise<void> {
    this.halt();
    await this.#over.catch(() => undefined);
  }
}
