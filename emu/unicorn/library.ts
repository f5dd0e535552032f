/** Finding, opening and checking the Unicorn library. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Bindings, type LoadedLibrary, load, NativeSlots } from './bindings.js';
import {
  CalibrationError,
  calibrateArm64,
  calibrateX86,
  type EngineLayout,
  type X86Layout,
} from './calibration.js';
import { ENGINE_WINDOW } from './raw-engine.js';

/** The version that set-up installs. */
export const ENGINE_VERSION = '2.1.4';
/** Names a library to be used instead of the installed one. */
export const LIBRARY_VARIABLE = 'KFAULT_UNICORN';
/** The first version with a virtual TLB, as major, minor. */
const OLDEST = [2, 1] as const;

export type LibraryErrorReason = 'missing' | 'unloadable' | 'too-old' | 'calibration';

/** The library cannot be used. The message says why and what to do. */
export class LibraryError extends Error {
  override name = 'LibraryError';

  constructor(
    readonly reason: LibraryErrorReason,
    readonly path: string,
    message: string,
  ) {
    super(message);
  }
}

/** Views of native memory, by what is there. */
export interface Slots {
  /** The library's `uc_tlb_entry`: `{ u64 pa; u32 perms @8 }`. */
  readonly tlbEntry: NativeSlots;
  /** `uc_arm64_cp_reg`: `{ u32 crn, crm, op0, op1, op2; u64 value @24 }`. */
  readonly systemRegister: NativeSlots;
  /** The first ENGINE_WINDOW bytes of an engine's structure. */
  readonly engine: NativeSlots;
}

/** A library that was opened, checked and measured. */
export interface UnicornLibrary {
  readonly path: string;
  /** E.g. `2.1.4`. */
  readonly version: string;
  readonly bindings: Bindings;
  /** Made once for all engines. */
  readonly slots: Slots;
  readonly x86: X86Layout;
  readonly arm64: EngineLayout;
}

/** File name of the library on a platform (`process.platform`). */
export function libraryFileName(platform: string): string {
  return platform === 'darwin' ? 'libunicorn.2.dylib' : 'libunicorn.so.2';
}

/** The folder, below the package root, that set-up installs into. */
export const ENGINE_FOLDER = join('.engine', `unicorn-${ENGINE_VERSION}`);

/** The library to use: the one that KFAULT_UNICORN names, else the one that set-up installs. */
export function libraryPath(env: Readonly<Record<string, string | undefined>> = process.env): string {
  const named = env[LIBRARY_VARIABLE];
  if (named !== undefined && named !== '') return named;
  return join(packageRoot(), ENGINE_FOLDER, libraryFileName(process.platform));
}

/** The nearest folder above this file with a package.json: the same for sources and for compiled files. */
function packageRoot(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  for (let folder = here; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
    if (dirname(folder) === folder) return here;
  }
}

/** Libraries stay loaded for the life of the process, and what was measured of them stays true. */
const opened = new Map<string, UnicornLibrary>();

/**
 * Opens the library at `path`: loads it, refuses versions without a virtual TLB, and finds the offsets
 * that the engine needs. Throws a LibraryError when it cannot be used.
 */
export function openLibrary(path: string): UnicornLibrary {
  const known = opened.get(path);
  if (known !== undefined) return known;
  if (!existsSync(path)) {
    throw new LibraryError(
      'missing',
      path,
      `the Unicorn library is not there: ${path}\nrun "npm run setup" to fetch it, or set ${LIBRARY_VARIABLE}=/path/to/${libraryFileName(process.platform)}`,
    );
  }
  const loaded = unlessUnloadable(path, () => load(path));
  const version = checkVersion(loaded, path);
  const bindings = unlessUnloadable(path, () => loaded.bind());
  const slots = {
    tlbEntry: new NativeSlots(16),
    systemRegister: new NativeSlots(32),
    engine: new NativeSlots(ENGINE_WINDOW),
  };
  const library = { path, version, bindings, slots, ...calibrate(bindings, slots, path, version) };
  opened.set(path, library);
  return library;
}

function unlessUnloadable<T>(path: string, attempt: () => T): T {
  try {
    return attempt();
  } catch (error) {
    throw new LibraryError(
      'unloadable',
      path,
      `${path} cannot be loaded as the Unicorn library: ${messageOf(error)}\nit must be Unicorn ${OLDEST.join('.')} or newer, built for ${process.platform} ${process.arch}; run "npm run setup" to fetch one, or set ${LIBRARY_VARIABLE}`,
    );
  }
}

function checkVersion(loaded: LoadedLibrary, path: string): string {
  const packed = loaded.packedVersion;
  const [major, minor, patch] = [packed >>> 24, (packed >>> 16) & 0xff, (packed >>> 8) & 0xff];
  const version = `${major}.${minor}.${patch}`;
  if (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])) {
    throw new LibraryError(
      'too-old',
      path,
      `${path} is Unicorn ${version}, which has no virtual TLB; ${OLDEST.join('.')}.0 is the oldest that works\nrun "npm run setup" to fetch ${ENGINE_VERSION}, or set ${LIBRARY_VARIABLE} to a newer one`,
    );
  }
  return version;
}

function calibrate(
  bindings: Bindings,
  slots: Slots,
  path: string,
  version: string,
): { readonly x86: X86Layout; readonly arm64: EngineLayout } {
  try {
    return { x86: calibrateX86(bindings, slots.tlbEntry), arm64: calibrateArm64(bindings, slots.tlbEntry) };
  } catch (error) {
    if (!(error instanceof CalibrationError) && !(error instanceof Error && error.name === 'EngineError')) {
      throw error;
    }
    throw new LibraryError(
      'calibration',
      path,
      `${path} (Unicorn ${version}) does not behave as expected: ${messageOf(error)}\nit may be a build without x86 or arm64, or too different a version; run "npm run setup" to fetch ${ENGINE_VERSION}, or set ${LIBRARY_VARIABLE}`,
    );
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
