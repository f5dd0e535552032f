import { describe, expect, test } from '@jest/globals';
import { QUIRKS } from './arena-model.js';
import { type ArenaTally, arenaJsonReport, arenaTextReport } from './arena-report.js';

const held: ArenaTally = {
  arch: 'arm64',
  seed: 7,
  arenas: 10,
  steps: 321,
  met: new Map([['misaligned reserve', 4]]),
  failure: null,
};
const broken: ArenaTally = { ...held, failure: 'Property failed\nafter step 2' };

describe('what the oracle of arenas says', () => {
  test('to people: every quirk, also one that nobody met', () => {
    const [first, ...quirks] = arenaTextReport(held);
    expect(first).toBe('arm64: seed 7, 10 arenas, 321 steps: all as the model has it');
    expect(quirks).toHaveLength(Object.keys(QUIRKS).length);
    expect(quirks).toContain('        4  misaligned reserve');
    expect(quirks).toContain('        0  reserved page goes to a user');
    expect(arenaTextReport(broken)).toEqual(['arm64: seed 7', 'Property failed\nafter step 2']);
  });

  test('to machines: the same', () => {
    const none = Object.fromEntries(Object.keys(QUIRKS).map((quirk) => [quirk, 0]));
    expect(arenaJsonReport(held)).toEqual({
      arch: 'arm64',
      seed: 7,
      arenas: 10,
      steps: 321,
      quirks: { ...none, 'misaligned reserve': 4 },
      failure: null,
    });
    expect(arenaJsonReport(broken)).toEqual({ arch: 'arm64', seed: 7, failure: broken.failure });
  });
});
