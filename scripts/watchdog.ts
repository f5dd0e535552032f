import { Worker } from 'node:worker_threads';

/** Seconds without an answer after which nothing is expected any more. */
const STUCK = 120;
/** Bytes of a message that are kept for the case that it is the last one. */
const LAST_MAX = 4096;

/** Shared: a count of messages, the length of the last one, and its text. */
const PROGRAM = `
const { workerData } = require('node:worker_threads');
const [seen, text] = [new Int32Array(workerData.shared, 0, 2), new Uint8Array(workerData.shared, 8)];
let before = -1;
let quiet = 0;
setInterval(() => {
  const now = Atomics.load(seen, 0);
  quiet = now === before ? quiet + 1 : 0;
  before = now;
  if (quiet < workerData.seconds) return;
  const last = Buffer.from(text.slice(0, seen[1])).toString('latin1');
  require('node:fs').writeSync(2, 'no answer for ' + quiet + ' s, message ' + now + ': ' + JSON.stringify(last) + '\\n');
  process.kill(process.pid, 'SIGKILL');
}, 1000);
`;

/**
 * Ends the process when the message that is answered never lets anybody in again, which it cannot see by itself, and
 * says which one that was. Does not keep the process.
 */
export class Watchdog {
  readonly #seen: Int32Array;
  readonly #last: Uint8Array;

  constructor() {
    const shared = new SharedArrayBuffer(8 + LAST_MAX);
    this.#seen = new Int32Array(shared, 0, 2);
    this.#last = new Uint8Array(shared, 8);
    new Worker(PROGRAM, { eval: true, workerData: { shared, seconds: STUCK } }).unref();
  }

  /** Another message is answered from now on. */
  tell(message: Uint8Array): void {
    const kept = message.subarray(0, LAST_MAX);
    this.#last.set(kept);
    this.#seen[1] = kept.length;
    Atomics.add(this.#seen, 0, 1);
  }
}
