/** What is told as a mistake of the fixture, and what is a defect. */
import { describe, expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { MachineRefusal } from '../../kernel/machine-refusal.js';
import { isRefusal } from '../build/data-pages.js';
import { parseFixture } from '../format/load.js';
import { Source } from '../format/source.js';
import { isKfenceRefusal } from '../machine/kfence-machine.js';
import { runFixture } from './run-fixture.js';

const engine = new NativeEngine(undefined, { reuse: true });

async function problems(text: string): Promise<string[]> {
  const loaded = parseFixture(new Source('f.yaml', text));
  const { errors } = loaded.ok ? await runFixture(loaded.fixture, engine) : loaded;
  return errors.map(({ line, column, message }) => `${line}:${column} ${message}`);
}

test.each([isRefusal, isKfenceRefusal])('a number out of range in a port is a defect: %p', (refusal) => {
  expect(refusal(new MachineRefusal('no room'))).toBe(true);
  expect(refusal(new RangeError('Invalid array length'))).toBe(false);
});

describe('a mistake of the fixture at its place', () => {
  test.each([
    [
      'data: [{ symbol: d, at: 0xffffc90000000010, size: 8 }]',
      '3:25 0xffffc90000000010 is not the start of a page',
    ],
    [
      'data: [{ symbol: d, where: user, at: 0xffff800000000000, size: 8 }]',
      '3:38 0xffff800000000000 is no place for user memory: it lies between 0x1000 and 0x7ffffffff000',
    ],
    [
      'data: [{ symbol: d, where: linear, prot: ro, size: 8 }]',
      '3:8 the direct map is rw as a whole: data in it cannot be ro',
    ],
  ])('%s', async (data, message) => {
    const found = await problems(`name: x\narch: x86-64\n${data}\nsteps: [{ check: {} }]\n`);
    expect(found[0]).toBe(message);
  });

  test('a draw that is not below what is asked for', async () => {
    const step = '{ slab: kmalloc, args: { size: 32 }, advance: 1 }';
    const found = await problems(
      `name: x\narch: x86-64\nkfence: { objects: 4, draws: [0, 9] }\nsteps: [${step}]\n`,
    );
    expect(found).toEqual(['1:1 the next random number is 9, but one below 4 is asked for']);
  });
});
