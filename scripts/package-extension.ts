/**
 * Packages the extension for VS Code: `dist/kfault-<version>.vsix`, or in the folder that is named. What the package
 * has and editors/vscode/ has not is made here: the bundle, and copies of the schema and of the licence. The same
 * sources give the same bytes.
 */
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createVSIX } from '@vscode/vsce';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const extension = join(root, 'editors', 'vscode');
const folder = resolve(process.argv[2] ?? join(root, 'dist'));

const stage = mkdtempSync(join(tmpdir(), 'kfault-extension-'));
try {
  await build({
    // The bundle names its modules from here on.
    absWorkingDir: root,
    entryPoints: [join(extension, 'extension.ts')],
    outfile: join(stage, 'extension.cjs'),
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node20',
    external: ['vscode'],
    logLevel: 'warning',
  });
  for (const name of ['package.json', 'README.md', 'snippets.json']) {
    copyFileSync(join(extension, name), join(stage, name));
  }
  copyFileSync(join(root, 'docs', 'fixture.schema.json'), join(stage, 'fixture.schema.json'));
  copyFileSync(join(root, 'LICENSE'), join(stage, 'LICENSE'));
  // The package has the modes of its files, and those depend on the umask.
  for (const name of readdirSync(stage)) chmodSync(join(stage, name), 0o644);

  const { name, version } = JSON.parse(readFileSync(join(extension, 'package.json'), 'utf8'));
  mkdirSync(folder, { recursive: true });
  // Asked for by vsce: all files get this time, and an order. The archive has local times, so this one is local.
  process.env.SOURCE_DATE_EPOCH = String(new Date(1980, 0, 1).getTime() / 1000);
  await createVSIX({
    cwd: stage,
    packagePath: join(folder, `${name}-${version}.vsix`),
    // Everything is in the bundle: no package manager is asked.
    dependencies: false,
    // vsce asks on the terminal when the manifest names none.
    allowMissingRepository: true,
  });
} finally {
  rmSync(stage, { recursive: true, force: true });
}
