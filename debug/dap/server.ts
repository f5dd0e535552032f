/** Adapters on streams: on those of the process, or on connections to a port of this computer. */
import { createServer, type Server, type Socket } from 'node:net';
import { Adapter, type AdapterOptions } from './adapter.js';
import { framed, MessageReader } from './framing.js';

export type ServingOptions = Pick<AdapterOptions, 'openEngine' | 'log'>;

/** How a browser begins. A page of anybody's can make one send a body of its choice to a port of this computer. */
const HTTP = /^[A-Z]{3,7} \S+ HTTP\//;

/** One client: bytes in, bytes out. */
export class Connection {
  readonly #reader = new MessageReader();
  readonly #adapter: Adapter;
  readonly #left: () => void;
  readonly #log: ServingOptions['log'];
  #begun = false;
  #over = false;

  /** @param left called once, when the client has said goodbye, or is none */
  constructor(send: (bytes: Uint8Array) => void, left: () => void, options: ServingOptions) {
    this.#left = left;
    this.#log = options.log;
    this.#adapter = new Adapter({
      ...options,
      left: () => {
        this.close();
        left();
      },
    });
    this.#adapter.onDidSendMessage((message) => {
      if (!this.#over) send(framed(message));
    });
  }

  receive(bytes: Uint8Array): void {
    if (!this.#begun && HTTP.test(Buffer.from(bytes).toString('latin1'))) {
      this.#log('a client was refused: it speaks HTTP, not the Debug Adapter Protocol');
      this.close();
      this.#left();
      return;
    }
    this.#begun = true;
    for (const item of this.#reader.push(bytes)) {
      if (this.#over) return;
      if (item.kind === 'bad') this.#adapter.bad(item.why);
      else this.#adapter.receive(item.value);
    }
  }

  /** Frees the machine. Idempotent. */
  close(): void {
    this.#over = true;
    this.#adapter.close();
  }
}

/** Serves one client; settled when it has gone. */
export function serveStreams(
  input: NodeJS.ReadableStream,
  output: NodeJS.WritableStream,
  options: ServingOptions,
): Promise<void> {
  return new Promise((resolve) => {
    const take = (bytes: Uint8Array): void => connection.receive(bytes);
    const end = (): void => {
      connection.close();
      input.off('data', take);
      resolve();
    };
    const connection = new Connection((bytes) => output.write(bytes), end, options);
    input.on('data', take);
    // Whoever goes away without a word is gone as well.
    for (const event of ['end', 'close', 'error']) input.once(event, end);
    output.once('error', end);
  });
}

export interface AdapterServer {
  readonly port: number;
  close(): Promise<void>;
}

const LOOPBACK = '127.0.0.1';

/** Serves each client that connects to a port of the loopback interface. Rejects when the port cannot be had. */
export async function serveAdapter(port: number, options: ServingOptions): Promise<AdapterServer> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.setNoDelay(true);
    // The end of the connection follows.
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    void serveStreams(socket, socket, options).then(() => socket.end());
  });
  await listen(server, port);
  return {
    port: portOf(server),
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function listen(server: Server, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: LOOPBACK, port }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

function portOf(server: Server): number {
  const address = server.address();
  return address === null || typeof address === 'string' ? 0 : address.port;
}
