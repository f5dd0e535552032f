/** Why the engine could not be set up, with what to do about it. */

/**
 * - `no-python`, `no-pip`: what fetches the wheel is not there
 * - `no-network`: the registry could not be reached, or took too long
 * - `not-in-registry`: it was reached and does not offer the wheel
 * - `pip-failed`: pip failed in another way; its last lines are in the message
 * - `no-wheel`: no library is pinned for this platform
 * - `wrong-hash`: what came is not what is pinned
 * - `bad-wheel`: the wheel's hash is right but the library is not in it: the pin itself is wrong
 * - `override-missing`: KFAULT_UNICORN names a file that is not there
 * - `unloadable`, `too-old`, `calibration`: the library is there but cannot be used
 * - `not-built`: kfault itself is not built, so the library cannot be tried
 * - `not-writable`, `disk-full`, `io`: the engine's folder cannot be written
 */
export type SetupReason =
  | 'no-python'
  | 'no-pip'
  | 'no-network'
  | 'not-in-registry'
  | 'pip-failed'
  | 'no-wheel'
  | 'wrong-hash'
  | 'bad-wheel'
  | 'override-missing'
  | 'unloadable'
  | 'too-old'
  | 'calibration'
  | 'not-built'
  | 'not-writable'
  | 'disk-full'
  | 'io';

/**
 * Set-up failed for a reason the user can act on. `message` is complete and ready to print: the first
 * line says what is wrong, indented lines quote other programs, the last lines say what to do.
 */
export class SetupError extends Error {
  override name = 'SetupError';
  readonly reason: SetupReason;

  /**
   * @param what one sentence
   * @param todo what to do, one line each
   * @param quoted last lines of the program that failed, shown indented
   */
  constructor(reason: SetupReason, what: string, todo: readonly string[], quoted: readonly string[] = []) {
    super([what, ...quoted.map((line) => `    ${line}`), ...todo].join('\n'));
    this.reason = reason;
  }
}

/** The way out that works on every platform. */
export const USE_OWN_LIBRARY =
  'Or set KFAULT_UNICORN=/path/to/libunicorn to use a Unicorn library of your own, version 2.1.0 or newer.';

/** The code of a system error (`ENOENT`, …). Not by class: node's errors may be of another realm than ours. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/**
 * Turns a failed file operation into a SetupError; anything else is returned as it is.
 * @param doing what was tried, e.g. `create`
 */
export function folderError(error: unknown, doing: string, path: string): unknown {
  const code = errorCode(error);
  if (code === undefined) return error;
  switch (code) {
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new SetupError(
        'not-writable',
        `Cannot ${doing} ${path}: no permission to write there (${code}).`,
        ['Run set-up once as a user who may write there, or make the folder writable.', USE_OWN_LIBRARY],
      );
    case 'ENOSPC':
    case 'EDQUOT':
      return new SetupError('disk-full', `Cannot ${doing} ${path}: the disk is full (${code}).`, [
        'Set-up needs about 80 MB while it works and 25 MB afterwards.',
      ]);
    default:
      return new SetupError('io', `Cannot ${doing} ${path}: ${messageOf(error)}.`, [
        'Remove that path by hand if it is not what it should be, then run set-up again.',
      ]);
  }
}

export function messageOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'message' in error
    ? String(error.message)
    : String(error);
}
