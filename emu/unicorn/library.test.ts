import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { LibraryError, libraryFileName, libraryPath, openLibrary } from './library.js';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kfault-library-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function refusal(path: string): LibraryError {
  try {
    openLibrary(path);
  } catch (error) {
    if (error instanceof LibraryError) return error;
    throw error;
  }
  throw new Error('the library was opened');
}

describe('a library', () => {
  test('is the one that KFAULT_UNICORN names, else the installed one', () => {
    expect(libraryPath({ KFAULT_UNICORN: '/somewhere/libunicorn.so.2' })).toBe('/somewhere/libunicorn.so.2');
    const installed = libraryPath({});
    expect(installed.endsWith(join('.engine', 'unicorn-2.1.4', libraryFileName(process.platform)))).toBe(
      true,
    );
    expect(libraryPath({ KFAULT_UNICORN: '' })).toBe(installed);
    expect(libraryFileName('darwin')).toBe('libunicorn.2.dylib');
  });

  test('that is not there is missing, and the message says what to do', () => {
    const error = refusal(join(folder, 'nothing.so'));
    expect(error.reason).toBe('missing');
    expect(error.message).toContain('nothing.so');
    expect(error.message).toContain('npm run setup');
  });

  test('that is not a library, or not this one, cannot be loaded', () => {
    const text = join(folder, 'text.so');
    writeFileSync(text, 'not a library');
    expect(refusal(text).reason).toBe('unloadable');
    expect(refusal(folder).reason).toBe('unloadable');
  });

  test('is opened once and has the layout that was measured', () => {
    const library = openLibrary(libraryPath());
    expect(openLibrary(libraryPath())).toBe(library);
    expect(library.version).toMatch(/^2\.\d+\.\d+$/);
    expect(library.x86.invalidAddr).toBe(library.arm64.invalidAddr);
  });
});
