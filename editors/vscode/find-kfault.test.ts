import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { type Command, findKfault, type Surroundings } from './find-kfault.js';

const SCRIPT = fileURLToPath(new URL('../../cli/kfault.mjs', import.meta.url));

let desk: string;
beforeEach(() => {
  desk = realpathSync(mkdtempSync(join(tmpdir(), 'kfault-editor-')));
  symlinkSync(process.execPath, put('bin/node', null));
});
afterEach(() => {
  rmSync(desk, { recursive: true, force: true });
});

/** A file on the desk, or just the place for one. */
function put(name: string, text: string | null, mode = 0o644): string {
  const path = join(desk, name);
  mkdirSync(dirname(path), { recursive: true });
  if (text !== null) {
    writeFileSync(path, text);
    chmodSync(path, mode);
  }
  return path;
}

/** kfault's folder with the real command line, which in the place of the program says how it was started. */
function checkout(name: string, built = true): string {
  put(`${name}/package.json`, '{ "name": "kfault", "type": "module" }');
  if (built) put(`${name}/dist/bundle-paths/main.js`, 'console.log("built", ...process.argv.slice(2));');
  copyFileSync(SCRIPT, put(`${name}/cli/kfault.mjs`, null));
  chmodSync(join(desk, name, 'cli/kfault.mjs'), 0o755);
  return join(desk, name);
}

function find(where: Partial<Surroundings>): Command {
  return findKfault({ setting: '', folders: [], path: join(desk, 'bin'), ...where });
}

function output({ command, args }: Command): string {
  return spawnSync(command, [...args], { encoding: 'utf8' }).stdout.trim();
}

const SHELL = '#!/bin/sh\necho shell "$@"\n';

describe('the command that is started', () => {
  test("is the one in the workspace's packages, a script with the node of PATH", () => {
    const installed = checkout('room/node_modules/kfault');
    symlinkSync(join(installed, 'cli/kfault.mjs'), put('room/node_modules/.bin/kfault', null));
    const command = find({ folders: [join(desk, 'empty'), join(desk, 'room')] });
    expect(command).toEqual({
      command: join(desk, 'bin/node'),
      args: [join(installed, 'cli/kfault.mjs'), 'dap'],
    });
    expect(output(command)).toBe('built dap');
  });

  test("is the workspace itself, when it is kfault's folder; the setting comes first, PATH last", () => {
    const folder = checkout('kfault');
    put('bin/kfault', SHELL, 0o755);
    expect(output(find({ folders: [folder] }))).toBe('built dap');
    expect(output(find({ folders: [folder], setting: '../bin/kfault' }))).toBe('shell dap');
    expect(find({ folders: [desk] })).toEqual({ command: join(desk, 'bin/kfault'), args: ['dap'] });
  });

  test('is what the setting names: a command or a folder, whole or from the workspace folder', () => {
    const folder = checkout('kfault');
    const built = { command: join(desk, 'bin/node'), args: [join(folder, 'cli/kfault.mjs'), 'dap'] };
    expect(find({ setting: folder })).toEqual(built);
    expect(find({ setting: ' kfault ', folders: [desk] })).toEqual(built);
    expect(find({ setting: join(folder, 'cli/kfault.mjs') })).toEqual(built);
  });
});

describe('errors say what is wrong and what would help', () => {
  const error = (where: Partial<Surroundings>): string => {
    try {
      return `found ${JSON.stringify(find(where))}`;
    } catch (thrown) {
      return thrown instanceof Error ? thrown.message.replaceAll(desk, 'DESK') : String(thrown);
    }
  };

  test('nothing is found', () => {
    put('room/package.json', '{ "name": "other" }');
    put('room/cli/kfault.mjs', '');
    expect(error({ folders: [join(desk, 'room')] })).toBe(
      "kfault was not found. DESK/room has no node_modules/.bin/kfault and is not kfault's own folder. PATH has no kfault. Set kfault.path to the command, or to the folder of kfault.",
    );
    expect(error({ path: '' })).toBe(
      'kfault was not found. PATH has no kfault. Set kfault.path to the command, or to the folder of kfault.',
    );
  });

  test('it is not built', () => {
    const folder = checkout('kfault', false);
    const message = 'kfault in DESK/kfault is not built: run `npm ci && npm run build` there.';
    expect(error({ folders: [folder] })).toBe(message);
    expect(error({ setting: folder })).toBe(message);
  });

  test('there is no Node.js', () => {
    const folder = checkout('kfault');
    expect(
      error({ folders: [folder], path: `${relative('', join(desk, 'bin'))}:${join(desk, 'empty')}:` }),
    ).toBe(
      'DESK/kfault/cli/kfault.mjs needs Node.js 20.11 or newer, and PATH has no node. Install it, or start the editor from a shell that has it.',
    );
  });

  test('the setting names nothing that can be started', () => {
    put('room/kfault', SHELL);
    const folders = [join(desk, 'room')];
    expect(error({ setting: 'nowhere', folders })).toBe('kfault.path: there is no DESK/room/nowhere.');
    expect(error({ setting: 'kfault', folders })).toBe('DESK/room/kfault cannot be executed.');
    expect(error({ setting: '.', folders })).toBe(
      "kfault.path: DESK/room is a folder, and not kfault's own: that has a cli/kfault.mjs. Name the command, or the folder of kfault.",
    );
    expect(error({ setting: '~/of-kfault-there-is-none' })).toBe(
      `kfault.path: there is no ${join(homedir(), 'of-kfault-there-is-none')}.`,
    );
  });
});
