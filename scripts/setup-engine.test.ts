import {
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { mkdir, symlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { ENGINE_VERSION, libraryFileName } from '../emu/unicorn/library.js';
import { ENGINE_PINS } from './engine-pin.js';
import { SAMPLE_LIBRARY } from './sample-wheel.js';
import { ensureEngine, setupEngine } from './setup-engine.js';
import { SAMPLE_PIN, Testbed } from './testbed.js';

let bed: Testbed;
beforeEach(() => {
  bed = new Testbed();
});
afterEach(() => {
  bed.remove();
});

const downloadCount = (): number =>
  existsSync(bed.downloads) ? readFileSync(bed.downloads, 'utf8').trimEnd().split('\n').length : 0;

/** A process id that was in use and is not any more is hard to come by; this one is never given out. */
const DEAD_PID = 2 ** 22 + 1;

describe('setupEngine', () => {
  test('installs the library and what the wheel says of itself, and nothing else', async () => {
    const result = await setupEngine(bed.options());
    const { enginePath: library } = bed;
    expect(result).toEqual({ library, source: 'installed' });
    expect(readFileSync(library, 'utf8')).toBe(SAMPLE_LIBRARY);
    expect(readdirSync(bed.folder).sort()).toEqual([
      'COPYING',
      'METADATA',
      'installed.json',
      'libunicorn.so.2',
      'unicorn.whl',
    ]);
    expect(bed.engineNames()).toEqual(['unicorn-2.1.4']);
  });

  test('asks pip for the pinned wheel of the platform only, as a wheel, with its hash, and for no index', async () => {
    const options = bed.options({ download: `cat requirements.txt >> '${bed.downloads}'; exit 1` });
    await expect(setupEngine(options)).rejects.toThrow();
    const [command, requirements] = readFileSync(bed.downloads, 'utf8').trimEnd().split('\n');
    for (const part of [
      '--only-binary=:all:',
      '--no-deps',
      '--require-hashes',
      '--platform sample_platform',
    ]) {
      expect(command).toContain(part);
    }
    expect(command).not.toContain('index-url');
    expect(requirements).toBe(`unicorn==2.1.4 --hash=sha256:${SAMPLE_PIN.wheelSha256}`);
  });

  test('does nothing the second time, and says so', async () => {
    const options = bed.options();
    await setupEngine(options);
    bed.lines.length = 0;
    const { enginePath: library } = bed;
    expect(await setupEngine(options)).toEqual({ library, source: 'present' });
    expect(downloadCount()).toBe(1);
    expect(bed.lines).toEqual([`Unicorn 2.1.4 is there: ${bed.enginePath}`]);
  });

  test.each<[string, () => void]>([
    ['one byte is changed', () => writeFileSync(bed.enginePath, SAMPLE_LIBRARY.replace('really', 'reallY'))],
    ['the library is cut off', () => writeFileSync(bed.enginePath, SAMPLE_LIBRARY.slice(0, 100))],
    ['the stamp is gone', () => renameSync(join(bed.folder, 'installed.json'), join(bed.root, 'gone'))],
    [
      'it is of another platform',
      () => {
        const stamp = join(bed.folder, 'installed.json');
        writeFileSync(stamp, readFileSync(stamp, 'utf8').replace('"sample"', '"other"'));
      },
    ],
  ])('replaces what is installed when %s', async (_, damage) => {
    const options = bed.options();
    await setupEngine(options);
    damage();
    expect((await setupEngine(options)).source).toBe('installed');
    expect(readFileSync(bed.enginePath, 'utf8')).toBe(SAMPLE_LIBRARY);
    expect((await setupEngine(options)).source).toBe('present');
    expect(bed.engineNames()).toEqual(['unicorn-2.1.4']);
  });

  test('a set-up killed before its last step leaves nothing that is taken for an engine', async () => {
    // The check runs when all is unpacked and nothing is moved yet: keep what a kill would leave then.
    const snapshot = join(bed.root, 'snapshot');
    await setupEngine(
      bed.options({
        check: `cp -r '${bed.engineDir}' '${snapshot}'; echo '{"usable":true,"version":"2.1.4"}'`,
      }),
    );
    const other = new Testbed();
    try {
      cpSync(snapshot, other.engineDir, { recursive: true });
      const [left] = other.engineNames();
      expect(left).toMatch(new RegExp(`-${process.pid}-`));
      expect(readdirSync(join(other.engineDir, left ?? '', 'stage'))).toContain('libunicorn.so.2');
      renameSync(
        join(other.engineDir, left ?? ''),
        join(other.engineDir, (left ?? '').replace(`-${process.pid}-`, `-${DEAD_PID}-`)),
      );
      expect((await ensureEngine(other.options())).source).toBe('installed');
      expect(other.engineNames()).toEqual(['unicorn-2.1.4']);
    } finally {
      other.remove();
    }
  });

  test('removes what dead set-ups left, and leaves the living alone', async () => {
    const here = hostname().replace(/[^A-Za-z0-9.]/g, '_');
    const names = {
      dead: `.setup-${here}-${DEAD_PID}-aaaaaa`,
      alive: `.setup-${here}-${process.pid}-bbbbbb`,
      elsewhere: `.setup-not${here}-${DEAD_PID}-cccccc`,
      oldElsewhere: `.setup-not${here}-${DEAD_PID}-dddddd`,
    };
    for (const name of Object.values(names)) {
      await mkdir(join(bed.engineDir, name, 'download'), { recursive: true });
    }
    utimesSync(join(bed.engineDir, names.oldElsewhere), 1e9, 1e9);
    await setupEngine(bed.options());
    expect(bed.engineNames()).toEqual([names.alive, names.elsewhere, 'unicorn-2.1.4'].sort());
  });

  test('several at once all end with a whole library', async () => {
    const results = await Promise.all([1, 2, 3, 4].map(() => setupEngine(bed.options())));
    const { enginePath: library } = bed;
    expect(new Set(results.map(({ library: path }) => path))).toEqual(new Set([library]));
    expect(readFileSync(bed.enginePath, 'utf8')).toBe(SAMPLE_LIBRARY);
    expect(bed.engineNames()).toEqual(['unicorn-2.1.4']);
  });

  test('several at once repair a damaged library, which is never away meanwhile', async () => {
    await setupEngine(bed.options());
    writeFileSync(bed.enginePath, 'damaged');
    const running = Promise.all([1, 2, 3].map(() => setupEngine(bed.options())));
    let done = false;
    const seen = new Set<boolean>();
    const watch = (async () => {
      while (!done) {
        seen.add(existsSync(bed.enginePath));
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    await running.finally(() => {
      done = true;
    });
    await watch;
    expect(seen).toEqual(new Set([true]));
    expect(readFileSync(bed.enginePath, 'utf8')).toBe(SAMPLE_LIBRARY);
  });
});

describe('ensureEngine', () => {
  test('installs what is missing, and afterwards starts no other program', async () => {
    expect((await ensureEngine(bed.options())).source).toBe('installed');
    const options = bed.options({ check: 'exit 1', download: 'exit 1' });
    const { enginePath: library } = bed;
    expect(await ensureEngine(options)).toEqual({ library, source: 'present' });
    expect(downloadCount()).toBe(1);
  });

  test('takes a library given by KFAULT_UNICORN, also through a symbolic link', async () => {
    const own = join(bed.root, 'own.so');
    const link = join(bed.root, 'link.so');
    writeFileSync(own, 'own');
    await symlink(own, link);
    const options = { ...bed.options(), env: { KFAULT_UNICORN: link } };
    expect(await ensureEngine(options)).toEqual({ library: link, source: 'override' });
    expect(existsSync(bed.engineDir)).toBe(false);
  });
});

describe('the pins', () => {
  test('cover Linux and macOS on both processors, with sound hashes that all differ', () => {
    expect(Object.keys(ENGINE_PINS)).toEqual(
      expect.arrayContaining(['linux-x64', 'linux-arm64', 'darwin-arm64', 'darwin-x64']),
    );
    const hashes = Object.values(ENGINE_PINS).flatMap((pin) => [pin.wheelSha256, pin.librarySha256]);
    for (const hash of hashes) expect(hash).toMatch(/^[0-9a-f]{64}$/);
    expect(new Set(hashes).size).toBe(hashes.length);
  });

  test('are of the version and the file name that the engine looks for', () => {
    for (const [platform, pin] of Object.entries(ENGINE_PINS)) {
      expect(pin.wheel.startsWith(`unicorn-${ENGINE_VERSION}-`)).toBe(true);
      expect(basename(pin.member)).toBe(libraryFileName(platform.split('-')[0] ?? ''));
    }
  });
});
