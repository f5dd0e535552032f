/**
 * The engine's folder: is what stands there whole, and how something gets there in one move.
 *
 *   .engine/unicorn-<version>/                     library, wheel, installed.json, what the wheel says of itself
 *   .engine/.setup-<host>-<pid>-<random>/          one running set-up, or what is left of a killed one
 */
import { createHash } from 'node:crypto';
import { mkdtemp, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { errorCode } from './setup-error.js';

/** Contents of installed.json: what was installed. */
export interface Stamp {
  readonly version: string;
  /** Key in ENGINE_PINS. */
  readonly platform: string;
  /** File name of the wheel it came from. */
  readonly wheel: string;
  /** File name of the library. */
  readonly library: string;
  /** Bytes of the library. */
  readonly size: number;
  /** Of the library. */
  readonly sha256: string;
  /** File name under which the wheel itself is kept. */
  readonly kept: string;
}

/** The wheel is kept: the benchmarks take its Python binding out of it, to compare with. */
export const WHEEL_NAME = 'unicorn.whl';

export const STAMP_NAME = 'installed.json';

export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/**
 * Whether `folder` holds exactly what `wanted` says.
 * - `size`: the stamp and the library's size (a stat: for every start)
 * - `hash`: and the library's contents
 */
export async function isInstalled(folder: string, wanted: Stamp, by: 'size' | 'hash'): Promise<boolean> {
  try {
    if ((await readFile(join(folder, STAMP_NAME), 'utf8')) !== stampText(wanted)) return false;
    const { library: name, size, sha256: hash } = wanted;
    const library = join(folder, name);
    if ((await stat(library)).size !== size) return false;
    return by === 'size' || sha256(await readFile(library)) === hash;
  } catch {
    // Whatever is the matter with it, it is not whole; writing it anew says more if that fails too.
    return false;
  }
}

export function stampText(stamp: Stamp): string {
  return `${JSON.stringify(stamp, null, 2)}\n`;
}

/** Writes a new file and waits until it is on the disk. */
export async function writeDurably(path: string, bytes: Buffer | string): Promise<void> {
  const file = await open(path, 'wx', 0o644);
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/**
 * Moves the finished folder `stage` to `folder`, which is on the same file system. Seen from outside,
 * `folder` goes from what it was to whole without a state between. What stands there and is not whole
 * is replaced file by file, the stamp last: several set-ups that do so at once write the same bytes.
 */
export async function install(stage: string, folder: string, stamp: Stamp): Promise<void> {
  await syncFolder(stage);
  try {
    await rename(stage, folder);
  } catch (error) {
    if (!isOccupied(error)) throw error;
    if (await isInstalled(folder, stamp, 'hash')) return;
    const names = (await readdir(stage)).filter((name) => name !== STAMP_NAME);
    for (const name of [...names, STAMP_NAME]) await rename(join(stage, name), join(folder, name));
    await syncFolder(folder);
  }
  await syncFolder(join(folder, '..'));
}

function isOccupied(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOTEMPTY' || code === 'EEXIST';
}

const PREFIX = '.setup-';

/** A fresh folder for this run of set-up. */
export function makeWorkDir(engineDir: string): Promise<string> {
  return mkdtemp(join(engineDir, `${PREFIX}${host()}-${process.pid}-`));
}

/** After this many milliseconds a set-up of another machine, or one whose process id was reused, is dead. */
const DEAD_AFTER = 24 * 60 * 60 * 1000;

/** Removes what killed set-ups left. Never fails: it is not what the user came for. */
export async function sweep(engineDir: string): Promise<void> {
  const names = await readdir(engineDir).catch(() => []);
  for (const name of names) {
    if (!name.startsWith(PREFIX)) continue;
    const path = join(engineDir, name);
    if (await isAbandoned(path, name))
      await rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
}

async function isAbandoned(path: string, name: string): Promise<boolean> {
  const [, where, pid] = /^\.setup-(.*)-(\d+)-[^-]+$/.exec(name) ?? [];
  if (where === host() && pid !== undefined && !isAlive(Number(pid))) return true;
  const status = await stat(path).catch(() => undefined);
  return status !== undefined && Date.now() - status.mtimeMs > DEAD_AFTER;
}

/** Several machines may share the folder, and process ids mean something on one only. */
function host(): string {
  return hostname().replace(/[^A-Za-z0-9.]/g, '_');
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it is there and somebody else's.
    return errorCode(error) !== 'ESRCH';
  }
}
