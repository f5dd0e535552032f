import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const biome = createRequire(import.meta.url).resolve('@biomejs/biome/bin/biome');

/** Rooms from the bottom up: each may import only from rooms before it. */
const ROOMS = ['emu', 'arch', 'kernel', 'mm', 'bpf', 'boot', 'vector', 'debug', 'cli'];
/** Programs about kfault, which no room imports. */
const BESIDE = ['bench', 'oracle'];

/** Lints one file in an otherwise empty tree that has this project's configuration. */
function lint(file: string, source: string): string {
  const tree = mkdtempSync(join(tmpdir(), 'kfault-lint-'));
  try {
    writeFileSync(join(tree, 'biome.json'), readFileSync(join(root, 'biome.json')));
    mkdirSync(dirname(join(tree, file)), { recursive: true });
    writeFileSync(join(tree, file), source);
    const run = spawnSync(process.execPath, [biome, 'lint', '--only=style/noRestrictedImports', file], {
      cwd: tree,
      encoding: 'utf8',
    });
    return run.stdout + run.stderr;
  } finally {
    rmSync(tree, { recursive: true });
  }
}

describe('dependency direction', () => {
  test('every room is held by the rule, and the rule names every room above it', () => {
    const config = JSON.parse(readFileSync(join(root, 'biome.json'), 'utf8'));
    for (const [index, room] of ROOMS.entries()) {
      const override = config.overrides.find((o: { includes: string[] }) =>
        o.includes.includes(`${room}/**`),
      );
      const rule = override?.linter?.rules?.style?.noRestrictedImports;
      expect(rule?.level).toBe('error');
      const forbidden: string[] = rule.options.patterns.flatMap((p: { group: string[] }) => p.group);
      for (const above of [...ROOMS.slice(index + 1), ...BESIDE])
        expect(forbidden).toContain(`**/${above}/**`);
    }
  });

  test('an import from a room above fails, one from a room below passes', () => {
    const upward = lint('kernel/probe.ts', "import { x } from '../mm/memory.js';\nexport const y = x;\n");
    expect(upward).toContain('Dependencies point one way');
    const typesToo = lint(
      'arch/x86/probe.ts',
      "import type { x } from '../../bpf/arena/arena.js';\nexport type y = x;\n",
    );
    expect(typesToo).toContain('Dependencies point one way');
    const downward = lint('mm/probe.ts', "import { x } from '../kernel/errno.js';\nexport const y = x;\n");
    expect(downward).toContain('Checked 1 file');
    expect(downward).not.toContain('Dependencies point one way');
  });
});
