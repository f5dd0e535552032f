import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';

const CI_RUN = fileURLToPath(new URL('../.ci/run', import.meta.url));

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kfault-ci-'));
});
afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

/** Shell commands in place of the programs that `.ci/run` calls. */
interface Programs {
  ci?: string;
  start?: string;
  fixtures?: string;
  test?: string;
}

const counted = (passed: number, failed: number): string => JSON.stringify({ summary: { passed, failed } });
const fixtures = (passed: number, failed: number): string =>
  `echo '${counted(passed, failed)}'; exit ${failed && 1}`;
const tests = (passed: number, failed: number): string =>
  `echo '${counted(passed, failed)}' >"$KFAULT_TEST_REPORT"; exit ${failed && 1}`;

function ciRun(programs: Programs): { lastLine: string | undefined; status: number | null; output: string } {
  const { ci = 'true', start = 'true' } = programs;
  script('.ci/run');
  copyFileSync(CI_RUN, join(root, '.ci/run'));
  script(
    'bin/npm',
    `case "$1" in ci) ${ci};; start) ${start};; test) ${programs.test ?? tests(5, 0)};; esac`,
  );
  script(
    'bin/node',
    `[ "$*" = 'cli/kfault.mjs run fixtures --json' ] || exec '${process.execPath}' "$@"
    ${programs.fixtures ?? fixtures(28, 0)}`,
  );
  const result = spawnSync(join(root, '.ci/run'), {
    encoding: 'utf8',
    env: { ...process.env, PATH: `${join(root, 'bin')}:${process.env.PATH}` },
  });
  return {
    lastLine: result.stdout.trimEnd().split('\n').at(-1),
    status: result.status,
    output: result.stdout,
  };
}

function script(name: string, body = ''): void {
  const path = join(root, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
}

test.each<[string, Programs, string, number]>([
  ['all passes', {}, '33 passed, 0 failed', 0],
  ['a fixture fails', { start: 'exit 1', fixtures: fixtures(26, 2) }, '31 passed, 2 failed', 1],
  ['tests fail', { test: tests(3, 2) }, '31 passed, 2 failed', 1],
  ['the style check fails before any test', { test: 'exit 1' }, '28 passed, 1 failed', 1],
  ['a command fails although all counted passes', { start: 'exit 2' }, '33 passed, 1 failed', 1],
  ['the fixtures give no report', { fixtures: 'echo oops' }, '5 passed, 1 failed', 1],
  ['nothing can be installed', { ci: 'exit 1', fixtures: 'exit 1' }, '0 passed, 2 failed', 1],
  ['nothing was run at all', { fixtures: fixtures(0, 0), test: tests(0, 0) }, '0 passed, 2 failed', 1],
])('.ci/run: %s', (_, programs, lastLine, status) => {
  const run = ciRun(programs);
  expect(run.lastLine).toBe(lastLine);
  expect(run.output.match(/^\d+ passed, \d+ failed$/gm)).toHaveLength(1);
  expect(run.status).toBe(status);
});

test('.ci/run: runs without input, as CI, and shows what the commands print', () => {
  const run = ciRun({ start: 'read -r line && exit 7; echo "CI is $CI" >&2' });
  expect(run.output).toContain('$ npm ci && npm start\nCI is true\n');
  expect(run.status).toBe(0);
});
