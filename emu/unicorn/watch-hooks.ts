/** What ends starts for somebody who watches: hooks of instructions at addresses, and of accesses to memory. */
import type { AccessListener, PhysicalRange } from '../cpu.js';
import type { RawEngine } from './raw-engine.js';

/** Bytes of the largest access that the engine makes at once. */
const LONGEST_ACCESS = 64;

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);

export class WatchHooks {
  /** Instructions that the run under way has completed when a hook has ended it; null when none has. */
  completed: number | null = null;
  /** What a hook has thrown. */
  #failure: { readonly error: unknown } | null = null;
  /** Addresses, each with what takes its hook away. */
  readonly #breaks = new Map<bigint, () => void>();
  #listeners: (() => void)[] = [];

  /**
   * @param begun instructions begun in the run under way, with the one that a hook is about
   * @param limit lets the run under way end when so many instructions have been executed
   */
  constructor(
    readonly engine: RawEngine,
    readonly begun: () => number,
    readonly limit: (instructions: number) => void,
  ) {}

  /** A run begins. */
  reset(): void {
    this.completed = null;
    this.#failure = null;
  }

  /** Throws what a hook has thrown. */
  rethrow(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }

  /** False when nothing has changed. Translated code calls the hooks that were there when it was translated. */
  breakAt(addresses: readonly bigint[]): boolean {
    const wanted = new Set(addresses.map(u64));
    const gone = [...this.#breaks].filter(([address]) => !wanted.has(address));
    const fresh = [...wanted].filter((address) => !this.#breaks.has(address));
    for (const [address, remove] of gone) {
      remove();
      this.#breaks.delete(address);
    }
    for (const address of fresh) {
      this.#breaks.set(
        address,
        // The first instruction of a start is where somebody wants to go on.
        this.engine.hookCode(() => this.#before(), address, address),
      );
    }
    return gone.length + fresh.length > 0;
  }

  breaksAt(address: bigint): boolean {
    return this.#breaks.has(u64(address));
  }

  /** The same for accesses. */
  tellAccesses(ranges: readonly PhysicalRange[], tell: AccessListener): boolean {
    if (ranges.length === 0 && this.#listeners.length === 0) return false;
    for (const remove of this.#listeners) remove();
    this.#listeners = ranges.map(({ pa, size }) =>
      // The engine compares an access's first byte only.
      this.engine.hookAccess(
        (at, bytes, write) => {
          if (at + bytes > pa && at < pa + size) this.#told(() => tell(at, bytes, write));
        },
        Math.max(0, pa - LONGEST_ACCESS + 1),
        pa + size - 1,
      ),
    );
    return true;
  }

  #before(): void {
    if (this.completed !== null || this.begun() <= 1) return;
    this.completed = this.begun() - 1;
    this.engine.stop();
  }

  #told(tell: () => boolean): void {
    try {
      if (tell()) this.#behind();
    } catch (error) {
      this.#failure ??= { error };
      this.engine.stop();
    }
  }

  /** A stop in the middle of an instruction would leave its pc behind: the engine's own limit does not. */
  #behind(): void {
    if (this.completed !== null) return;
    this.completed = this.begun();
    this.limit(this.completed);
  }
}
