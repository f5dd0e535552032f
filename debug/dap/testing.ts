/** For tests: a client of the adapter, in the same process. */
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { DebugProtocol } from '@vscode/debugprotocol';
import { engine, type Isa } from '../testing.js';
import { framed, MessageReader } from './framing.js';
import { Protocol } from './protocol-check.js';
import { serveStreams } from './server.js';

/** A fixture of the repository: its code has its bytes, so that nothing is assembled. */
export function sample(isa: Isa, name: string): string {
  const folder = isa === 'x86-64' ? 'x86' : 'arm64';
  return fileURLToPath(new URL(`../../fixtures/${folder}/${name}.yaml`, import.meta.url));
}

const protocol = new Protocol();

export type Message = DebugProtocol.ProtocolMessage;

export function isEvent(message: Message): message is DebugProtocol.Event {
  return message.type === 'event';
}

export function isResponse(message: Message): message is DebugProtocol.Response {
  return message.type === 'response';
}

/** Speaks to an adapter over streams. Everything that comes is kept. */
export class TestClient {
  readonly input = new PassThrough();
  readonly #output = new PassThrough();
  readonly received: Message[] = [];
  readonly logged: string[] = [];
  /** What the protocol does not have. */
  readonly problems: string[] = [];
  readonly over: Promise<void>;
  /** The first message that nobody has waited for. */
  #next = 0;
  #seq = 0;
  #wake: () => void = () => undefined;

  constructor() {
    const reader = new MessageReader();
    this.#output.on('data', (bytes: Buffer) => {
      for (const item of reader.push(bytes)) {
        if (item.kind === 'bad') throw new Error(`the adapter sent what is no message: ${item.why}`);
        const message = item.value as Message;
        for (const problem of protocol.problems(message)) {
          this.problems.push(`${problem} in ${JSON.stringify(message)}`);
        }
        this.received.push(message);
      }
      this.#wake();
    });
    this.over = serveStreams(this.input, this.#output, {
      openEngine: async (library) => {
        if (library !== null) throw new Error(`there is no library ${library}`);
        return engine;
      },
      log: (line) => this.logged.push(line),
    });
  }

  /** Sends a request; returns its number. */
  post(command: string, args?: unknown): number {
    this.#seq += 1;
    this.input.write(framed({ seq: this.#seq, type: 'request', command, arguments: args }));
    return this.#seq;
  }

  /** Sends a request and returns the response, whatever it says. */
  async ask(command: string, args?: unknown): Promise<DebugProtocol.Response> {
    return this.response(this.post(command, args));
  }

  async response(seq: number): Promise<DebugProtocol.Response> {
    for (;;) {
      const found = this.received.filter(isResponse).find((each) => each.request_seq === seq);
      if (found !== undefined) return found;
      await this.#more();
    }
  }

  /** The body of a response that says yes. */
  async body<T>(command: string, args?: unknown): Promise<T> {
    const response = await this.ask(command, args);
    if (!response.success) throw new Error(`${command}: ${refusal(response)}`);
    return response.body as T;
  }

  /** What is said by a response that says no. */
  async refused(command: string, args?: unknown): Promise<string> {
    const response = await this.ask(command, args);
    if (response.success) throw new Error(`${command} was not refused`);
    return refusal(response);
  }

  /** The next event of a kind that nobody has waited for; those in between are passed over. */
  async event<B = unknown>(name: string): Promise<B> {
    for (;;) {
      const message = this.received[this.#next];
      if (message === undefined) {
        await this.#more();
        continue;
      }
      this.#next += 1;
      if (isEvent(message) && message.event === name) return message.body as B;
    }
  }

  stopped(): Promise<DebugProtocol.StoppedEvent['body']> {
    return this.event('stopped');
  }

  /** Moves, and returns where that has ended. */
  async move(command: string, args: object = {}): Promise<DebugProtocol.StoppedEvent['body']> {
    await this.body(command, { threadId: 1, ...args });
    return this.stopped();
  }

  /** What was printed so far, by category. */
  printed(category: string): string {
    return this.received
      .filter(isEvent)
      .filter(({ event, body }) => event === 'output' && body?.category === category)
      .map(({ body }) => String(body.output))
      .join('');
  }

  /** From the beginning to the first stop. */
  async launch(
    fixture: string,
    args: object = {},
    configure: () => Promise<void> = async () => undefined,
  ): Promise<DebugProtocol.StoppedEvent['body']> {
    await this.body('initialize', {
      adapterID: 'kfault',
      supportsMemoryEvent: true,
      supportsInvalidatedEvent: true,
    });
    await this.body('launch', { fixture, ...args });
    await this.event('initialized');
    await configure();
    await this.body('configurationDone');
    return this.stopped();
  }

  async frames(): Promise<DebugProtocol.StackFrame[]> {
    const { stackFrames } = await this.body<DebugProtocol.StackTraceResponse['body']>('stackTrace', {
      threadId: 1,
    });
    return stackFrames;
  }

  /** Variables of a scope of the innermost frame, by name. */
  async scope(name: string, frame = 0): Promise<Map<string, DebugProtocol.Variable>> {
    const frames = await this.frames();
    const { scopes } = await this.body<DebugProtocol.ScopesResponse['body']>('scopes', {
      frameId: frames[frame]?.id,
    });
    const found = scopes.find((each) => each.name === name);
    if (found === undefined)
      throw new Error(`no scope ${name} but ${scopes.map((each) => each.name).join()}`);
    return this.variables(found.variablesReference);
  }

  async variables(variablesReference: number): Promise<Map<string, DebugProtocol.Variable>> {
    const { variables } = await this.body<DebugProtocol.VariablesResponse['body']>('variables', {
      variablesReference,
    });
    return new Map(variables.map((each) => [each.name, each]));
  }

  async evaluate(expression: string, context = 'watch'): Promise<string> {
    const { result } = await this.body<DebugProtocol.EvaluateResponse['body']>('evaluate', {
      expression,
      context,
    });
    return result;
  }

  /** Goes away. Throws when anything that came was wrong. */
  async leave(): Promise<void> {
    await this.ask('disconnect');
    await this.over;
    const wrong = [...this.problems, ...this.logged];
    if (wrong.length > 0) throw new Error(wrong.slice(0, 10).join('\n'));
  }

  #more(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

function refusal({ body, message }: DebugProtocol.Response): string {
  const error: DebugProtocol.Message | undefined = body?.error;
  return error?.format.replace('{text}', error.variables?.text ?? '') ?? message ?? '';
}
