/** `kfault debug`. */
import type { DebugSession } from '../debug/api.js';
import { openSession } from '../debug/session.js';
import { CommandError } from '../debug/terminal/command-error.js';
import { runDebugger, type Script } from '../debug/terminal/loop.js';
import { scriptLines } from '../debug/terminal/shell.js';
import { loadFixture } from '../vector/format/load.js';
import { fixtureErrors } from '../vector/run/run-fixture.js';
import { openEngine } from './engine.js';
import { coloursWanted, type Io, UNUSABLE, UsageError } from './io.js';

/** Commands and files of them, in the order in which they stand on the command line. */
export interface DebugScript {
  readonly kind: 'command' | 'file';
  readonly text: string;
}

export interface DebugOptions {
  readonly scripts: readonly DebugScript[];
  readonly batch?: boolean;
  readonly quiet?: boolean;
}

/** Debugs the run of a fixture; returns the exit status. */
export async function debugCommand(file: string, options: DebugOptions, io: Io): Promise<number> {
  const scripts = options.scripts.map(readScript);
  const loaded = loadFixture(file);
  if (!loaded.ok) {
    io.err(`${loaded.errors.map((error) => error.format()).join('\n')}\n`);
    return UNUSABLE;
  }
  const engine = await openEngine(io);
  let session: DebugSession;
  try {
    session = await openSession(loaded.fixture, engine);
  } catch (error) {
    const errors = fixtureErrors(error);
    if (errors === null) throw error;
    io.err(`${errors.map((each) => each.format()).join('\n')}\n`);
    return UNUSABLE;
  }
  try {
    return await runDebugger(
      session,
      {
        input: process.stdin,
        output: process.stdout,
        out: (text) => io.out(text),
        err: (text) => io.err(text),
        colours: coloursWanted(io),
        history: io.env.KFAULT_HISTORY || null,
      },
      { scripts, batch: options.batch === true, quiet: options.quiet === true },
    );
  } finally {
    session.close();
  }
}

function readScript({ kind, text }: DebugScript): Script {
  if (kind === 'command') return { kind, text };
  try {
    return { kind, file: text, lines: scriptLines(text) };
  } catch (error) {
    if (error instanceof CommandError) throw new UsageError(error.message);
    throw error;
  }
}
