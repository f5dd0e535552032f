/** A fixture that was launched, with all that the client may ask about it. */
import { resolve } from 'node:path';
import type { Engine } from '../../emu/cpu.js';
import { loadFixture } from '../../vector/format/load.js';
import { type DebugSession, openSession } from '../session.js';
import type { Client } from './client.js';
import { Console } from './evaluation.js';
import { FixtureLines } from './fixture-lines.js';
import { type FrameSurroundings, Frames } from './frames.js';
import { Output } from './output.js';
import { VirtualSources } from './path-source.js';
import { RequestError } from './request-error.js';
import type { LaunchArguments } from './requests.js';
import { Variables } from './variables.js';

export class Launched implements FrameSurroundings {
  readonly lines: FixtureLines;
  readonly sources = new VirtualSources();
  readonly variables = new Variables();
  readonly frames: Frames;
  readonly console: Console;
  readonly output: Output;

  /** @param file absolute */
  constructor(
    readonly session: DebugSession,
    readonly file: string,
    readonly args: LaunchArguments,
    readonly client: Client,
  ) {
    this.lines = new FixtureLines(session);
    this.frames = new Frames(this);
    this.console = new Console(session);
    this.output = new Output(session);
  }

  /** The machine moves: numbers of frames and variables mean nothing any more. */
  forget(): void {
    this.frames.forget();
    this.variables.forget();
  }
}

/** Loads a fixture and builds its machine. Throws a RequestError, or the fixture's errors. */
export async function launch(
  args: LaunchArguments,
  client: Client,
  openEngine: (library: string | null) => Promise<Engine>,
): Promise<Launched> {
  const file = resolve(client.fromPath(args.fixture));
  const loaded = loadFixture(file);
  if (!loaded.ok) {
    throw new RequestError(loaded.errors.map((error) => error.format()).join('\n'), { showUser: true });
  }
  const engine = await openEngine(args.engine ?? null).catch((error: unknown) => {
    throw new RequestError(error instanceof Error ? error.message : String(error), { showUser: true });
  });
  const session = await openSession(loaded.fixture, engine);
  try {
    if (args.stopAt !== undefined) session.breakpointAt(args.stopAt);
    return new Launched(session, file, args, client);
  } catch (error) {
    session.close();
    const message = error instanceof Error ? error.message : String(error);
    throw new RequestError(`stopAt: ${message}`, { showUser: true });
  }
}
