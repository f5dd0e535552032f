/** A session on a TCP port: one debugger at a time, as many as come one after the other. */
import { createServer, type Server, type Socket } from 'node:net';
import type { DebugSession } from '../api.js';
import { Connection } from './connection.js';
import { PacketReader, packet } from './framing.js';
import { Stub } from './stub.js';

export interface GdbServerOptions {
  /** Name of the fixture's file. */
  readonly name: string;
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  /** Told of what happens, a line each. */
  readonly log: (line: string) => void;
}

export interface GdbServer {
  readonly address: string;
  readonly port: number;
  /** Settled when a debugger has killed the target, or close() was called; rejected by an error of ours. */
  readonly ended: Promise<void>;
  close(): Promise<void>;
}

/** Goes to the first instruction, and listens. Rejects when the port cannot be had. */
export async function serveGdb(session: DebugSession, options: GdbServerOptions): Promise<GdbServer> {
  const stub = new Stub(session, options.name);
  await stub.control.toFirstInstruction();
  const serving = new Serving(stub, options);
  await serving.listen();
  return serving;
}

class Serving implements GdbServer {
  readonly ended: Promise<void>;
  readonly #stub: Stub;
  readonly #options: GdbServerOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #current: Connection | null = null;
  #settle: { end: () => void; fail: (error: unknown) => void } = { end: () => {}, fail: () => {} };

  constructor(stub: Stub, options: GdbServerOptions) {
    this.#stub = stub;
    this.#options = options;
    this.ended = new Promise((resolve, reject) => {
      this.#settle = { end: resolve, fail: reject };
    });
    // Whoever does not ask is told by close().
    this.ended.catch(() => undefined);
    this.#server = createServer((socket) => void this.#come(socket));
  }

  get address(): string {
    const address = this.#server.address();
    return address === null || typeof address === 'string' ? '' : address.address;
  }

  get port(): number {
    const address = this.#server.address();
    return address === null || typeof address === 'string' ? 0 : address.port;
  }

  listen(): Promise<void> {
    const { host, port } = this.#options;
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ host, port }, () => {
        this.#server.off('error', reject);
        this.#server.on('error', (error) => this.#settle.fail(error));
        resolve();
      });
    });
  }

  async close(): Promise<void> {
    this.#current?.close();
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#settle.end();
  }

  async #come(socket: Socket): Promise<void> {
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.setKeepAlive(true);
    // The end of the connection is told by `close`, which follows.
    socket.on('error', () => undefined);
    socket.on('close', () => this.#sockets.delete(socket));
    const who = `${socket.remoteAddress ?? 'somebody'}:${socket.remotePort ?? 0}`;
    await this.#waitForOther();
    // From here to where it is taken nobody else gets a turn.
    if (this.#current !== null && !this.#current.over) {
      this.#options.log(`${who} was refused: another debugger is connected`);
      refuse(socket);
      return;
    }
    if (socket.destroyed) return;
    this.#options.log(`${who} has connected`);
    const connection = new Connection(
      this.#stub,
      {
        send: (bytes) => {
          socket.write(bytes);
          // It asks and asks, and does not read.
          if (socket.writableLength > UNREAD_MAX) socket.destroy();
        },
        end: () => void socket.end(),
      },
      {
        killed: () => {
          this.#options.log('the debugger has ended the session');
          void this.close();
        },
        failed: (error) =>
          this.#options.log(`internal error: ${error instanceof Error ? error.stack : String(error)}`),
      },
    );
    this.#current = connection;
    socket.on('data', (bytes) => connection.receive(bytes));
    socket.on('close', () => {
      connection.close();
      this.#options.log(`${who} has gone`);
    });
  }

  /** Whoever has the session is given time to go, in case that he is about to. */
  async #waitForOther(): Promise<void> {
    const first = this.#current;
    if (first !== null && !first.over) {
      await Promise.race([first.finished, new Promise((resolve) => setTimeout(resolve, LEAVING).unref())]);
    }
    while (this.#current?.over === true && !this.#current.isFinished) await this.#current.finished;
  }
}

/** Milliseconds that a debugger gets to be gone when the next one comes. */
const LEAVING = 200;

/** Bytes that wait for a debugger to read them. */
const UNREAD_MAX = 0x100_0000;

/** Bytes that a debugger says before it is sent away. */
const REFUSED_AFTER = 0x1_0000;

/** Says so in the way that gdb shows: it prints what it gets instead of an empty answer to `vMustReplyEmpty`. */
function refuse(socket: Socket): void {
  const reader = new PacketReader();
  let seen = 0;
  const say = (text: string): void => {
    socket.write(packet(Buffer.from(text)));
  };
  socket.on('data', (bytes) => {
    seen += bytes.length;
    for (const item of reader.push(bytes)) {
      if (item.kind !== 'packet') continue;
      socket.write('+');
      const text = Buffer.from(item.data).toString('latin1');
      if (text.startsWith('qSupported')) {
        say('PacketSize=1000');
        continue;
      }
      say('E.another debugger is connected to this kfault: it has to detach first');
      socket.end();
      return;
    }
    if (seen > REFUSED_AFTER) socket.destroy();
  });
}
