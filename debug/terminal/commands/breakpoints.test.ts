import { afterAll, describe, expect, test } from '@jest/globals';
import { ARGS, engine, ISAS, sessionOf } from '../../testing.js';
import { shellOn } from '../testing.js';

afterAll(() => engine.close());

const SPIN = '  - { call: spin, registers: { ARG0: 6, ARG1: counter } }\n';

describe.each(ISAS)('%s', (isa) => {
  const [arg] = ARGS[isa];

  test('what was printed is a place, and stands in conditions', async () => {
    const session = await sessionOf(isa, SPIN);
    const { say } = shellOn(session);
    await say('p spin.loop', 'break *$1 if *(u64 *)counter == $pc - $1 + 2', 'c', 'until $');
    expect(session.breakpoints[0]?.spec).toEqual({ kind: 'address', address: session.evaluate('spin.loop') });
    expect(session.evaluate('*(u64 *)counter')).toBe(3n);
    session.close();
  });

  // What gdb 13 answers to the same commands.
  test('conditions and counts are set and listed as gdb does', async () => {
    const session = await sessionOf(isa, SPIN);
    const { say } = shellOn(session);
    expect(await say(`break spin.loop if $${arg} == 4`, 'tb spin.loop if *(u64 *)counter >= 4')).toEqual([
      expect.stringMatching(/^Breakpoint 1: /),
      expect.stringMatching(/^Temporary breakpoint 2: /),
    ]);
    await say('c');
    expect(session.evaluate('*(u64 *)counter')).toBe(2n);
    const listed = await say('info breakpoints');
    expect(listed.map((row) => row.replace(/^(\d.{27}).*/, '$1').trimEnd())).toEqual([
      'Num Type            Disp Enb What',
      '1   breakpoint      keep y',
      `        stop only if $${arg} == 4`,
      '        breakpoint already hit 1 time',
      '2   breakpoint      del  y',
      '        stop only if *(u64 *)counter >= 4',
    ]);
    expect(await say('condition 1')).toEqual(['Breakpoint 1 now unconditional.']);
    expect(await say('ignore 1 2', 'ignore 1 1', 'ignore 1 0', 'ignore 1 1+1')).toEqual([
      'Will ignore next 2 crossings of breakpoint 1.',
      'Will ignore next crossing of breakpoint 1.',
      'Breakpoint 1 will stop next time it is reached.',
      'Will ignore next 2 crossings of breakpoint 1.',
    ]);
    const [, ...rows] = await say('info breakpoints');
    expect(rows.slice(1, 3)).toEqual(['        breakpoint already hit 1 time', '        ignore next 2 hits']);
    await say('condition 2 *(u64 *)counter == 1', 'c');
    expect(session.evaluate('*(u64 *)counter')).toBe(5n);
    expect((await say('info breakpoints'))[2]).toBe('        breakpoint already hit 4 times');
    expect(
      await say(
        'condition',
        'condition x 1',
        'condition 1 $',
        'condition 9 1',
        'ignore',
        'ignore 1',
        'ignore 9 1',
      ),
    ).toEqual([
      '! Argument required (breakpoint number).',
      '! x is not the number of a breakpoint',
      expect.stringMatching(/^! /),
      '! there is no breakpoint number 9',
      '! Argument required (breakpoint number).',
      '! Second argument (specified ignore-count) is missing.',
      '! there is no breakpoint number 9',
    ]);
    expect(session.breakpoints[0]?.condition).toBeNull();
    session.close();
  });
});
