import { describe, expect, test } from '@jest/globals';
import pc from 'picocolors';
import { FixtureError } from '../format/fixture-error.js';
import { FakeMachine, fakeFixture, scratchFault } from '../machine/fake-machine.js';
import { exitStatus, type FixtureResult, invalidResult } from '../run/result.js';
import { runSteps } from '../run/run-steps.js';
import { fixtureLines, summaryLines } from './report-human.js';
import { jsonReport } from './report-json.js';

const plain = { colours: pc.createColors(false), timing: false };

function ran(body: string, arch: 'x86-64' | 'arm64' = 'x86-64'): FixtureResult {
  const fixture = fakeFixture(body);
  const machine = new FakeMachine(scratchFault());
  const { failures, spans } = runSteps(fixture, machine);
  return {
    file: 'dir/fake.yaml',
    name: fixture.data.name,
    arch,
    status: failures.length === 0 ? 'passed' : 'failed',
    failures,
    errors: [],
    events: machine.events,
    spans,
    milliseconds: 1.5,
  };
}

const passed = ran('steps: [{ call: f }]');
const failed = ran('steps:\n  - call: f\n    expect: { console: [first line, third line] }', 'arm64');
const invalid = invalidResult('bad.yaml', [
  new FixtureError('bad.yaml', { line: 2, column: 3 }, 'what is wrong', 'What is right.', ['', '  here']),
]);

describe('for people', () => {
  test('one line for what passed', () => {
    expect(fixtureLines(passed, plain)).toEqual(['✓ x86-64 fake']);
    expect(fixtureLines(passed, { ...plain, timing: true })).toEqual(['✓ x86-64 fake  1.5 ms']);
  });

  test('on a terminal names are broken between words', () => {
    const long = {
      ...passed,
      name: 'with only Accessed and Dirty set an entry is none, but not to ptep_try_set()',
    };
    expect(fixtureLines(long, { ...plain, columns: 60 })).toEqual([
      '✓ x86-64 with only Accessed and Dirty set an entry is none,\n         but not to ptep_try_set()',
    ]);
  });

  test('a failure names the expectation and its place and shows the difference', () => {
    expect(fixtureLines(failed, plain).join('\n')).toBe(`\
✗ arm64  fake
    step 1 expect.console  dir/fake.yaml:8:24
      expected  first line … (2 lines)
      actual    first line … (2 lines)
      - expected, + actual
        first line
      - third line
      + second line
`);
  });

  test('bad input shows the line', () => {
    expect(fixtureLines(invalid, plain).join('\n')).toBe(`\
!        bad.yaml
    bad.yaml:2:3: what is wrong
        2 |   here
          |   ^
      What is right.
`);
  });

  test('the summary counts per architecture', () => {
    expect(summaryLines([passed, passed], plain)).toEqual([
      '',
      'x86-64  2 passed, 0 failed',
      '2 fixtures: 2 passed, 0 failed',
    ]);
  });

  test('where something failed it says where to look next', () => {
    expect(summaryLines([passed, failed, invalid], plain)).toEqual([
      'x86-64  1 passed, 0 failed',
      'arm64   0 passed, 1 failed',
      '3 fixtures: 1 passed, 1 failed, 1 invalid',
      '',
      'What happened, step by step: npx kfault explain dir/fake.yaml',
    ]);
  });

  test('control characters of a fixture do not reach the terminal', () => {
    expect(fixtureLines({ ...passed, name: '\u001b[31mred\u0007' }, plain)).toEqual(['✓ x86-64 ?[31mred?']);
    const note = { ...failed, failures: failed.failures.map((each) => ({ ...each, notes: ['a\u001bc'] })) };
    expect(fixtureLines(note, plain)).toContain('      a?c');
    const key = ran('steps: [{ call: f, expect: { in_use: { "\\e[31m": 7 } } }]');
    expect(fixtureLines(key, plain)[1]).toBe('    step 1 expect.in_use.?[31m  dir/fake.yaml:6:50');
  });
});

test('for programs: the same every time, without times unless asked', () => {
  const report = JSON.parse(jsonReport([passed, failed, invalid], { timing: false }));
  expect(report.summary).toEqual({ fixtures: 3, passed: 1, failed: 1, invalid: 1 });
  expect(report.fixtures[0]).toEqual({
    file: 'dir/fake.yaml',
    name: 'fake',
    arch: 'x86-64',
    status: 'passed',
    failures: [],
    errors: [],
    console: [{ level: 4, time: 12_345_678, caller: 'T100', text: 'first line\nsecond line' }],
  });
  expect(report.fixtures[1].failures[0]).toMatchObject({
    kind: 'console',
    where: 'step 1 expect.console',
    line: 8,
    column: 24,
    diff: '  first line\n- third line\n+ second line',
  });
  expect(report.fixtures[2]).toMatchObject({
    name: null,
    arch: null,
    status: 'invalid',
    errors: [{ file: 'bad.yaml', line: 2, column: 3, message: 'what is wrong', hint: 'What is right.' }],
  });
  expect(JSON.parse(jsonReport([passed], { timing: true })).fixtures[0].milliseconds).toBe(1.5);
});

test('exit status: bad input wins over failures', () => {
  expect(exitStatus([passed])).toBe(0);
  expect(exitStatus([passed, failed])).toBe(1);
  expect(exitStatus([invalid, failed])).toBe(2);
});
