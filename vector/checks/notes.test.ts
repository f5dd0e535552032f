/** What stands below a failure, so that people see why. */
import { describe, expect, test } from '@jest/globals';
import type { Event } from '../../emu/events.js';
import { FakeMachine, fakeFixture, MAPPED, scratchFault } from '../machine/fake-machine.js';
import { runSteps } from '../run/run-steps.js';
import type { Failure } from './failure.js';

const HEX = `0x${MAPPED.toString(16)}`;

function failureOf(expectation: string, script: readonly Event[] = scratchFault()): Failure {
  const body = `steps: [{ call: f, expect: { ${expectation} } }]`;
  const [failure, ...more] = runSteps(fakeFixture(body), new FakeMachine(script)).failures;
  if (failure === undefined || more.length > 0) throw new Error('exactly one failure is wanted');
  return failure;
}

const decide = (fn: string, test: string): Event => ({ type: 'decide', cpu: 0, fn, test, value: true });
const enter = (fn: string): Event => ({ type: 'enter', cpu: 0, fn, argNames: [], args: [] });

test('blank lines at the end: how they are written', () => {
  const { expected, actual, diff, notes } = failureOf('console: [first line, second line, ""]');
  expect([expected, actual]).toEqual(['first line … (3 lines)', 'first line … (2 lines)']);
  expect(diff).toBe('  first line\n  second line\n-');
  expect(notes).toEqual([
    'Only blank lines at the end differ. YAML drops those of a block with |, and keeps them with |+; in a list they are "".',
  ]);
  expect(failureOf('console: [first line, third line, ""]').notes).toEqual([]);
});

test('a page: which one it is', () => {
  expect(failureOf(`frames: [{ at: ${HEX}, refs: 3 }]`).notes).toEqual([`page behind ${HEX}: 0x1000`]);
  expect(failureOf('frames: [{ at: f, refs: 3 }]')).toMatchObject({
    where: 'step 1 expect.frames[0].at',
    actual: 'not mapped',
    notes: ['at 0xffffffff81000000 (f+0x0)'],
  });
  expect(failureOf(`same_page: [[${HEX}, f]]`).notes).toEqual([
    `${HEX}: 0x1000`,
    '0xffffffff81000000 (f+0x0): not mapped',
  ]);
});

describe('a decision that was not taken', () => {
  test('what else the function decided', () => {
    const script = [decide('handle_page_fault', 'z'), ...scratchFault()];
    const { notes } = failureOf('decisions: [{ fn: page_fault_oops, test: other, value: true }]', script);
    expect(notes).toEqual([
      'page_fault_oops decided:',
      '  page_fault_oops: error_code & X86_PF_PROT = false',
      '  page_fault_oops: nr = 3',
    ]);
  });

  test('what was decided behind the one before', () => {
    const script = [decide('first', 'a'), decide('second', 'b')];
    expect(
      failureOf('decisions: [{ test: a, value: true }, { fn: third, test: c, value: true }]', script).notes,
    ).toEqual(['decided behind first: a:', '  second: b = true']);
    expect(
      failureOf('decisions: [{ test: b, value: true }, { test: a, value: true }]', script).notes,
    ).toEqual(['nothing was decided behind second: b']);
  });

  test('a long list is cut', () => {
    const script = Array.from({ length: 1000 }, (_, i) => decide('loop', `turn ${i}`));
    const { notes } = failureOf('decisions: [{ test: x, value: true }]', script);
    expect(notes).toHaveLength(42);
    expect(notes.slice(-2)).toEqual(['  loop: turn 39 = true', '… 960 more']);
  });
});

test('a function that must not be entered: the way to it', () => {
  const numbered = (count: number): Event[] => Array.from({ length: count }, (_, i) => enter(`fn${i}`));
  const script = [...numbered(100), enter('die'), ...numbered(100)];
  const [note = ''] = failureOf('not: [die]', script).notes;
  expect(note).toMatch(/^its path: … → fn88 → .*fn99 → die → fn0 → .*fn11 → …$/);
  expect(failureOf('not: [die]', [enter('oops_end'), enter('die')]).notes).toEqual([
    'its path: oops_end → die',
  ]);
});

test('many flushes are counted, few are named', () => {
  const flush = (va: bigint | null): Event => ({ type: 'tlb-flush', cpu: 0, va, by: 'flush_tlb' });
  expect(failureOf('tlb_flushes: []', [flush(MAPPED), flush(null)]).actual).toBe(`${HEX}, all`);
  const many = Array.from({ length: 512 }, () => flush(MAPPED));
  expect(failureOf('tlb_flushes: [all]', many)).toMatchObject({
    expected: 'all',
    actual: `${HEX} … (512 flushes)`,
  });
});
