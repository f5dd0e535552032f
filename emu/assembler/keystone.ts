/**
 * Keystone behind glass. It is abandoned, and text that it does not like can make it end the process, run
 * forever or return nothing: it lives in a worker thread that is replaced when that happens. What it
 * returns is not to be trusted either; whoever asks disassembles it.
 */
import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';
import type { Isa } from '../disassembler.js';

/** One instruction to assemble. */
export interface KeystoneItem {
  readonly text: string;
  readonly address: bigint;
}

/** What became of an item: bytes, or why there are none. */
export type KeystoneResult = { readonly bytes: Uint8Array } | { readonly error: string };

export interface KeystoneOptions {
  /** Limit for one instruction, the start of the worker included. */
  readonly milliseconds?: number;
  /** Path of the module to load in place of Keystone; for tests. */
  readonly module?: string;
}

const DEFAULT_MILLISECONDS = 5000;

interface Reply {
  readonly bytes: Uint8Array | null;
  readonly error: string;
}

/**
 * Plain JavaScript, evaluated in the worker: there is no file to find, whatever the program was built to.
 * A handle that has refused something is thrown away, because some refusals spoil the next instruction.
 */
const WORKER = `
const { parentPort, workerData } = require('node:worker_threads');
const MKeystone = require(workerData);
const loaded = MKeystone();
const handles = new Map();
const open = (ks, isa) => {
  if (isa === 'arm64') return new ks.Keystone(ks.ARCH_ARM64, ks.MODE_LITTLE_ENDIAN);
  const handle = new ks.Keystone(ks.ARCH_X86, ks.MODE_64);
  handle.option(ks.OPT_SYNTAX, ks.OPT_SYNTAX_INTEL);
  return handle;
};
parentPort.on('message', async ({ isa, text, address }) => {
  const ks = await loaded;
  const handle = handles.get(isa) ?? open(ks, isa);
  handles.delete(isa);
  const { mc, failed } = handle.asm(text, address);
  const error = failed ? ks.strerror(handle.errno()) : '';
  if (failed || mc.length === 0) handle.close();
  else handles.set(isa, handle);
  parentPort.postMessage({ bytes: failed ? null : mc, error });
});
`;

const require = createRequire(import.meta.url);

/** Assembles instruction by instruction. Starts its worker at the first request and again after a loss. */
export class Keystone {
  readonly #milliseconds: number;
  readonly #module: string | undefined;
  #worker: Worker | null = null;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(options: KeystoneOptions = {}) {
    this.#milliseconds = options.milliseconds ?? DEFAULT_MILLISECONDS;
    this.#module = options.module;
  }

  /**
   * Results in the order of the items. An item that takes the worker down gets an error, and the ones
   * behind it are done by a new worker. Never rejects for anything an item says.
   */
  assemble(isa: Isa, items: readonly KeystoneItem[]): Promise<KeystoneResult[]> {
    const done = this.#queue.then(async () => {
      const results: KeystoneResult[] = [];
      for (const item of items) results.push(await this.#one(isa, item));
      return results;
    });
    this.#queue = done.catch(() => undefined);
    return done;
  }

  /** Ends the worker. It would not keep the process alive. */
  async close(): Promise<void> {
    const worker = this.#worker;
    this.#worker = null;
    await worker?.terminate();
  }

  #one(isa: Isa, { text, address }: KeystoneItem): Promise<KeystoneResult> {
    const worker = this.#start();
    return new Promise((resolve) => {
      const finish = (result: KeystoneResult): void => {
        clearTimeout(timer);
        worker.off('message', onMessage).off('error', onLoss).off('exit', onLoss);
        worker.unref();
        resolve(result);
      };
      const lose = (error: string): void => {
        if (this.#worker === worker) this.#worker = null;
        finish({ error });
        void worker.terminate();
      };
      const onMessage = (reply: Reply): void =>
        finish(reply.bytes === null ? { error: reply.error } : { bytes: reply.bytes });
      const onLoss = (): void => {
        const words = lastWords(worker);
        lose(`Keystone broke down over it${words === '' ? '' : ` (${words})`}`);
      };
      const limit = this.#milliseconds;
      const timer = setTimeout(() => lose(`Keystone took longer than ${limit / 1000} s`), limit);
      worker.on('message', onMessage).on('error', onLoss).on('exit', onLoss);
      worker.ref();
      worker.postMessage({ isa, text, address });
    });
  }

  #start(): Worker {
    if (this.#worker !== null) return this.#worker;
    const workerData = this.#module ?? require.resolve('@alexaltea/keystone-js');
    const worker = new Worker(WORKER, { eval: true, workerData, stdout: true, stderr: true });
    worker.unref();
    worker.on('error', () => undefined);
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = null;
    });
    this.#worker = worker;
    return worker;
  }
}

/** LLVM's reason for giving up. Read only when the worker is gone: a stream that flows holds the process. */
function lastWords(worker: Worker): string {
  const words: unknown = worker.stderr.read();
  const text = Buffer.isBuffer(words) ? words.toString('utf8') : '';
  return (text.split('\n')[0] ?? '').replace(/^LLVM ERROR: /, '').trim();
}
