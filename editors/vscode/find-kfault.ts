/** Finds the command that serves a fixture to the editor. Knows nothing of the editor. */
import { accessSync, constants, existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';

/** Where kfault is looked for. */
export interface Surroundings {
  /** The setting kfault.path; empty: not set. */
  readonly setting: string;
  /** Folders of the workspace, that of the session first. */
  readonly folders: readonly string[];
  /** The environment variable PATH. */
  readonly path: string;
}

export interface Command {
  /** An absolute path. */
  readonly command: string;
  readonly args: readonly string[];
}

/** kfault cannot be started. The message is for people and says what would help. */
export class KfaultNotFound extends Error {
  override readonly name = 'KfaultNotFound';
}

/**
 * The command that speaks the Debug Adapter Protocol on its standard input and output.
 * Throws KfaultNotFound when there is none, or when the one that is named cannot be started.
 */
export function findKfault(where: Surroundings): Command {
  const { setting, folders, path } = where;
  if (setting.trim() !== '') return fromSetting(setting.trim(), folders[0], path);
  for (const folder of folders) {
    const installed = join(folder, 'node_modules', '.bin', 'kfault');
    if (existsSync(installed)) return start(installed, path);
    if (isKfaultItself(folder)) return start(join(folder, SCRIPT), path);
  }
  const inPath = findInPath('kfault', path);
  if (inPath !== null) return start(inPath, path);
  throw new KfaultNotFound(
    [
      'kfault was not found.',
      ...folders.map((folder) => `${folder} has no node_modules/.bin/kfault and is not kfault's own folder.`),
      'PATH has no kfault. Set kfault.path to the command, or to the folder of kfault.',
    ].join(' '),
  );
}

/** The command line, from kfault's folder. */
const SCRIPT = join('cli', 'kfault.mjs');
/** What `npm run build` makes of the commands that stop in paths. */
const BUILT = join('dist', 'bundle-paths', 'main.js');

function fromSetting(setting: string, folder: string | undefined, path: string): Command {
  const file = resolve(folder ?? homedir(), setting.replace(/^~(?=\/|$)/, homedir()));
  if (!existsSync(file)) throw new KfaultNotFound(`kfault.path: there is no ${file}.`);
  if (!statSync(file).isDirectory()) return start(file, path);
  if (isKfaultItself(file)) return start(join(file, SCRIPT), path);
  throw new KfaultNotFound(
    `kfault.path: ${file} is a folder, and not kfault's own: that has a cli/kfault.mjs. Name the command, or the folder of kfault.`,
  );
}

function isKfaultItself(folder: string): boolean {
  return existsSync(join(folder, SCRIPT)) && packageName(folder) === 'kfault';
}

function packageName(folder: string): unknown {
  try {
    return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).name;
  } catch {
    // Whatever is the matter with it, it is not kfault's.
    return undefined;
  }
}

function start(file: string, path: string): Command {
  const real = realpathSync(file);
  if (!/\.[cm]?js$/.test(real)) {
    if (!isExecutable(real)) throw new KfaultNotFound(`${file} cannot be executed.`);
    return { command: file, args: ['dap'] };
  }
  const folder = dirname(dirname(real));
  if (real === join(folder, SCRIPT) && !existsSync(join(folder, BUILT))) {
    throw new KfaultNotFound(`kfault in ${folder} is not built: run \`npm ci && npm run build\` there.`);
  }
  // With its whole path: of the mere word `node` VS Code makes its own Node.js, which cannot load the engine.
  const node = findInPath('node', path);
  if (node === null) {
    throw new KfaultNotFound(
      `${file} needs Node.js 20.11 or newer, and PATH has no node. Install it, or start the editor from a shell that has it.`,
    );
  }
  return { command: node, args: [real, 'dap'] };
}

function findInPath(name: string, path: string): string | null {
  for (const folder of path.split(delimiter)) {
    // An empty or relative entry means the folder that the editor happens to run in.
    if (!folder.startsWith('/')) continue;
    const file = join(folder, name);
    if (isExecutable(file)) return file;
  }
  return null;
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}
