/**
 * Set-up of the engine: gets the pinned Unicorn library of this platform out of its Python wheel into
 * `<package root>/.engine/unicorn-<version>/`, or checks the one that KFAULT_UNICORN names. Prints nothing.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ENGINE_FOLDER, ENGINE_VERSION, LIBRARY_VARIABLE } from '../emu/unicorn/library.js';
import { checkLibrary } from './check-library.js';
import { ENGINE_PINS, type EnginePin } from './engine-pin.js';
import {
  install,
  isInstalled,
  makeWorkDir,
  STAMP_NAME,
  type Stamp,
  sha256,
  stampText,
  sweep,
  WHEEL_NAME,
  writeDurably,
} from './installed.js';
import { downloadWheel, findPython, WRONG_HASH_TODO } from './python.js';
import { folderError, SetupError, USE_OWN_LIBRARY } from './setup-error.js';
import { readWheel, WheelError } from './wheel.js';

export interface SetupOptions {
  /** Called with one line of progress at a time. */
  readonly log?: (line: string) => void;
  /** Environment: PATH, PYTHON, KFAULT_UNICORN and all that pip reads. Default: this process's. */
  readonly env?: NodeJS.ProcessEnv;
  /** Folder that gets `.engine`. Default: the package's root. */
  readonly root?: string;
  /** Key in `pins`. Default: that of this process. */
  readonly platform?: string;
  readonly pins?: Readonly<Record<string, EnginePin>>;
  /** Program and arguments that try a library; its path is appended. */
  readonly checkCommand?: readonly [string, ...string[]];
  /** Limit for the download, in milliseconds. Default: ten minutes. */
  readonly timeoutMs?: number;
}

export interface SetupResult {
  /** Absolute path of the library to open. */
  readonly library: string;
  /** `installed` by this call, `present` before it, or the user's own by `override`. */
  readonly source: 'installed' | 'present' | 'override';
}

const DOWNLOAD_TIMEOUT = 10 * 60 * 1000;

/**
 * Makes sure that the library is there, whole, and usable; the library is tried in a child process.
 * Safe to interrupt and to run several times at once.
 * @throws SetupError
 */
export async function setupEngine(options: SetupOptions = {}): Promise<SetupResult> {
  const setup = withDefaults(options);
  const { log, env } = setup;
  const override = overridePath(env);
  if (override !== undefined) {
    const version = await checkLibrary(setup.checkCommand, override, OVERRIDE_TODO, env);
    log(`KFAULT_UNICORN: Unicorn ${version}, ${override}`);
    return { library: override, source: 'override' };
  }
  const target = targetOf(setup);
  const { stamp, folder, library } = target;
  await sweep(dirname(folder));
  if (await isInstalled(folder, stamp, 'hash')) {
    await checkLibrary(setup.checkCommand, library, [USE_OWN_LIBRARY], env);
    log(`Unicorn ${stamp.version} is there: ${library}`);
    return { library, source: 'present' };
  }
  if (existsSync(folder)) log(`Replacing ${folder}: it is damaged, or for another platform`);
  try {
    await fetchAndInstall(setup, target);
  } catch (error) {
    throw folderError(error, 'write the engine into', folder);
  }
  log(`Unicorn ${stamp.version} is installed: ${library}`);
  return { library, source: 'installed' };
}

/**
 * For every command that needs the engine: returns at once when the library is there (going by its
 * size; opening it tells the rest), and sets it up otherwise. A library given by KFAULT_UNICORN only
 * has to exist.
 * @throws SetupError
 */
export async function ensureEngine(options: SetupOptions = {}): Promise<SetupResult> {
  const setup = withDefaults(options);
  const override = overridePath(setup.env);
  if (override !== undefined) return { library: override, source: 'override' };
  const { stamp, folder, library } = targetOf(setup);
  if (await isInstalled(folder, stamp, 'size')) return { library, source: 'present' };
  return setupEngine(options);
}

/** Key in ENGINE_PINS of the platform this process runs on, whether or not there is one. */
export function hostPlatform(): string {
  return `${process.platform}-${process.arch}${isMusl() ? '-musl' : ''}`;
}

/** Whether this process itself runs on musl: its dynamic loader is mapped into it. */
function isMusl(): boolean {
  if (process.platform !== 'linux') return false;
  try {
    return /\/ld-musl-[^/]*\.so/.test(readFileSync('/proc/self/maps', 'latin1'));
  } catch {
    return false;
  }
}

type Setup = Required<SetupOptions>;

function withDefaults(options: SetupOptions): Setup {
  const packageDir = packageRoot();
  return {
    log: () => undefined,
    env: process.env,
    root: packageDir,
    platform: hostPlatform(),
    pins: ENGINE_PINS,
    // Always the compiled one, also where this file runs from source.
    checkCommand: [process.execPath, join(packageDir, 'dist', 'scripts', 'check-library-child.js')],
    timeoutMs: DOWNLOAD_TIMEOUT,
    ...options,
  };
}

/** The package's folder. This file runs from `scripts/`, `dist/scripts/` and `dist/straight/scripts/`. */
export function packageRoot(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  for (let folder = here; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
    if (dirname(folder) === folder) throw new Error(`there is no package.json above ${here}`);
  }
}

const OVERRIDE_TODO: readonly string[] = [
  'It comes from KFAULT_UNICORN. Unset that to let set-up fetch the right library,',
  'or let it name a Unicorn library of version 2.1.0 or newer, built for this platform.',
];

/** @throws SetupError `override-missing` */
function overridePath(env: NodeJS.ProcessEnv): string | undefined {
  const given = env[LIBRARY_VARIABLE];
  if (given === undefined || given === '') return undefined;
  const path = resolve(given);
  if (!isFile(path)) {
    throw new SetupError('override-missing', `KFAULT_UNICORN names ${path}, which is not a file.`, [
      'Let it name libunicorn.so.2 (Linux) or libunicorn.2.dylib (macOS) itself,',
      'or unset it to let set-up fetch the library.',
    ]);
  }
  return path;
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Where the library of a platform goes and what it must be. */
interface Target {
  readonly pin: EnginePin;
  readonly stamp: Stamp;
  readonly folder: string;
  readonly library: string;
}

/** @throws SetupError `no-wheel` */
function targetOf({ platform, pins, root }: Setup): Target {
  const pin = pins[platform];
  if (pin === undefined) {
    throw new SetupError(
      'no-wheel',
      `No Unicorn library is pinned for this platform, ${platform}. There are: ${Object.keys(pins).join(', ')}.`,
      ['Build Unicorn 2.1.0 or newer from its sources and set KFAULT_UNICORN=/path/to/libunicorn.'],
    );
  }
  const stamp: Stamp = {
    version: ENGINE_VERSION,
    platform,
    wheel: pin.wheel,
    library: basename(pin.member),
    size: pin.librarySize,
    sha256: pin.librarySha256,
    kept: WHEEL_NAME,
  };
  const folder = join(root, ENGINE_FOLDER);
  return { pin, stamp, folder, library: join(folder, stamp.library) };
}

async function fetchAndInstall(setup: Setup, { pin, stamp, folder }: Target): Promise<void> {
  const { env, log, timeoutMs } = setup;
  const engineDir = dirname(folder);
  await mkdir(engineDir, { recursive: true });
  const workDir = await makeWorkDir(engineDir);
  try {
    const pip = { workDir, env, timeoutMs };
    const python = await findPython(pip);
    const megabytes = Math.round(pin.wheelSize / 1e6);
    log(`Fetching Unicorn ${stamp.version} for ${stamp.platform} (${megabytes} MB) with ${python} -m pip`);
    const wheel = await readFile(await downloadWheel(python, stamp.version, pin, pip));
    const stage = join(workDir, 'stage');
    await mkdir(stage);
    await unpack(wheel, pin, stamp, stage);
    await checkLibrary(setup.checkCommand, join(stage, stamp.library), [USE_OWN_LIBRARY], env);
    await install(stage, folder, stamp);
  } finally {
    await rm(workDir, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** What is kept besides the library: what the wheel says of its origin and licence. */
const KEPT = /^[^/]+\.dist-info\/(?:.*\/)?(METADATA|(?:LICEN[CS]E|COPYING)[^/]*)$/;

/** Hashes are checked here too: pip's check alone would rest on its configuration. */
async function unpack(wheel: Buffer, pin: EnginePin, stamp: Stamp, stage: string): Promise<void> {
  expectHash('wheel', wheel, pin.wheelSha256);
  let library: Buffer | undefined;
  try {
    for (const member of readWheel(wheel)) {
      const kept = KEPT.exec(member.path)?.[1];
      if (member.path === pin.member) library = member.bytes();
      else if (kept !== undefined) await writeDurably(join(stage, kept), member.bytes());
    }
  } catch (error) {
    if (!(error instanceof WheelError)) throw error;
    throw badWheel(`The pinned wheel cannot be unpacked: ${error.message}.`);
  }
  if (library === undefined) throw badWheel(`The pinned wheel has no ${pin.member}.`);
  expectHash('library', library, pin.librarySha256);
  await writeDurably(join(stage, stamp.library), library);
  await writeDurably(join(stage, WHEEL_NAME), wheel);
  await writeDurably(join(stage, STAMP_NAME), stampText(stamp));
}

function expectHash(what: string, bytes: Buffer, expected: string): void {
  const got = sha256(bytes);
  if (got === expected) return;
  throw new SetupError(
    'wrong-hash',
    `The Unicorn ${what} that came is not the pinned one.`,
    WRONG_HASH_TODO,
    [`Expected sha256 ${expected}`, `Got             ${got}`],
  );
}

function badWheel(what: string): SetupError {
  return new SetupError('bad-wheel', what, [
    'This is a mistake in kfault (scripts/engine-pin.ts): please report it.',
    USE_OWN_LIBRARY,
  ]);
}
