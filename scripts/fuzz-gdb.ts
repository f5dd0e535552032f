/**
 * `npm run fuzz-gdb [-- PACKETS [SEED]]`: packets by the hundred thousand for the server's side of gdb's remote
 * protocol, on both architectures. Fails when an answer is none that the protocol has, when something throws or hangs,
 * and when memory is not given back. Needs --expose-gc.
 */
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { fuzz, PacketSource } from '../debug/gdb/fuzz.js';
import { Stub } from '../debug/gdb/stub.js';
import { type DebugSession, openSession } from '../debug/session.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { loadFixture } from '../vector/format/load.js';
import { Watchdog } from './watchdog.js';

/** Packets before memory is looked at for the first time: caches fill, code is compiled. */
const WARM_UP = 10_000;
/** Bytes that may be gone behind the rest of them. */
const GROWTH = 32 * 2 ** 20;

const watchdog = new Watchdog();
const tell = (packet: Uint8Array): void => watchdog.tell(packet);

const [count = '100000', seed = '1'] = process.argv.slice(2);
const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));
const failures: string[] = [];
for (const arch of readdirSync(fixtures)) {
  const loaded = loadFixture(`${fixtures}/${arch}/set-cmask-writes-to-unallocated-page.yaml`);
  if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
  const session = await openSession(loaded.fixture, new NativeEngine(undefined, { reuse: true }));
  const stub = new Stub(session, 'fuzz.yaml');
  await stub.control.toFirstInstruction();
  const addresses = ['bpf_prog_set_cmask', 'write_cmask', 'a.page(3)', '$sp'].map((each) =>
    session.evaluate(each),
  );
  const source = new PacketSource(Number(seed), addresses);
  const begin = performance.now();
  const first = await fuzz(stub, source, Math.min(WARM_UP, Number(count)), tell);
  const before = await used(session);
  const rest = await fuzz(stub, source, Math.max(Number(count) - WARM_UP, 0), tell);
  const grown = (await used(session)) - before;
  const seconds = ((performance.now() - begin) / 1000).toFixed(1);
  const [packets, answers, errors, empty, interrupted] = (
    ['packets', 'answers', 'errors', 'empty', 'interrupted'] as const
  ).map((key) => first[key] + rest[key]);
  console.log(
    `${arch}: ${packets} packets, ${answers} answers (${errors} errors, ${empty} empty), ` +
      `${interrupted} interrupted, ${seconds} s, ` +
      `memory ${(grown / 2 ** 20).toFixed(1)} MiB more`,
  );
  failures.push(...[...first.faults, ...rest.faults].map((fault) => `${arch}: ${fault}`));
  if (grown > GROWTH) failures.push(`${arch}: ${grown} bytes were not given back`);
  session.close();
}
for (const failure of failures) console.error(failure);
process.exitCode = failures.length === 0 ? 0 : 1;

/** Bytes held while the machine stands at its start: how far a run has come and what was changed in it takes some, too. */
async function used(session: DebugSession): Promise<number> {
  await session.dropChanges();
  // What the first one finds gone may hold on to memory outside of the heap, which the second one gives back.
  globalThis.gc?.();
  await new Promise((done) => setImmediate(done));
  globalThis.gc?.();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}
