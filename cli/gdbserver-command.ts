/** `kfault gdbserver`. */
import { serveGdb } from '../debug/gdb/server.js';
import { openSession } from '../debug/session.js';
import { loadFixture } from '../vector/format/load.js';
import { fixtureErrors } from '../vector/run/run-fixture.js';
import { openEngine } from './engine.js';
import { type Io, PASSED, UNUSABLE, UsageError } from './io.js';

export interface GdbserverOptions {
  /** 0: any that is free. */
  readonly port?: number;
  /** Address to listen on; the loopback interface unless it is given. */
  readonly listen?: string;
}

/** Where QEMU listens, too. */
const DEFAULT_PORT = 1234;
const LOOPBACK = '127.0.0.1';

/** Serves a fixture to debuggers, until one of them ends the session; returns the exit status. */
export async function gdbserverCommand(file: string, options: GdbserverOptions, io: Io): Promise<number> {
  const loaded = loadFixture(file);
  if (!loaded.ok) {
    io.err(`${loaded.errors.map((error) => error.format()).join('\n')}\n`);
    return UNUSABLE;
  }
  const { fixture } = loaded;
  const engine = await openEngine(io);
  try {
    const session = await openSession(fixture, engine);
    try {
      const host = options.listen ?? LOOPBACK;
      const port = options.port ?? DEFAULT_PORT;
      const server = await serveGdb(session, {
        name: fixture.source.file,
        host,
        port,
        log: (line) => io.err(`${line}\n`),
      }).catch((error: NodeJS.ErrnoException) => {
        throw error.syscall === 'listen' || error.syscall === 'getaddrinfo'
          ? new UsageError(listenError(error, host, port))
          : error;
      });
      const where = `${server.address.includes(':') ? `[${server.address}]` : server.address}:${server.port}`;
      const gdb = fixture.data.arch === 'arm64' ? 'gdb-multiarch' : 'gdb';
      io.out(`${fixture.data.name}\nwaiting for gdb on ${where}: ${gdb} -ex 'target remote ${where}'\n`);
      await server.ended;
      return PASSED;
    } finally {
      session.close();
    }
  } catch (error) {
    const errors = fixtureErrors(error);
    if (errors === null) throw error;
    io.err(`${errors.map((each) => each.format()).join('\n')}\n`);
    return UNUSABLE;
  }
}

function listenError({ code, message }: NodeJS.ErrnoException, host: string, port: number): string {
  switch (code) {
    case 'EADDRINUSE':
      return `port ${port} is in use: choose another one with --port, or --port 0 for any that is free`;
    case 'EACCES':
      return `port ${port} needs rights that this user has not: choose one from 1024 on`;
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return `--listen ${host}: this computer has no such address`;
    default:
      return `cannot listen on ${host}:${port} (${message})`;
  }
}
