/**
 * Random and mutated packets for the server's side of the protocol, from a seed, and what may come back. Part of the
 * tests, and of `npm run fuzz-gdb`.
 */
import { Connection } from './connection.js';
import { ACK, type Item, PacketReader, packet } from './framing.js';
import type { Stub } from './stub.js';

/** mulberry32: small numbers from a seed, the same ones each time. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 to below `limit`. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * limit);
  }

  pick<T>(list: readonly T[], otherwise: T): T {
    return list[this.below(list.length)] ?? otherwise;
  }
}

/** What debuggers send, to begin with. ADDRESS, PC, NUMBER and BYTES are filled in. */
const TEMPLATES: readonly string[] = [
  'qSupported:swbreak+;hwbreak+;error-message+;xmlRegisters=i386',
  'vMustReplyEmpty',
  '?',
  '!',
  'g',
  'p NUMBER',
  'P NUMBER=BYTES',
  'm ADDRESS,NUMBER',
  'M ADDRESS,4:00112233',
  'X ADDRESS,4:ab}\x03d',
  // Jumps to themselves, of both architectures: code that does not end.
  'M PC,2:ebfe',
  'M PC,4:00000014',
  'Z0,ADDRESS,1',
  'z0,ADDRESS,1',
  'Z1,ADDRESS,4',
  'z1,ADDRESS,4',
  'Z2,ADDRESS,8',
  'z2,ADDRESS,8',
  'Z3,ADDRESS,NUMBER',
  'z3,ADDRESS,NUMBER',
  'Z4,ADDRESS,8',
  'z4,ADDRESS,8',
  'vCont?',
  'vCont;c',
  'vCont;s:1;c',
  'vCont;C0b:1',
  'vCont;rADDRESS,ADDRESS:1',
  'vCont;r0,ffffffffffffffff:1',
  'c',
  's',
  'S05',
  'bs',
  'bc',
  'Hg0',
  'Hc-1',
  'T1',
  'qC',
  'qAttached',
  'qfThreadInfo',
  'qsThreadInfo',
  'qThreadExtraInfo,1',
  'qSymbol::',
  'qOffsets',
  'qTStatus',
  'QPassSignals:e;10;14',
  'qXfer:features:read:target.xml:NUMBER,NUMBER',
  'qXfer:threads:read::0,1000',
  'qXfer:exec-file:read:1:0,1000',
  'qXfer:memory-map:read::0,1000',
  'vFile:setfs:0',
  'vFile:open:2f6b6661756c74,0,0',
  'vFile:pread:3,NUMBER,NUMBER',
  'vFile:fstat:3',
  'vFile:close:3',
  'vRun;',
  'R00',
  'qRcmd,COMMAND',
  'Qqemu.PhyMemMode:1',
  'Qqemu.PhyMemMode:0',
];

const MONITOR: readonly string[] = [
  'help',
  'walk $pc',
  'walk ADDRESS write user',
  'map',
  'path',
  'arena',
  'kfence',
  'console',
  'stream',
  'stack',
  'phys 0x1000 16',
  'print $sp + NUMBER',
  'registers system',
  'info',
  'break exc_page_fault',
  'break',
  'delete NUMBER',
  'faults all',
  'faults none',
  'faults unrecovered',
  'stepping all',
  'stepping off',
];

/** Bytes of one packet and of what may stand around it. */
export class PacketSource {
  readonly #random: Random;
  readonly #addresses: readonly bigint[];

  constructor(seed: number, addresses: readonly bigint[]) {
    this.#random = new Random(seed);
    this.#addresses = addresses;
  }

  /** The data of a packet that is well-formed as far as framing goes. */
  data(): Uint8Array {
    const random = this.#random;
    const kind = random.below(10);
    if (kind === 0) return this.#noise(random.below(64));
    const text = Buffer.from(this.#filled(random.pick(TEMPLATES, '?')), 'latin1');
    return kind < 5 ? this.#mutated(text) : text;
  }

  /** Bytes that break the framing: a wrong checksum, a packet cut short, noise. */
  broken(): Uint8Array {
    const bytes = packet(this.data());
    const random = this.#random;
    switch (random.below(3)) {
      case 0:
        return Uint8Array.from([...bytes.subarray(0, -1), (bytes.at(-1) ?? 0) ^ 0x0f]);
      case 1:
        return bytes.subarray(0, random.below(bytes.length));
      default:
        return this.#noise(random.below(40)).filter((byte) => byte !== 0x03);
    }
  }

  get chance(): number {
    return this.#random.below(100);
  }

  #filled(template: string): string {
    const random = this.#random;
    return template
      .replace(/ (?=[A-Z])/, '')
      .replace('COMMAND', () => Buffer.from(this.#filled(random.pick(MONITOR, 'help'))).toString('hex'))
      .replace('PC', () => random.pick(this.#addresses, 0n).toString(16))
      .replace(/ADDRESS/g, () => this.#address().toString(16))
      .replace(/NUMBER/g, () => random.below(random.pick([8, 64, 0x2000], 8)).toString(16))
      .replace(/BYTES/g, () => hexOf(this.#noise(random.pick([4, 8, 10], 8))));
  }

  #address(): bigint {
    const random = this.#random;
    if (random.below(8) === 0)
      return BigInt.asUintN(64, BigInt(random.below(2 ** 31)) << BigInt(random.below(40)));
    return BigInt.asUintN(64, random.pick(this.#addresses, 0n) + BigInt(random.below(32)));
  }

  #noise(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.#random.below(256));
  }

  #mutated(bytes: Uint8Array): Uint8Array {
    const random = this.#random;
    const out = [...bytes];
    for (let i = random.below(4); i >= 0; i--) {
      const at = random.below(out.length + 1);
      switch (random.below(4)) {
        case 0:
          out.splice(at, 1);
          break;
        case 1:
          out.splice(at, 0, random.below(256));
          break;
        case 2:
          if (at < out.length) out[at] = random.below(256);
          break;
        default:
          out.splice(at, 0, ...out.slice(0, random.below(8)));
      }
    }
    return Uint8Array.from(out);
  }
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

/** Forms of answers by what was asked. Errors and the empty answer may come for everything. */
const STOP = /^(T[0-9a-f]{2}([0-9a-z]+:[^;]*;)*|W0[01])$/;
const FORMS: readonly (readonly [RegExp, RegExp])[] = [
  [/^(\?|c|s|C|S|bc$|bs$|vCont;|vRun)/, STOP],
  [/^[gp]/, /^([0-9a-f]{2}|xx)+$/],
  [/^m/, /^([0-9a-f]{2})*$/],
  [/^(G|P|M|X|Z|z|H|T|D|!|QStartNoAckMode|QPassSignals|qRcmd|vKill|Qqemu|qSymbol)/, /^OK$/],
  [/^qSupported/, /^PacketSize=/],
  [/^vCont\?/, /^vCont(;[a-zA-Z])+$/],
  [/^qXfer/, /^[ml]/],
  [/^vFile/, /^F(-1,[0-9a-f]+|[0-9a-f]+(;[\s\S]*)?)$/],
  [/^qC/, /^QC[0-9a-f]+$/],
  [/^qfThreadInfo/, /^m[0-9a-f,]+$/],
  [/^qsThreadInfo/, /^l$/],
  [/^qThreadExtraInfo/, /^([0-9a-f]{2})*$/],
  [/^(qAttached|qqemu)/, /^[01]$/],
];

/** Whether an answer is one that the protocol has for this packet. */
export function isAnswer(asked: string, answer: string): boolean {
  if (answer === '' || /^E([0-9a-f]{2}|\.[ -~]*)$/.test(answer)) return true;
  return FORMS.some(([question, form]) => question.test(asked) && form.test(answer));
}

/** Packets behind which no answer comes. */
function isSilent(asked: string): boolean {
  return asked.startsWith('k') || asked.startsWith('R');
}

export interface FuzzReport {
  readonly packets: number;
  readonly answers: number;
  readonly errors: number;
  readonly empty: number;
  /** Packets that ran for so long that they were interrupted. */
  readonly interrupted: number;
  /** What went wrong: a line each. */
  readonly faults: readonly string[];
}

/** Milliseconds that a packet may take. Then it is interrupted, as a user would: code that was changed may be a loop. */
const PATIENCE = 300;
/** Milliseconds that it may take from there on before it counts as hanging. */
const HANGS = 30_000;

/**
 * Sends `count` packets to a stub and looks at each answer.
 * Now and then the debugger goes away, and another one comes.
 * @param tell called before each packet
 */
export async function fuzz(
  stub: Stub,
  source: PacketSource,
  count: number,
  tell: (packet: Uint8Array) => void = () => undefined,
): Promise<FuzzReport> {
  const faults: string[] = [];
  let answers = 0;
  let errors = 0;
  let empty = 0;
  let interrupted = 0;
  let line = new Line(stub, faults);
  for (let i = 0; i < count && faults.length < 10; i++) {
    if (line.over || source.chance === 0) {
      await line.leave();
      interrupted += line.interrupted;
      line = new Line(stub, faults);
      if (source.chance < 50) await line.ask(Buffer.from('QStartNoAckMode'));
    }
    if (source.chance < 10) {
      line.send(source.broken());
      // What was cut short ends here; what is whole by accident is answered, too.
      line.send(packet(Buffer.from('qC')));
      await line.settle();
    }
    const data = source.data();
    // `D` and `k` end the connection.
    const text = Buffer.from(data).toString('latin1');
    tell(data);
    const answer = await line.ask(data, source.chance < 5);
    if (answer === null) {
      if (!line.over && !isSilent(text)) faults.push(`no answer to ${JSON.stringify(text)}`);
      continue;
    }
    answers += 1;
    if (answer === '') empty += 1;
    else if (answer.startsWith('E')) errors += 1;
    if (!isAnswer(text, answer))
      faults.push(`${JSON.stringify(text)} was answered ${JSON.stringify(answer)}`);
  }
  await line.leave();
  interrupted += line.interrupted;
  return { packets: count, answers, errors, empty, interrupted, faults };
}

/** A connection without a network. */
class Line {
  over = false;
  /** How often something took too long. */
  interrupted = 0;
  readonly #connection: Connection;
  readonly #reader = new PacketReader();
  readonly #answers: string[] = [];

  constructor(stub: Stub, faults: string[]) {
    this.#connection = new Connection(
      stub,
      {
        send: (bytes) => {
          for (const item of this.#reader.push(bytes)) this.#take(item, faults);
        },
        end: () => {
          this.over = true;
        },
      },
      {
        killed: () => undefined,
        failed: (error) => faults.push(error instanceof Error ? String(error.stack) : String(error)),
      },
    );
  }

  #take(item: Item, faults: string[]): void {
    if (item.kind === 'bad') faults.push('a bad packet was sent');
    if (item.kind !== 'packet') return;
    this.send(ACK);
    const text = Buffer.from(item.data).toString('latin1');
    if (!/^O([0-9a-f]{2})+$/.test(text)) this.#answers.push(text);
  }

  send(bytes: Uint8Array): void {
    this.#connection.receive(bytes);
  }

  /** Until nothing is under way. */
  async settle(): Promise<void> {
    await this.#idle();
    this.#answers.length = 0;
  }

  /** The answer; null when there is none. */
  async ask(data: Uint8Array, interrupt = false): Promise<string | null> {
    this.send(packet(data));
    if (interrupt) this.send(Uint8Array.of(0x03));
    await this.#idle();
    return this.#answers.shift() ?? null;
  }

  async leave(): Promise<void> {
    this.over = true;
    this.#connection.close();
    await this.#connection.finished;
  }

  /**
   * Until the packet is answered; throws when it is not, although it was interrupted. What lets nobody in at all is
   * not seen here: the process that does this has to be watched from outside.
   */
  async #idle(): Promise<void> {
    const begin = performance.now();
    let interrupted = false;
    while (this.#connection.busy) {
      await new Promise((resolve) => setImmediate(resolve));
      const took = performance.now() - begin;
      if (took > PATIENCE && !interrupted) {
        interrupted = true;
        this.interrupted += 1;
        this.send(Uint8Array.of(0x03));
      }
      if (took > PATIENCE + HANGS) throw new Error('no answer to an interrupt: it hangs');
    }
  }
}
