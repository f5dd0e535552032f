#!/usr/bin/env node
import { existsSync } from 'node:fs';

/** Commands that stop inside the kernel's paths, which only one of the two builds can. */
const stopping = ['debug', 'gdbserver', 'dap'].includes(process.argv[2]);
const compiled = new URL(`../dist/bundle${stopping ? '-paths' : ''}/main.js`, import.meta.url);
if (existsSync(compiled)) {
  await import(compiled.href);
} else {
  console.error('kfault is not built yet: run `npm run build` (or `npm start`) in its folder first.');
  process.exitCode = 2;
}
