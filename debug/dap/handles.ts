/** Numbers for what the client may ask for later. No number is given twice, so that an old one is known as such. */
export class Handles<T> {
  readonly #values = new Map<number, T>();
  #last = 0;

  /** What was numbered so far is not there any more. */
  forget(): void {
    this.#values.clear();
    // The protocol has 31 bits for them.
    if (this.#last > 2 ** 30) this.#last = 0;
  }

  create(value: T): number {
    this.#last += 1;
    this.#values.set(this.#last, value);
    return this.#last;
  }

  get(number: number): T | undefined {
    return this.#values.get(number);
  }
}
