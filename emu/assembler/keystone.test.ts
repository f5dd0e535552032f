import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { Keystone } from './keystone.js';

/** Stands in for Keystone where it misbehaves in ways that it cannot be made to on purpose. */
const UNRULY = `
module.exports = async () => ({
  Keystone: class {
    option() {}
    asm(text) {
      if (text === 'hang') for (;;);
      if (text === 'throw') throw 'a string';
      if (text === 'exit') process.exit(3);
      return { mc: Uint8Array.of(text.length), failed: false };
    }
    errno() { return 0; }
    close() {}
  },
  strerror: () => '',
});`;

const folder = mkdtempSync(join(tmpdir(), 'kfault-keystone-'));
const path = join(folder, 'unruly.cjs');
writeFileSync(path, UNRULY);
afterAll(() => rmSync(folder, { recursive: true }));

function items(...texts: string[]): { text: string; address: bigint }[] {
  return texts.map((text) => ({ text, address: 0n }));
}

test('an item that hangs, throws or exits is answered with an error, and the rest goes on', async () => {
  const keystone = new Keystone({ milliseconds: 300, module: path });
  const results = await keystone.assemble('x86-64', items('a', 'hang', 'bb', 'throw', 'ccc', 'exit', 'dddd'));
  expect(results).toEqual([
    { bytes: Uint8Array.of(1) },
    { error: 'Keystone took longer than 0.3 s' },
    { bytes: Uint8Array.of(2) },
    { error: 'Keystone broke down over it' },
    { bytes: Uint8Array.of(3) },
    { error: 'Keystone broke down over it' },
    { bytes: Uint8Array.of(4) },
  ]);
  await keystone.close();
});

test('requests that come together are answered one after the other, each with its own', async () => {
  const keystone = new Keystone({ milliseconds: 2000, module: path });
  const [first, second] = await Promise.all([
    keystone.assemble('x86-64', items('a', 'throw')),
    keystone.assemble('arm64', items('bb')),
  ]);
  expect(first).toEqual([{ bytes: Uint8Array.of(1) }, { error: 'Keystone broke down over it' }]);
  expect(second).toEqual([{ bytes: Uint8Array.of(2) }]);
  await keystone.close();
});
