#!/usr/bin/env node
import { existsSync } from 'node:fs';

const compiled = new URL('../dist/bundle/main.js', import.meta.url);
if (existsSync(compiled)) {
  await import(compiled.href);
} else {
  console.error('kfault is not built yet: run `npm run build` (or `npm start`) in its folder first.');
  process.exitCode = 2;
}
