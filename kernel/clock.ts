/** Time as a machine knows it: an input, so that two runs of it are alike. It stands still by itself. */
export class Clock {
  #microseconds: number;

  /** @param microseconds since boot, 0 or more */
  constructor(microseconds = 0) {
    this.#microseconds = microseconds;
  }

  /** Microseconds since boot: local_clock() / 1000. */
  get microseconds(): number {
    return this.#microseconds;
  }

  /** Lets time pass. Throws a RangeError when it would go backwards. */
  advance(microseconds: number): void {
    if (!(microseconds >= 0)) throw new RangeError(`${microseconds} µs: time goes forwards`);
    this.#microseconds += microseconds;
  }
}
