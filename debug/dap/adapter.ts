/** The adapter's side of the Debug Adapter Protocol: one client, and the fixture that it debugs. */
import {
  BreakpointEvent,
  ContinuedEvent,
  ExitedEvent,
  InitializedEvent,
  InvalidatedEvent,
  MemoryEvent,
  OutputEvent,
  DebugSession as ProtocolSession,
  Response,
  TerminatedEvent,
} from '@vscode/debugadapter';
import type { DebugProtocol } from '@vscode/debugprotocol';
import type { Engine } from '../../emu/cpu.js';
import { fixtureErrors } from '../../vector/run/run-fixture.js';
import { type DebugSession, SessionError } from '../api.js';
import type { Stop } from '../stop.js';
import { CommandError } from '../terminal/command-error.js';
import { answerBreakpointRequests } from './answer-breakpoints.js';
import { answerMoves } from './answer-moves.js';
import { answerViews } from './answer-views.js';
import { BreakpointBook } from './breakpoint-book.js';
import { capabilities } from './capabilities.js';
import { Client } from './client.js';
import type { Answer, Desk, MemoryChange, MoveOptions, Reply } from './desk.js';
import { threadOf } from './frames.js';
import { type Launched, launch } from './launched.js';
import { Motion } from './motion.js';
import { resultOutput } from './output.js';
import { notStopped, RequestError } from './request-error.js';
import {
  type Arguments,
  type Command,
  type LaunchArguments,
  parseArguments,
  parseRestart,
} from './requests.js';
import { stoppedEvent } from './stopped.js';

export interface AdapterOptions {
  /** Opens the engine of a library, or the usual one. What it throws is told the user. */
  openEngine(library: string | null): Promise<Engine>;
  /** Told what goes wrong outside of the protocol, a line each. */
  log(line: string): void;
  /** The client has said goodbye. */
  left(): void;
}

/** How far the conversation has come. */
type Stage = 'fresh' | 'initialized' | 'launching' | 'configuring' | 'debugging' | 'over';

export class Adapter extends ProtocolSession implements Desk {
  readonly motion = new Motion();
  readonly #answers = new Map<string, (raw: unknown) => Answer>();
  #stage: Stage = 'fresh';
  #client: Client | null = null;
  #launched: Launched | null = null;
  #book: BreakpointBook | null = null;
  #closed = false;

  constructor(readonly options: AdapterOptions) {
    super();
    this.handle('initialize', (args) => this.#initialize(args));
    this.handle('attach', () => {
      throw new RequestError('kfault has nothing to attach to: use launch', { showUser: true });
    });
    this.handle('launch', (args) => this.#launch(args));
    this.handle('configurationDone', () => this.#configurationDone());
    this.handle('restart', (args) => this.#restart(args));
    this.handle('terminate', () => ({ after: () => this.end() }));
    this.handle('disconnect', () => ({
      after: () => {
        this.close();
        this.options.left();
      },
    }));
    answerMoves(this);
    answerBreakpointRequests(this);
    answerViews(this);
  }

  /** Frees the machine. Nothing is sent any more. Idempotent. */
  close(): void {
    this.#closed = true;
    this.#stage = 'over';
    this.motion.halt();
    this.#launched?.session.close();
    this.#launched = null;
  }

  /** Bytes came that are no message. */
  bad(why: string): void {
    this.options.log(`a message was skipped: ${why}`);
    if (this.#stage === 'fresh' || this.#isOver) return;
    this.#send(new OutputEvent(`kfault: a message was skipped: ${why}\n`, 'stderr'));
  }

  /** Takes a message that the client has sent, whatever it is. */
  receive(message: unknown): void {
    if (this.#closed) return;
    if (typeof message !== 'object' || message === null || !('type' in message)) {
      this.bad('it is no object with a type');
      return;
    }
    // Nothing is asked of the client, so its other messages answer nothing.
    if (message.type !== 'request') {
      if (message.type !== 'response' && message.type !== 'event') this.bad('its type is not known');
      return;
    }
    if (!('seq' in message) || !Number.isSafeInteger(message.seq)) {
      this.bad('it is a request without a number');
      return;
    }
    const command = 'command' in message ? message.command : undefined;
    const args = 'arguments' in message ? message.arguments : undefined;
    this.handleMessage({
      seq: Number(message.seq),
      type: 'request',
      command: typeof command === 'string' ? command : '',
      arguments: args,
    } as DebugProtocol.Request);
  }

  protected override dispatchRequest(request: DebugProtocol.Request): void {
    const response = new Response(request);
    try {
      const answer = this.#answer(request);
      if (answer instanceof Promise) {
        answer.then(
          (reply) => this.#reply(response, reply),
          (error: unknown) => this.#refuse(response, error),
        );
      } else {
        this.#reply(response, answer);
      }
    } catch (error) {
      this.#refuse(response, error);
    }
  }

  #answer({ command, arguments: args }: DebugProtocol.Request): Answer {
    const answer = this.#answers.get(command);
    if (answer === undefined) {
      throw new RequestError(`kfault does not know the request \`${command.slice(0, 60)}\``);
    }
    if (this.#stage === 'fresh' && command !== 'initialize' && command !== 'disconnect') {
      throw new RequestError(`${command}: the first request is initialize`);
    }
    if (this.#stage === 'over' && command !== 'disconnect' && command !== 'terminate') {
      throw new RequestError(`${command}: the session is over`);
    }
    return answer(args);
  }

  #reply(response: DebugProtocol.Response, { body, after }: Reply): void {
    if (this.#closed) return;
    if (body !== undefined) response.body = body;
    this.sendResponse(response);
    after?.();
  }

  #refuse(response: DebugProtocol.Response, error: unknown): void {
    if (this.#closed) return;
    const { message, word, showUser } = this.#explained(error);
    response.success = false;
    response.message = word ?? message;
    // What is in braces would be replaced in a format.
    response.body = { error: { id: 1, format: '{text}', variables: { text: message }, showUser } };
    this.sendResponse(response);
  }

  #explained(error: unknown): { message: string; word?: string | undefined; showUser: boolean } {
    if (error instanceof RequestError) {
      const { word, showUser = false } = error.options;
      return { message: error.message, word, showUser };
    }
    if (error instanceof SessionError || error instanceof CommandError) {
      return { message: error.message, showUser: false };
    }
    const errors = fixtureErrors(error);
    if (errors !== null) return { message: errors.map((each) => each.format()).join('\n'), showUser: true };
    this.options.log(error instanceof Error ? String(error.stack) : String(error));
    return { message: `internal error: ${String(error).split('\n', 1)[0] ?? ''}`, showUser: true };
  }

  #send(event: DebugProtocol.Event): void {
    if (!this.#closed) this.sendEvent(event);
  }

  // The desk.

  handle<C extends Command>(command: C, answer: (args: Arguments<C>) => Answer): void {
    this.#answers.set(command, (raw) => answer(parseArguments(command, raw)));
  }

  get client(): Client {
    if (this.#client === null) throw new RequestError('the first request is initialize');
    return this.#client;
  }

  get launched(): Launched {
    if (this.#launched === null) throw new RequestError('no fixture has been launched');
    return this.#launched;
  }

  get still(): Launched {
    const { launched } = this;
    if (this.motion.running) throw notStopped();
    return launched;
  }

  get book(): BreakpointBook {
    if (this.#book === null) throw new RequestError('no fixture has been launched');
    return this.#book;
  }

  move(
    body: object | undefined,
    go: (session: DebugSession) => Promise<Stop>,
    { direction, resumes = false }: MoveOptions,
  ): Reply {
    const { session } = this.still;
    if (this.#stage !== 'debugging') {
      throw new RequestError('the machine does not move before configurationDone');
    }
    // Whoever has seen the end and goes on is done.
    if (direction === 'forward' && session.position.place === 'end') {
      return { body, after: () => this.end() };
    }
    return { body, after: () => this.#go(go, resumes) };
  }

  changed(memory: MemoryChange | null): void {
    const { client, launched } = this;
    launched.frames.refresh();
    if (client.supportsInvalidatedEvent) this.#send(new InvalidatedEvent(['stacks', 'variables']));
    if (memory !== null && client.supportsMemoryEvent) {
      this.#send(new MemoryEvent(memory.reference, 0, memory.count));
    }
  }

  moved(): void {
    const { launched } = this;
    launched.forget();
    this.#send(new ContinuedEvent(threadOf(launched.session.cpu), true));
    // The command has told what was printed.
    launched.output.news();
    this.#stopped(launched, launched.session.stop);
  }

  end(): void {
    if (this.#stage === 'over') return;
    this.#stage = 'over';
    this.motion.halt();
    const result = this.#launched?.session.result ?? null;
    if (result !== null) this.#send(new ExitedEvent(result.status === 'passed' ? 0 : 1));
    this.#send(new TerminatedEvent());
  }

  // The conversation.

  #initialize(args: Arguments<'initialize'>): Reply {
    if (this.#stage !== 'fresh') throw new RequestError('initialize was sent before');
    this.#client = new Client(args);
    this.#stage = 'initialized';
    return { body: capabilities() };
  }

  async #launch(args: LaunchArguments): Promise<Reply> {
    if (this.#stage !== 'initialized') throw new RequestError('a fixture was launched before');
    this.#stage = 'launching';
    try {
      const launched = await launch(args, this.client, (library) => this.options.openEngine(library));
      if (this.#isOver) {
        launched.session.close();
        throw new RequestError('the session is over', { word: 'cancelled' });
      }
      this.#launched = launched;
      this.#book = new BreakpointBook(launched.session);
      this.#stage = 'configuring';
      return { after: () => this.#send(new InitializedEvent()) };
    } catch (error) {
      // Another attempt is welcome.
      if (!this.#isOver) this.#stage = 'initialized';
      throw error;
    }
  }

  get #isOver(): boolean {
    return this.#stage === 'over';
  }

  #configurationDone(): Reply {
    if (this.#stage !== 'configuring') {
      throw new RequestError(
        this.#stage === 'debugging' ? 'configurationDone was sent before' : 'no fixture has been launched',
      );
    }
    this.#stage = 'debugging';
    return { after: () => this.#start() };
  }

  /** From the start of the run to where the user wants to be first. */
  #start(): void {
    const { launched } = this;
    const { args, session } = launched;
    if (args.noDebug) {
      this.#go(() => session.toEnd(), false);
    } else if (args.stopAt !== undefined) {
      session.addBreakpoint(session.breakpointAt(args.stopAt), { temporary: true });
      this.#go(() => session.continue(), true);
    } else if (args.stopOnEntry) {
      this.#stopped(launched, session.stop);
    } else {
      this.#go(() => session.continue(), true);
    }
  }

  async #restart(given: Arguments<'restart'>): Promise<Reply> {
    const old = this.launched;
    if (this.#stage !== 'debugging') throw new RequestError('the run has not begun yet');
    const args = parseRestart(given) ?? old.args;
    await this.motion.halted();
    const launched = await launch(args, this.client, (library) => this.options.openEngine(library));
    if (this.#isOver || this.#launched !== old || this.motion.running) {
      launched.session.close();
      throw new RequestError('something else was begun before the restart was done', { word: 'cancelled' });
    }
    old.session.close();
    this.#launched = launched;
    const changed = this.book.rebind(launched.session);
    return {
      after: () => {
        for (const breakpoint of changed) this.#send(new BreakpointEvent('changed', breakpoint));
        this.#start();
      },
    };
  }

  /** Moves, and tells where that has ended. */
  #go(go: (session: DebugSession) => Promise<Stop>, resumes: boolean): void {
    const { launched } = this;
    const { session } = launched;
    launched.forget();
    this.motion
      .run(session, () => go(session), resumes ? () => session.continue() : null)
      .catch((error: unknown): Stop => {
        const { message } = this.#explained(error);
        if (!this.#isOver) this.#send(new OutputEvent(`kfault: ${message}\n`, 'stderr'));
        return session.stop;
      })
      .then((stop) => this.#stopped(launched, stop));
  }

  #stopped(launched: Launched, stop: Stop): void {
    if (this.#isOver || this.#launched !== launched) return;
    for (const event of launched.output.news()) this.#send(event);
    if (stop.reason.kind === 'end') {
      const result = resultOutput(launched.session);
      if (result !== null) this.#send(result);
      // Nobody wants to look at it.
      if (launched.args.noDebug) {
        this.end();
        return;
      }
    }
    this.#send(stoppedEvent(stop, this.book));
  }
}
