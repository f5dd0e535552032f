/**
 * Rate limits: lib/ratelimit.c, bpf-next merge 8496d9020ff3. Left out: other intervals and bursts than the
 * default ones, RATELIMIT_MSG_ON_RELEASE, and states that are locked elsewhere.
 */
import type { ThisCpu } from '../arch/arch.js';
import { KERN_WARNING } from '../arch/kernel.js';
import type { Clock } from './clock.js';

/** CONFIG_HZ: jiffies in a second. */
const HZ = 1000;
/** Jiffies. */
const DEFAULT_RATELIMIT_INTERVAL = 5 * HZ;
/** Messages in an interval. */
const DEFAULT_RATELIMIT_BURST = 10;

interface ratelimit_state {
  /** The jiffy in which the interval began. */
  begin: number;
  rs_n_left: number;
  missed: number;
}

/** The ratelimit_states of a machine, by name. */
export class Ratelimits {
  readonly #states = new Map<string, ratelimit_state>();

  constructor(readonly clock: Clock) {}

  /**
   * May a message be printed? When a new interval begins, what was not printed in the one before is told in
   * the name of `func`.
   */
  ___ratelimit(here: ThisCpu, state: string, func: string): boolean {
    const rs = this.#state(state);
    const { jiffies } = this;
    if (jiffies > rs.begin + DEFAULT_RATELIMIT_INTERVAL) {
      rs.begin = jiffies;
      rs.rs_n_left = DEFAULT_RATELIMIT_BURST;
      if (rs.missed > 0) {
        here.kernel.printk(here, KERN_WARNING, `${func}: ${rs.missed} callbacks suppressed`);
        rs.missed = 0;
      }
    }
    if (rs.rs_n_left === 0) {
      rs.missed += 1;
      return false;
    }
    rs.rs_n_left -= 1;
    return true;
  }

  /** Counted from boot here, not from INITIAL_JIFFIES. */
  get jiffies(): number {
    return Math.floor((this.clock.microseconds * HZ) / 1_000_000);
  }

  /** The first to ask begins the first interval. */
  #state(name: string): ratelimit_state {
    let rs = this.#states.get(name);
    if (rs === undefined) {
      rs = { begin: this.jiffies, rs_n_left: DEFAULT_RATELIMIT_BURST, missed: 0 };
      this.#states.set(name, rs);
    }
    return rs;
  }
}
