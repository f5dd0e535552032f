import { createInterface } from 'node:readline';
import { PassThrough } from 'node:stream';
import { describe, expect, test } from '@jest/globals';
import { TypeAhead } from './type-ahead.js';

/** A keyboard, and what has been handed on so far. */
function keyboard(): { keys: PassThrough; ahead: TypeAhead; handed: () => string; interrupts: () => number } {
  const keys = new PassThrough();
  let handed = '';
  let count = 0;
  const ahead = new TypeAhead(keys, () => {
    count += 1;
  });
  ahead.on('data', (data: Buffer) => {
    handed += data.toString('latin1');
  });
  return { keys, ahead, handed: () => handed, interrupts: () => count };
}

/** What was written has arrived. */
const arrived = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('what is typed while a command runs', () => {
  test('waits for the next prompt, line by line', async () => {
    const { keys, ahead, handed } = keyboard();
    keys.write('one\rtwo\rthr');
    await arrived();
    expect(handed()).toBe('one\r');
    keys.write('ee');
    await arrived();
    expect(handed()).toBe('one\r');
    ahead.next();
    expect(handed()).toBe('one\rtwo\r');
    ahead.next();
    expect(handed()).toBe('one\rtwo\rthree');
    // At a prompt, each key arrives as it is pressed, Ctrl-C as well.
    keys.write('\u0003');
    await arrived();
    expect(handed()).toBe('one\rtwo\rthree\u0003');
  });

  test('is dropped by a Ctrl-C, which arrives at once', async () => {
    const { keys, ahead, handed, interrupts } = keyboard();
    keys.write('continue\rtwo\r');
    await arrived();
    keys.write('three\r\u0003fo');
    await arrived();
    expect(interrupts()).toBe(1);
    ahead.next();
    expect(handed()).toBe('continue\rfo');
    const quick = keyboard();
    quick.keys.write('continue\rtwo\r\u0003');
    await arrived();
    expect([quick.interrupts(), quick.handed()]).toEqual([1, 'continue\r']);
  });

  test('an end of a line of two characters is one; Return behind Escape is a key', async () => {
    const { keys, ahead, handed } = keyboard();
    keys.write('one\r\ntwo\n');
    await arrived();
    ahead.next();
    ahead.next();
    keys.write('a\u001b\rb');
    await arrived();
    expect(handed()).toBe('one\rtwo\na\u001b\rb');
  });

  test.each(['one\ntwo\n', 'one\ntwo\nthree'])(
    'the end of the input comes behind what is in front of it: %j',
    async (input) => {
      const { keys, ahead, handed } = keyboard();
      let ended = false;
      ahead.on('end', () => {
        ended = true;
      });
      keys.end(input);
      await arrived();
      expect([handed(), ended]).toEqual(['one\n', false]);
      ahead.next();
      await arrived();
      expect([handed(), ended]).toEqual(['one\ntwo\n', false]);
      ahead.next();
      await arrived();
      expect([handed(), ended]).toEqual([input, true]);
    },
  );

  test('a Tab in the middle of what is pasted completes nothing', async () => {
    const { keys, handed } = keyboard();
    keys.write('p\t1');
    await arrived();
    keys.write('\t');
    await arrived();
    expect(handed()).toBe('p 1\t');
  });
});

test('what comes at once is put where the cursor stands', async () => {
  const { keys, ahead } = keyboard();
  const lines: string[] = [];
  const rl = createInterface({ input: ahead, output: new PassThrough(), terminal: true });
  rl.on('line', (line) => lines.push(line));
  keys.write('set = 1');
  await arrived();
  // Four to the left, then an address from the clipboard.
  keys.write('\u001b[D\u001b[D\u001b[D');
  await arrived();
  keys.write('*0x10 ');
  await arrived();
  keys.write('\r');
  await arrived();
  expect(lines).toEqual(['set *0x10 = 1']);
  rl.close();
});
