/** `kfault dap`. */
import { type ServingOptions, serveAdapter, serveStreams } from '../debug/dap/server.js';
import type { Engine } from '../emu/cpu.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { openEngine } from './engine.js';
import { type Io, PASSED, UsageError } from './io.js';

export interface DapOptions {
  /** 0: any that is free. Standard input and output if it is not given. */
  readonly port?: number;
}

/** Serves debuggers that speak the Debug Adapter Protocol; returns the exit status when there will be no more. */
export async function dapCommand({ port }: DapOptions, io: Io): Promise<number> {
  const options = servingOptions(io);
  if (port === undefined) {
    await serveStreams(process.stdin, process.stdout, options);
    // What has been read and not been wanted does not keep the process.
    process.stdin.destroy();
    return PASSED;
  }
  const server = await serveAdapter(port, options).catch((error: NodeJS.ErrnoException) => {
    throw error.syscall === 'listen' ? new UsageError(listenError(error, port)) : error;
  });
  io.err(`waiting for debuggers on 127.0.0.1:${server.port}\n`);
  // Until somebody ends the process.
  return new Promise(() => undefined);
}

function servingOptions(io: Io): ServingOptions {
  const engines = new Map<string, Promise<Engine>>();
  return {
    log: (line) => io.err(`kfault: ${line}\n`),
    openEngine: (library) => {
      const key = library ?? '';
      const known = engines.get(key);
      if (known !== undefined) return known;
      const engine =
        library === null
          ? openEngine(io)
          : Promise.resolve().then(() => new NativeEngine(library, { reuse: true }));
      engines.set(key, engine);
      // The next attempt may go better.
      engine.catch(() => engines.delete(key));
      return engine;
    },
  };
}

function listenError({ code, message }: NodeJS.ErrnoException, port: number): string {
  switch (code) {
    case 'EADDRINUSE':
      return `port ${port} is in use: choose another one with --port, or --port 0 for any that is free`;
    case 'EACCES':
      return `port ${port} needs rights that this user has not: choose one from 1024 on`;
    default:
      return `cannot listen on 127.0.0.1:${port} (${message})`;
  }
}
