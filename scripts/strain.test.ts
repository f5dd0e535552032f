import { describe, expect, test } from '@jest/globals';
import { arm64 } from '../arch/arm64/index.js';
import { x86 } from '../arch/x86/index.js';
import { registeredCallbacks } from '../emu/unicorn/bindings.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { growth, type Holdings, holdings, liveOnce } from './strain.js';

describe.each([
  ['reused', true, 150],
  ['fresh', false, 20],
] as const)('machines on %s engines', (_name, reuse, count) => {
  test('leave no callback and no open file behind', async () => {
    const engine = new NativeEngine(undefined, { reuse });
    const none = registeredCallbacks();
    for (const arch of [x86, arm64]) liveOnce(engine, arch);
    const before = await holdings();
    for (let i = 0; i < count; i++) liveOnce(engine, i % 2 === 0 ? x86 : arm64);
    const after = await holdings();
    expect({ callbacks: after.callbacks, files: after.files }).toEqual({
      callbacks: before.callbacks,
      files: before.files,
    });
    engine.close();
    expect(registeredCallbacks()).toBe(none);
  });
});

test('growth is told for everything that a process can hold, and not for what comes and goes', () => {
  const before: Holdings = { callbacks: 7, files: 20, areas: 300, resident: 100 << 20 };
  expect(growth(before, before)).toEqual([]);
  expect(growth(before, { ...before, areas: 350, resident: 120 << 20 })).toEqual([]);
  expect(growth(before, { ...before, callbacks: 8 })).toEqual(['callbacks: 7, then 8']);
  expect(growth(before, { ...before, files: 21 })).toEqual(['open files: 20, then 21']);
  expect(growth(before, { ...before, areas: 3000 })).toEqual(['mapped areas: 300, then 3000']);
  expect(growth(before, { ...before, resident: 300 << 20 })).toEqual(['memory: 100 MiB, then 300']);
});
