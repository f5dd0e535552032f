/** One debugger on a stream of bytes: acknowledgements, what is sent again, and what comes while the machine runs. */
import { ACK, type Item, NAK, PacketReader, packet } from './framing.js';
import type { Answer, Stub } from './stub.js';

/** Where bytes go. */
export interface Wire {
  send(bytes: Uint8Array): void;
  /** Ends the connection behind what was sent. */
  end(): void;
}

export interface ConnectionEvents {
  /** `k`: the debugger wants the server to end. */
  killed(): void;
  /** An error of ours. The debugger gets an error, too, and goes on. */
  failed(error: unknown): void;
}

/** Packets that wait while one is answered. A debugger sends one and waits. */
const WAITING_MAX = 64;
/** How often a packet is sent again that the other side does not take. */
const RESEND_MAX = 16;

export class Connection {
  readonly #stub: Stub;
  readonly #wire: Wire;
  readonly #events: ConnectionEvents;
  readonly #reader = new PacketReader();
  #acks = true;
  /** While packets are acknowledged: the first was sent, the others wait until it is taken. */
  #outbox: Uint8Array[] = [];
  #resent = 0;
  readonly #waiting: Item[] = [];
  #busy = false;
  #over = false;
  isFinished = false;
  #finished: () => void = () => undefined;
  /** It is over, and nothing of it runs any more. */
  readonly finished = new Promise<void>((resolve) => {
    this.#finished = resolve;
  });

  constructor(stub: Stub, wire: Wire, events: ConnectionEvents) {
    this.#stub = stub;
    this.#wire = wire;
    this.#events = events;
  }

  get over(): boolean {
    return this.#over;
  }

  /** A packet is being answered. */
  get busy(): boolean {
    return this.#busy;
  }

  receive(bytes: Uint8Array): void {
    for (const item of this.#reader.push(bytes)) {
      if (this.#over) return;
      if (item.kind === 'interrupt') {
        // When nothing runs there is nothing to interrupt: gdb has its answer already.
        if (this.#busy) this.#stub.control.interrupt();
      } else {
        this.#take(item);
      }
    }
  }

  /** The debugger has gone. What runs is stopped. */
  close(): void {
    if (this.#over) return;
    this.#over = true;
    this.#waiting.length = 0;
    if (this.#busy) this.#stub.control.interrupt();
    else this.#leave();
  }

  #leave(): void {
    this.isFinished = true;
    this.#stub.disconnected();
    this.#finished();
  }

  #take(item: Item): void {
    switch (item.kind) {
      case 'ack':
        this.#outbox.shift();
        this.#resent = 0;
        this.#sendFirst();
        return;
      case 'nak':
        this.#sendAgain();
        return;
      case 'bad':
        if (this.#acks) this.#wire.send(NAK);
        // Nobody would send it again.
        else this.#enqueue(item);
        return;
      case 'packet':
        if (this.#acks) this.#wire.send(ACK);
        this.#enqueue(item);
        return;
      case 'interrupt':
        return;
    }
  }

  #sendFirst(): void {
    const [bytes] = this.#outbox;
    if (bytes !== undefined) this.#wire.send(bytes);
  }

  #sendAgain(): void {
    if (this.#outbox.length === 0) return;
    this.#resent += 1;
    if (this.#resent > RESEND_MAX) this.#end();
    else this.#sendFirst();
  }

  /** Whoever asks anew has what was sent, whether he has said so or not. */
  #flush(): void {
    for (const bytes of this.#outbox.slice(1)) this.#wire.send(bytes);
    this.#outbox = [];
  }

  #enqueue(item: Item): void {
    if (this.#waiting.length >= WAITING_MAX) {
      this.#end();
      return;
    }
    this.#waiting.push(item);
    if (!this.#busy) void this.#work();
  }

  async #work(): Promise<void> {
    this.#busy = true;
    try {
      for (let item = this.#waiting.shift(); item !== undefined; item = this.#waiting.shift()) {
        if (item.kind === 'packet') await this.#answer(item.data);
        else this.#send(Buffer.from('E16'));
        if (this.#over) break;
      }
    } finally {
      this.#busy = false;
      if (this.#over) this.#leave();
    }
  }

  async #answer(data: Uint8Array): Promise<void> {
    this.#flush();
    const answer = await this.#stub
      .answer(data, (notice) => {
        if (!this.#over) this.#send(notice);
      })
      .catch((error: unknown): Answer => {
        this.#events.failed(error);
        return { packets: [Buffer.from('E63')], after: 'stay' };
      });
    if (this.#over) return;
    for (const each of answer.packets) this.#send(each);
    if (answer.noAck === true) this.#acks = false;
    switch (answer.after) {
      case 'stay':
        return;
      case 'detach':
        this.#end();
        return;
      case 'kill':
        this.#end();
        this.#events.killed();
        return;
    }
  }

  #send(data: Uint8Array): void {
    const bytes = packet(data);
    if (this.#acks) this.#outbox.push(bytes);
    if (!this.#acks || this.#outbox.length === 1) this.#wire.send(bytes);
  }

  #end(): void {
    if (this.#over) return;
    this.#flush();
    this.close();
    this.#wire.end();
  }
}
