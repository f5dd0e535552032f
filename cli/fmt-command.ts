/** `kfault fmt`. */
import { writeFileSync } from 'node:fs';
import type { Engine } from '../emu/cpu.js';
import { buildMachine } from '../vector/build/build-machine.js';
import { discoverFixtures } from '../vector/format/discover.js';
import { FixtureError } from '../vector/format/fixture-error.js';
import { formatFixture, withoutDistances } from '../vector/format/format-file.js';
import { type Fixture, loadFixture } from '../vector/format/load.js';
import { fixtureErrors } from '../vector/run/run-fixture.js';
import { openEngine } from './engine.js';
import { FAILED, type Io, PASSED, UNUSABLE } from './io.js';

export interface FmtOptions {
  readonly check?: boolean;
}

/** Writes bytes into the asm blocks of fixtures, or says which would change; returns the exit status. */
export async function fmtCommand(paths: readonly string[], options: FmtOptions, io: Io): Promise<number> {
  const { files, errors } = discoverFixtures(paths);
  for (const error of errors) io.err(`${error.format()}\n`);
  let status = errors.length > 0 ? UNUSABLE : PASSED;
  for (const file of files) {
    const loaded = loadFixture(file);
    if (!loaded.ok) {
      io.err(`${loaded.errors.map((error) => error.format()).join('\n')}\n`);
      status = UNUSABLE;
      continue;
    }
    try {
      const text = await formatted(loaded.fixture, io);
      if (text === loaded.fixture.source.text) continue;
      if (options.check === true) {
        io.out(`${file}: not formatted\n`);
        status = Math.max(status, FAILED);
      } else {
        write(file, text);
        io.out(`${file}: bytes written\n`);
      }
    } catch (error) {
      const found = fixtureErrors(error);
      if (found === null) throw error;
      io.err(`${found.map((each) => each.format()).join('\n')}\n`);
      status = UNUSABLE;
    }
  }
  return status;
}

function write(file: string, text: string): void {
  try {
    writeFileSync(file, text);
  } catch (error) {
    const why = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    throw new FixtureError(file, null, `it cannot be written (${why})`);
  }
}

async function formatted(fixture: Fixture, io: Io): Promise<string> {
  if ((fixture.data.text ?? []).length === 0) return fixture.source.text;
  const engine = await openEngine(io);
  try {
    return await formattedBy(fixture, engine);
  } catch (error) {
    if (fixtureErrors(error) === null) throw error;
    // Distances may be stale. When that is not what is wrong, the first message is the one that helps.
    const text = await formattedBy(withoutDistances(fixture), engine).catch(() => null);
    if (text === null) throw error;
    return text;
  }
}

/** The bytes of calls depend on where everything lies, and that only the machine knows. */
async function formattedBy(fixture: Fixture, engine: Engine): Promise<string> {
  const { machine, images } = await buildMachine(fixture, engine);
  machine.close();
  return formatFixture(fixture, images);
}
