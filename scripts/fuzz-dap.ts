/**
 * `npm run fuzz-dap [-- MESSAGES [SEED]]`: messages by the hundred thousand for the Debug Adapter Protocol's server, on
 * both architectures. Fails when a request is not answered exactly once, when an answer or event is none that the protocol has or comes
 * out of order, when something throws or hangs, and when memory is not given back. Needs --expose-gc.
 */
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type FuzzReport, fuzz, MessageSource } from '../debug/dap/fuzz.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { Watchdog } from './watchdog.js';

/** Messages before memory is looked at for the first time: caches fill, code is compiled. */
const WARM_UP = 10_000;
/** Bytes that may be gone behind the rest of them. */
const GROWTH = 16 * 2 ** 20;

const [count = '100000', seed = '1'] = process.argv.slice(2);
const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));
const failures: string[] = [];
const watchdog = new Watchdog();
const engine = new NativeEngine(undefined, { reuse: true });
for (const arch of readdirSync(fixtures)) {
  const source = new MessageSource(
    Number(seed),
    `${fixtures}/${arch}/set-cmask-writes-to-unallocated-page.yaml`,
  );
  const run = (messages: number): Promise<FuzzReport> =>
    fuzz(source, { openEngine: async () => engine }, messages, (bytes) => watchdog.tell(bytes));
  const begin = performance.now();
  const first = await run(Math.min(WARM_UP, Number(count)));
  const before = await used();
  const rest = await run(Math.max(Number(count) - WARM_UP, 0));
  const grown = (await used()) - before;
  const seconds = ((performance.now() - begin) / 1000).toFixed(1);
  const [messages, responses, refusals, events, sessions] = (
    ['messages', 'responses', 'refusals', 'events', 'sessions'] as const
  ).map((key) => first[key] + rest[key]);
  console.log(
    `${arch}: ${messages} messages in ${sessions} sessions, ${responses} responses (${refusals} refusals), ` +
      `${events} events, ${seconds} s, memory ${(grown / 2 ** 20).toFixed(1)} MiB more`,
  );
  failures.push(...[...first.faults, ...rest.faults].map((fault) => `${arch}: ${fault}`));
  if (grown > GROWTH) failures.push(`${arch}: ${grown} bytes were not given back`);
}
for (const failure of failures) console.error(failure);
process.exitCode = failures.length === 0 ? 0 : 1;

/**
 * Bytes held when every machine has been let go, and nothing is kept for the next one: how many rams wait for that
 * depends on how many machines there were at once, as two restarts in a row make three.
 */
async function used(): Promise<number> {
  // What was closed while it ran is let go where it gets to.
  for (let i = 0; i < 4; i++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    engine.close();
    globalThis.gc?.();
  }
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}
