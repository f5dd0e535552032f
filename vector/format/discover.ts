/** Finding fixtures: files as they are named, and all *.yaml files below folders. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { FixtureError } from './fixture-error.js';
import { readFailure } from './source.js';

const FIXTURE_FILE = /\.ya?ml$/;

export interface Discovered {
  /** In the order of the paths given, sorted within each folder, none twice. */
  readonly files: readonly string[];
  /** One for each path that is no fixture and holds none. */
  readonly errors: readonly FixtureError[];
}

export function discoverFixtures(paths: readonly string[]): Discovered {
  const files = new Set<string>();
  const errors: FixtureError[] = [];
  for (const path of paths) {
    try {
      if (!statSync(path).isDirectory()) {
        files.add(path);
        continue;
      }
      const found = below(path, errors);
      for (const file of found) files.add(file);
      if (found.length === 0) {
        errors.push(
          new FixtureError(path, null, 'no fixtures in this folder', 'Fixtures are files named *.yaml.'),
        );
      }
    } catch (error) {
      errors.push(new FixtureError(path, null, readFailure(error)));
    }
  }
  return { files: [...files], errors };
}

function below(folder: string, errors: FixtureError[]): string[] {
  // Not the locale's order: the same list on every computer.
  const entries = readdirSync(folder, { withFileTypes: true }).sort((a, b) =>
    a.name < b.name ? -1 : a.name > b.name ? 1 : 0,
  );
  const files: string[] = [];
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (entry.name === 'node_modules' || entry.name.startsWith('.')) continue;
      try {
        files.push(...below(path, errors));
      } catch (error) {
        errors.push(new FixtureError(path, null, readFailure(error)));
      }
    } else if (FIXTURE_FILE.test(entry.name)) files.push(path);
  }
  return files;
}
