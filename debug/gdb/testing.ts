/** For tests: a debugger that speaks the protocol, and answers in the forms that the protocol has. */
import { connect, type Socket } from 'node:net';
import { ACK, type Item, PacketReader, packet } from './framing.js';

export class RspClient {
  readonly #socket: Socket;
  readonly #reader = new PacketReader();
  readonly #items: Item[] = [];
  #wake: () => void = () => undefined;
  #acks = true;
  closed = false;
  /** What came as console output since the last answer. */
  output = '';

  static connect(port: number): Promise<RspClient> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new RspClient(socket));
      });
    });
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (bytes) => {
      this.#items.push(...this.#reader.push(bytes));
      this.#wake();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.closed = true;
      this.#wake();
    });
  }

  sendRaw(bytes: Uint8Array | string): void {
    this.#socket.write(bytes);
  }

  /** What comes next; null at the end of the connection. */
  async next(): Promise<Item | null> {
    for (;;) {
      const item = this.#items.shift();
      if (item !== undefined) return item;
      if (this.closed) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Sends a packet, takes what is printed on the way, and returns the answer. */
  async ask(text: string | Uint8Array): Promise<string> {
    this.sendRaw(packet(typeof text === 'string' ? Buffer.from(text, 'latin1') : text));
    return this.answer();
  }

  async answer(): Promise<string> {
    this.output = '';
    for (;;) {
      const item = await this.next();
      if (item === null) throw new Error('the connection is over');
      if (item.kind === 'bad') throw new Error('a bad packet came');
      if (item.kind !== 'packet') continue;
      if (this.#acks) this.sendRaw(ACK);
      const text = Buffer.from(item.data).toString('latin1');
      if (!/^O([0-9a-f]{2})+$/.test(text)) return text;
      this.output += Buffer.from(text.slice(1), 'hex').toString('utf8');
    }
  }

  async monitor(line: string): Promise<string> {
    const answer = await this.ask(`qRcmd,${Buffer.from(line).toString('hex')}`);
    if (answer !== 'OK') throw new Error(`monitor ${line}: ${answer}`);
    return this.output;
  }

  async noAcks(): Promise<void> {
    await this.ask('QStartNoAckMode');
    this.#acks = false;
  }

  close(): void {
    this.#socket.destroy();
  }
}
