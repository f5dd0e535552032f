/** The engine, set up first if it is missing. */
import type { Engine } from '../emu/cpu.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { ensureEngine } from '../scripts/setup-engine.js';
import type { Io } from './io.js';

/** Opens the engine. Throws a SetupError or a LibraryError, whose messages say what to do. */
export async function openEngine(io: Io): Promise<Engine> {
  const { library } = await ensureEngine({ log: (line) => io.err(`${line}\n`) });
  return new NativeEngine(library, { reuse: true });
}
