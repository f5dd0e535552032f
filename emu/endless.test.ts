import { describe, expect, test } from '@jest/globals';
import { Endless, type Patience, Turns } from './endless.js';

function outcomeOf(patience: Patience, turns: number): unknown {
  const loop = new Turns(patience);
  try {
    for (let i = 0; i < turns; i++) loop.again(0x5000n);
  } catch (thrown) {
    return thrown instanceof Endless ? thrown.outcome(0x1000n) : thrown;
  }
  return null;
}

describe('a loop that only somebody else can end', () => {
  const three: Patience = { refaults: 3, milliseconds: 10, now: () => 0 };

  test('may go round as often as an instruction may fault, and is a livelock then', () => {
    expect(outcomeOf(three, 2)).toBeNull();
    expect(outcomeOf(three, 3)).toEqual({ kind: 'livelock', pc: 0x1000n, address: 0x5000n, turns: 3 });
  });

  test('ends with the wall clock when it may go round often', () => {
    let clock = 0;
    const slow: Patience = { refaults: 100_000, milliseconds: 10, now: () => clock++ };
    expect(outcomeOf(slow, 100_000)).toEqual({ kind: 'deadline', milliseconds: 10 });
    expect(outcomeOf({ ...slow, now: () => 0 }, 99_999)).toBeNull();
  });
});
