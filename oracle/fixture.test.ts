import { afterAll, describe, expect, test } from '@jest/globals';
import { libraryPath, openLibrary } from '../emu/unicorn/library.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { ARM64_STAGE, arm64Scene } from './arm64-fixture.js';
import type { Case } from './case.js';
import type { Scene, Stage } from './fixture.js';
import { arm64Bench, type Bench, outcomeName, x86Bench } from './oracle.js';
import { Random } from './random.js';
import { reproduce, runText } from './reproduce.js';
import { X86_STAGE, x86Scene } from './x86-fixture.js';

const library = openLibrary(libraryPath());
const engine = new NativeEngine(undefined, { reuse: true });
const x86 = x86Bench(library);
const arm64 = arm64Bench(library);
afterAll(() => {
  x86.close();
  arm64.close();
  engine.close();
});

/** The first cases of a seed that come to each of these, by the beginning of the outcome's name. */
function scenesOf<C extends Case>(
  bench: Bench<C>,
  scene: (question: C) => Scene | null,
  names: readonly string[],
): Map<string, Scene> {
  const generator = bench.generator(new Random(5));
  const found = new Map<string, Scene>();
  for (let i = 0; i < 5000 && found.size < names.length; i++) {
    const question = generator.next();
    const outcome = outcomeName(bench.arch, bench.ours(question));
    const name = names.find((each) => outcome.startsWith(each) && !found.has(each));
    const made = name === undefined ? null : scene(question);
    if (name !== undefined && made !== null) found.set(name, made);
  }
  return found;
}

async function eachReproduces<C extends Case>(
  bench: Bench<C>,
  stage: Stage,
  scene: (question: C) => Scene | null,
  names: readonly string[],
): Promise<void> {
  const scenes = scenesOf(bench, scene, names);
  expect([...scenes.keys()].sort()).toEqual([...names].sort());
  for (const [name, made] of scenes) {
    const { text, passes } = await reproduce(engine, stage, name, [made]);
    expect({ name, passes, text }).toEqual({ name, passes: true, text });
    // It is the fault that makes it pass.
    const other = text
      .replace(/(error_code|esr): 0x/, '$1: 0x4000000')
      .replace('faults: []', 'faults: [{ address: 1 }]');
    const { status, failures } = await runText(other, engine);
    if (other !== text)
      expect([name, status, failures[0]?.where]).toEqual([name, 'failed', expect.stringContaining('faults')]);
  }
}

describe('a printed fixture has the same fault in a machine with a kernel', () => {
  test('x86-64', async () => {
    await eachReproduces(x86, X86_STAGE, x86Scene, [
      ...[
        'translates, leaf pte',
        'translates, leaf pmd',
        'not canonical',
        'not present, pte',
        'not present, pud',
      ],
      ...['reserved bit, pte', 'reserved bit, pmd', 'refused user write', 'refused user fetch'],
      ...['refused supervisor write', 'refused supervisor fetch', 'refused supervisor read'],
    ]);
  });

  test('arm64', async () => {
    await eachReproduces(arm64, ARM64_STAGE, arm64Scene, [
      ...['translates, leaf pte', 'translates, leaf pmd', 'translation, level 1', 'translation, level 3'],
      ...['permission, level 2', 'permission, level 3', 'access flag, level 3', 'address size, level 2'],
      ...['external abort on walk, level 2'],
    ]);
  });

  test('and several questions are several steps', async () => {
    const scenes = [...scenesOf(x86, x86Scene, ['refused user write', 'translates, leaf pte']).values()];
    const { text, passes } = await reproduce(engine, X86_STAGE, 'two', scenes);
    expect(passes).toBe(true);
    expect(text.match(/expect:/g)).toHaveLength(2);
    expect(text).toContain('tlb: { flush: all }');
  });
});
