/**
 * Makes `dist/bundle/`, what the command line runs: the straight build and the pure JavaScript packages it
 * uses, in a handful of files. Finding, reading and linking some three hundred modules takes longer than a
 * fixture does; commands of their own stay in files of their own, which are loaded when they are asked for.
 * `dist/bundle-paths/` is the same from the build whose paths can be stopped in, for the debugger.
 */
import { rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

/** Packages with native code or WebAssembly beside their modules: they find it from where they are. */
const OUTSIDE = ['koffi', 'iced-x86', '@alexaltea/*'];

const dist = join(dirname(fileURLToPath(import.meta.url)), '..');
await bundle(join(dist, 'straight', 'cli', 'main.js'), join(dist, 'bundle'));
await bundle(join(dist, 'cli', 'main.js'), join(dist, 'bundle-paths'));

function bundle(entry: string, outdir: string): Promise<unknown> {
  rmSync(outdir, { recursive: true, force: true });
  return build({
    entryPoints: [entry],
    outdir,
    bundle: true,
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    external: OUTSIDE,
    logLevel: 'warning',
    banner: {
      // Packages that are no ES modules ask for Node's own with require().
      js: "import { createRequire as createBundleRequire } from 'node:module';\nconst require = createBundleRequire(import.meta.url);",
    },
  });
}
