/**
 * Fetches the engine once before the tests, so that `npm ci && npm test` is all a clean clone needs.
 * Plain JavaScript over the compiled set-up: jest loads this file without transforming it.
 */
import { existsSync } from 'node:fs';

export default async function fetchEngine() {
  const compiled = new URL('../dist/scripts/setup-engine.js', import.meta.url);
  // Jest was started by itself, without a build. Tests that need the engine say so if it is missing.
  if (!existsSync(compiled)) return;
  const { ensureEngine } = await import(compiled.href);
  await ensureEngine({ log: (line) => process.stderr.write(`${line}\n`) });
}
