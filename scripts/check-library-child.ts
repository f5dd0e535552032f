/**
 * Opens one library and says whether it can be used: `node check-library-child.js PATH`. A process of
 * its own, because a damaged library may end the process that opens it. Its last line of standard
 * output is a CheckReport in JSON.
 */
import { LibraryError, openLibrary } from '../emu/unicorn/library.js';
import type { CheckReport } from './check-library.js';

function check(path: string): CheckReport {
  try {
    return { usable: true, version: openLibrary(path).version };
  } catch (error) {
    if (!(error instanceof LibraryError)) throw error;
    return { usable: false, reason: error.reason, message: error.message };
  }
}

process.stdout.write(`${JSON.stringify(check(process.argv[2] ?? ''))}\n`);
