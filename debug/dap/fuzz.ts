/**
 * Random and mutated messages for the adapter, from a seed, and what may come back. Part of the tests, and of
 * `npm run fuzz-dap`.
 */
import { Random } from '../gdb/fuzz.js';
import { framed, MessageReader } from './framing.js';
import { Protocol } from './protocol-check.js';
import { type Command, REQUESTS } from './requests.js';
import { Connection, type ServingOptions } from './server.js';

const COMMANDS = Object.keys(REQUESTS) as Command[];

/** Commands that end a session, or begin it, come seldom. */
const SELDOM: readonly string[] = ['disconnect', 'terminate', 'initialize', 'launch', 'restart', 'attach'];

/** Values of wrong types and sizes. */
const JUNK: readonly unknown[] = [
  null,
  true,
  -1,
  0,
  0.5,
  1e308,
  2 ** 53,
  -(2 ** 63),
  '',
  'x',
  '0x',
  '0xffffffffffffffffff',
  'phys:0x0',
  '\u0000\ud800',
  'A'.repeat(5000),
  [],
  [[]],
  {},
  { line: {} },
];

const LINES: readonly string[] = [
  'path',
  'walk a.page(3) write',
  'bt',
  'arena',
  'info registers',
  'stepi',
  'rsi 3',
  'step',
  'rs',
  'finish',
  'ff',
  'x/4xg $sp',
  'x/s $pc',
  'set $rax = 1',
  'set pte a.page(3) = 0',
  'p 1 +',
  'help stepi',
  'nonsense',
  'break write_word',
  'watch-pte a.page(3)',
  'delete 1',
  'drop-changes',
  'goto 20',
];

const EXPRESSIONS: readonly string[] = [
  '$pc',
  '$sp + 8',
  'a.page(3)',
  '*(u64 *)$sp',
  'a.page(',
  'rdi',
  'write_word',
  '1 == 1',
];

/** What messages refer to, and messages. */
export class MessageSource {
  readonly random: Random;
  readonly #numbers: number[] = [];
  readonly #addresses: string[] = ['0x0', '0xffffffffffffffff', 'phys:0x1000'];
  readonly #words: string[] = [];
  #seq = 0;

  constructor(
    seed: number,
    readonly fixture: string,
  ) {
    this.random = new Random(seed);
  }

  get seq(): number {
    this.#seq += 1;
    return this.#seq;
  }

  get chance(): number {
    return this.random.below(100);
  }

  /** Keeps what a message mentions, to ask about it. */
  learn(value: unknown): void {
    if (typeof value !== 'object' || value === null) return;
    for (const [key, each] of Object.entries(value)) {
      if (/^(id|variablesReference|sourceReference|frameId)$/.test(key) && typeof each === 'number') {
        remember(this.#numbers, each);
      } else if (/^(memoryReference|instructionPointerReference|address)$/.test(key)) {
        remember(this.#addresses, String(each));
      } else if (/^(name|dataId)$/.test(key)) {
        remember(this.#words, String(each));
      } else this.learn(each);
    }
  }

  request(command: string, args?: unknown): unknown {
    return { seq: this.seq, type: 'request', command, arguments: args };
  }

  /** Any message. */
  message(): unknown {
    const { random } = this;
    const command = random.pick(COMMANDS, 'next');
    const chosen = SELDOM.includes(command) && this.chance < 90 ? 'stackTrace' : command;
    const message = this.request(chosen, this.#arguments(chosen));
    return this.chance < 35 ? this.#mutated(message) : message;
  }

  /** Bytes that are no message. */
  broken(): Uint8Array {
    const { random } = this;
    const bytes = framed(this.message());
    switch (random.below(5)) {
      case 0:
        return bytes.subarray(0, random.below(bytes.length));
      case 1:
        return Buffer.from(bytes.toString('latin1').replace(/\d+/, String(random.below(400))), 'latin1');
      case 2:
        return Buffer.from(bytes.toString('latin1').replace(/\d+/, random.pick(['-1', '1e9', '', 'x'], '')));
      case 3: {
        const noisy = Buffer.from(bytes);
        for (let i = 0; i < 4; i++) noisy[random.below(noisy.length)] = random.below(256);
        return noisy;
      }
      default:
        return Uint8Array.from({ length: random.below(200) }, () => random.below(256));
    }
  }

  get #number(): number {
    return this.chance < 90 ? this.random.pick(this.#numbers.slice(-40), 1) : this.random.below(5000);
  }

  get #address(): string {
    return this.random.pick(this.#addresses, '0x0');
  }

  get #word(): string {
    return this.random.pick(this.#words.slice(-60), 'rax');
  }

  get #expression(): string {
    return this.chance < 50 ? this.random.pick(EXPRESSIONS, '1') : this.#word;
  }

  get #conditions(): object {
    if (this.chance < 70) return {};
    return { condition: this.#expression, hitCondition: this.random.pick(['1', '> 1', '% 2'], '2') };
  }

  #list(one: () => unknown): unknown[] {
    return Array.from({ length: this.random.below(4) }, one);
  }

  #arguments(command: Command): unknown {
    const { random } = this;
    const number = this.#number;
    const text = random.pick(['instruction', 'line', undefined], undefined);
    switch (command) {
      case 'initialize':
        return { adapterID: 'kfault', supportsMemoryEvent: true, supportsInvalidatedEvent: true };
      case 'launch':
        return { fixture: this.fixture, stopOnEntry: this.chance < 50 };
      case 'restart':
        return this.chance < 50 ? undefined : { arguments: { fixture: this.fixture } };
      case 'attach':
      case 'configurationDone':
      case 'disconnect':
      case 'terminate':
      case 'threads':
      case 'loadedSources':
      case 'pause':
        return undefined;
      case 'continue':
      case 'next':
      case 'stepIn':
      case 'stepOut':
      case 'stepBack':
      case 'reverseContinue':
        return { threadId: 1, granularity: text };
      case 'setBreakpoints':
        return {
          source: { path: this.fixture },
          breakpoints: this.#list(() => ({ line: random.below(60), ...this.#conditions })),
        };
      case 'setFunctionBreakpoints': {
        const names = ['exc_page_fault', 'do_mem_abort', 'write_word', 'bpf_arena_handle_page_fault'];
        return { breakpoints: this.#list(() => ({ name: random.pick(names, ''), ...this.#conditions })) };
      }
      case 'setInstructionBreakpoints':
        return {
          breakpoints: this.#list(() => ({
            instructionReference: this.#address,
            offset: random.below(9) - 4,
            ...this.#conditions,
          })),
        };
      case 'setExceptionBreakpoints':
        return {
          filters: this.#list(() => random.pick(['fault', 'oops', 'scratch', 'nothing'], 'kfence')),
          filterOptions: this.#list(() => ({ filterId: 'console', condition: 'BUG' })),
        };
      case 'dataBreakpointInfo':
        return this.chance < 50
          ? { variablesReference: number, name: this.#word }
          : { name: this.#expression, bytes: random.below(12) };
      case 'setDataBreakpoints':
        return { breakpoints: this.#list(() => ({ dataId: this.#word, ...this.#conditions })) };
      case 'breakpointLocations':
        return { source: { path: this.fixture }, line: random.below(50), endLine: random.below(90) };
      case 'stackTrace':
        return { threadId: 1, startFrame: random.below(3), levels: random.below(20) };
      case 'scopes':
        return { frameId: number };
      case 'variables':
        return { variablesReference: number, start: random.below(4), count: random.below(4) };
      case 'setVariable':
        return { variablesReference: number, name: this.#word, value: this.#expression };
      case 'setExpression':
        return { expression: this.#expression, value: this.#expression };
      case 'evaluate':
        return this.chance < 50
          ? { expression: random.pick(LINES, 'path'), context: 'repl' }
          : { expression: this.#expression, context: random.pick(['hover', 'watch'], 'repl') };
      case 'completions':
        return { text: random.pick(LINES, ''), column: random.below(20) };
      case 'exceptionInfo':
        return { threadId: 1 };
      case 'source':
        return { sourceReference: random.below(30) };
      case 'disassemble':
        return {
          memoryReference: this.#address,
          offset: random.below(20) - 10,
          instructionOffset: random.below(200) - 100,
          instructionCount: random.below(120),
        };
      case 'readMemory':
        return { memoryReference: this.#address, offset: random.below(64) - 32, count: random.below(9000) };
      case 'writeMemory':
        return { memoryReference: this.#address, data: random.pick(['AAAA', 'qrvM', '!', ''], '') };
    }
  }

  /** The same with something in it that is not what it should be. */
  #mutated(value: unknown): unknown {
    const { random } = this;
    if (typeof value !== 'object' || value === null || random.below(8) === 0) return random.pick(JUNK, null);
    if (Array.isArray(value)) {
      if (value.length === 0) return [random.pick(JUNK, null)];
      const at = random.below(value.length);
      return value.map((each, i) => (i === at ? this.#mutated(each) : each));
    }
    const keys = Object.keys(value);
    const key = random.pick(keys, 'more');
    const copy: Record<string, unknown> = { ...value };
    if (random.below(6) === 0) delete copy[key];
    else copy[key] = this.#mutated(copy[key]);
    return copy;
  }
}

function remember<T>(list: T[], value: T): void {
  list.push(value);
  if (list.length > 400) list.splice(0, 200);
}

export interface FuzzReport {
  readonly messages: number;
  readonly responses: number;
  readonly refusals: number;
  readonly events: number;
  readonly sessions: number;
  /** What went wrong: a line each. */
  readonly faults: readonly string[];
}

/** The longest that a message may take, in milliseconds, before it counts as hanging. */
const HANGS = 60_000;
const MOVES: readonly string[] = [
  'continue',
  'next',
  'stepIn',
  'stepOut',
  'stepBack',
  'reverseContinue',
  'configurationDone',
  'restart',
];

/**
 * Sends `count` messages, and looks at everything that comes back.
 * @param tell told what is sent, before it is
 */
export async function fuzz(
  source: MessageSource,
  options: Pick<ServingOptions, 'openEngine'>,
  count: number,
  tell: (bytes: Uint8Array) => void = () => undefined,
): Promise<FuzzReport> {
  const faults: string[] = [];
  const sum = { messages: 0, responses: 0, refusals: 0, events: 0, sessions: 0 };
  while (sum.messages < count && faults.length < 10) {
    sum.sessions += 1;
    const line = new Line(source, options, sum, faults, tell);
    if (source.chance < 95) await line.begin();
    while (!line.over && sum.messages < count && faults.length < 10 && source.random.below(300) > 0) {
      // Now and then several at once: some of them come while the machine runs.
      for (let i = source.chance < 20 ? 5 : 1; i > 0; i--) {
        if (source.chance < 6) line.sendBroken();
        else line.send(source.message());
      }
      await line.settle();
    }
    await line.leave();
  }
  return { ...sum, faults };
}

type Sum = { -readonly [K in Exclude<keyof FuzzReport, 'faults'>]: number };

/** A client without a network. */
class Line {
  over = false;
  readonly #connection: Connection;
  readonly #reader = new MessageReader();
  readonly #protocol = new Protocol();
  /** Requests that are not answered, by number. */
  readonly #asked = new Map<number, string>();
  /** Bytes that were no message may have swallowed requests, or have been some. */
  #unsure = false;
  #moving = false;
  #terminated = false;
  #left = false;
  #initialized = false;

  constructor(
    readonly source: MessageSource,
    options: Pick<ServingOptions, 'openEngine'>,
    readonly sum: Sum,
    readonly faults: string[],
    readonly tell: (bytes: Uint8Array) => void,
  ) {
    this.#connection = new Connection(
      (bytes) => {
        for (const item of this.#reader.push(bytes)) this.#take(item.kind === 'bad' ? null : item.value);
      },
      () => {
        this.#left = true;
        this.over = true;
      },
      {
        ...options,
        // What was skipped is told; anything else is a mistake of ours.
        log: (text) => {
          if (!text.startsWith('a message was skipped')) faults.push(text);
        },
      },
    );
  }

  async begin(): Promise<void> {
    for (const command of ['initialize', 'launch', 'configurationDone'] as const) {
      const args = { adapterID: 'kfault', fixture: this.source.fixture, supportsInvalidatedEvent: true };
      this.send(this.source.request(command, args));
      await this.settle();
    }
  }

  send(message: unknown): void {
    this.sum.messages += 1;
    const { type, seq, command } = { ...(typeof message === 'object' ? message : {}) } as Record<
      string,
      unknown
    >;
    if (type === 'request' && Number.isSafeInteger(seq) && !this.over) {
      if (this.#asked.has(Number(seq))) return;
      this.#asked.set(Number(seq), typeof command === 'string' ? command : '');
    }
    this.#give(framed(message));
  }

  sendBroken(): void {
    this.sum.messages += 1;
    this.#unsure = true;
    this.#give(this.source.broken());
    this.#pad(1000);
  }

  #give(bytes: Uint8Array): void {
    this.tell(bytes);
    this.#connection.receive(bytes);
  }

  /** Bytes that belong to nothing make whole what was cut short. */
  #pad(length: number): void {
    this.#connection.receive(Buffer.from(`${' '.repeat(length)}\r\n\r\n`));
  }

  #take(message: unknown): void {
    const wrong = message === null ? ['it sent what is no message'] : this.#protocol.problems(message);
    for (const problem of wrong) this.#fault(`${problem} in ${JSON.stringify(message).slice(0, 300)}`);
    this.source.learn(message);
    const { type, event, command, request_seq, success } = message as Record<string, unknown>;
    if (type === 'event') {
      this.sum.events += 1;
      this.#event(String(event));
      return;
    }
    this.sum.responses += 1;
    if (success !== true) this.sum.refusals += 1;
    const asked = this.#asked.get(Number(request_seq));
    this.#asked.delete(Number(request_seq));
    if (asked !== command && !this.#unsure)
      this.#fault(`${command} ${request_seq} was answered, ${asked} asked`);
    if (success === true && MOVES.includes(String(command))) this.#moving = true;
  }

  #event(event: string): void {
    if (this.#terminated) this.#fault(`${event} behind terminated`);
    switch (event) {
      case 'initialized':
        if (this.#initialized) this.#fault('initialized came twice');
        this.#initialized = true;
        break;
      case 'continued':
        this.#moving = true;
        break;
      case 'stopped':
        if (!this.#moving) this.#fault('stopped, but nothing moved');
        this.#moving = false;
        break;
      case 'terminated':
        this.#terminated = true;
        this.#moving = false;
        break;
      default:
    }
  }

  #fault(text: string): void {
    this.faults.push(text);
  }

  /** Until everything is answered and nothing moves; then the next one may come. */
  async settle(): Promise<void> {
    const until = performance.now() + HANGS;
    for (let turn = 1; !this.over && (this.#asked.size > 0 || this.#moving); turn++) {
      // A length that is wrong may have swallowed what came behind it.
      if (this.#unsure && turn % 100 === 0) this.#pad(turn * 100);
      await new Promise((resolve) => setImmediate(resolve));
      if (performance.now() > until) {
        this.#fault(`no answer to ${[...this.#asked.values()].join() || 'a move'}: it hangs`);
        this.over = true;
      }
    }
    // A goodbye leaves what came behind it without an answer.
    this.#asked.clear();
    if (this.#terminated) this.over = true;
  }

  async leave(): Promise<void> {
    if (this.#left) return;
    this.over = false;
    this.send(this.source.request('disconnect'));
    await this.settle();
    if (!this.over) this.#fault('the goodbye was not heard');
    this.#connection.close();
  }
}
