import { spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { cp, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'cli', 'kfault.mjs');
const folder = mkdtempSync(join(tmpdir(), 'kfault-process-'));

beforeAll(() => {
  if (!existsSync(join(root, 'dist', 'straight', 'cli', 'main.js'))) {
    throw new Error('these tests run the compiled command: npm run build first');
  }
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function kfault(...args: string[]) {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [bin, ...args], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1' },
  });
  return { status, signal, stdout, stderr };
}

test('the exit status reaches the shell, and the message is all there is', () => {
  expect(kfault('explain', '/nowhere')).toEqual({
    status: 2,
    signal: null,
    stdout: '',
    stderr: '/nowhere: there is no such file or folder\n',
  });
  expect(kfault('--version').status).toBe(0);
});

test('a reader that goes away is no error', async () => {
  const child = spawn(process.execPath, [bin, 'schema'], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.destroy();
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const status = await new Promise((resolve) => child.on('close', resolve));
  expect([status, stderr]).toEqual([0, '']);
});

const onLinux = existsSync('/dev/full') ? test : test.skip;

onLinux('a full disk is one message', () => {
  const full = openSync('/dev/full', 'w');
  const { status, stderr } = spawnSync(process.execPath, [bin, 'schema'], {
    encoding: 'utf8',
    stdio: ['ignore', full, 'pipe'],
  });
  closeSync(full);
  expect([status, stderr]).toEqual([2, 'kfault: the output cannot be written (ENOSPC)\n']);
});

test('without a build the command says what to do', async () => {
  const bare = join(folder, 'cli');
  await mkdir(bare);
  await cp(bin, join(bare, 'kfault.mjs'));
  const { status, stderr } = spawnSync(process.execPath, [join(bare, 'kfault.mjs')], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([
    2,
    'kfault is not built yet: run `npm run build` (or `npm start`) in its folder first.\n',
  ]);
});
