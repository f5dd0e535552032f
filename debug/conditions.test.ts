import { afterAll, describe, expect, test } from '@jest/globals';
import type { DebugSession } from './session.js';
import { ARGS, engine, ISAS, SCRATCH_STEPS, sessionOf } from './testing.js';

afterAll(() => engine.close());

const SPIN = '  - { call: spin, registers: { ARG0: 6, ARG1: counter } }\n';

/** What the counter says at each stop, to the end or back to the start. */
async function counts(session: DebugSession, move: 'continue' | 'continueBack'): Promise<number[]> {
  const counter = session.evaluate('counter');
  const found: number[] = [];
  for (let i = 0; i < 20; i++) {
    const { reason } = await session[move]();
    if (reason.kind === 'end' || reason.kind === 'history-begin') return found;
    found.push(session.readMemory(counter, 1)?.[0] ?? -1);
  }
  throw new Error('there is no end to it');
}

describe.each(ISAS)('conditions on %s', (isa) => {
  const [arg] = ARGS[isa];

  test('let a breakpoint stop where they hold, both ways, and count where they hold', async () => {
    const session = await sessionOf(isa, SPIN);
    const spec = session.breakpointAt('spin.loop');
    // The register counts down from 6, memory up from 0: the third and the fifth time round.
    const condition = `$${arg} <= 4 && *(u64 *)counter % 2 == 0`;
    const { id } = session.addBreakpoint(spec, { condition });
    expect(await counts(session, 'continue')).toEqual([2, 4]);
    expect(session.breakpoints).toMatchObject([{ condition, hits: 2, ignore: 0 }]);
    expect(await counts(session, 'continueBack')).toEqual([4, 2]);
    // Backwards nothing is counted.
    expect(session.breakpoints[0]?.hits).toBe(2);
    session.setCondition(id, '*(u8 *)counter == 1');
    expect(await counts(session, 'continue')).toEqual([1]);
    session.setCondition(id, null);
    expect(session.breakpoints[0]?.condition).toBeNull();
    expect(await counts(session, 'continueBack')).toEqual([5, 4, 3, 2, 1, 0]);
    session.close();
  });

  test('hits that are passed over are counted, and only forwards', async () => {
    const session = await sessionOf(isa, SPIN);
    const spec = session.breakpointAt('spin.loop');
    session.addBreakpoint(spec, { ignore: 2, condition: '*(u64 *)counter != 1' });
    session.addBreakpoint(spec, { temporary: true, ignore: 4 });
    expect(await counts(session, 'continue')).toEqual([3, 4, 5]);
    expect(session.breakpoints).toMatchObject([{ id: 1, hits: 5, ignore: 0 }]);
    session.setIgnore(1, 9);
    expect(await counts(session, 'continueBack')).toEqual([5, 4, 3, 2, 0]);
    expect(session.breakpoints).toMatchObject([{ hits: 5, ignore: 9 }]);
    expect(await counts(session, 'continue')).toEqual([]);
    expect(session.breakpoints).toMatchObject([{ hits: 10, ignore: 4 }]);
    session.close();
  });

  test('all breakpoints at a place are counted, and a watchpoint has conditions like any other', async () => {
    const session = await sessionOf(isa, SPIN);
    session.addBreakpoint(session.breakpointAt('spin.loop'));
    session.addBreakpoint(session.breakpointAt('spin.loop'), { condition: `$${arg} == 6` });
    session.addBreakpoint(session.breakpointAt('spin.loop'), { temporary: true });
    await session.continue();
    expect(session.breakpoints.map(({ id, hits }) => [id, hits])).toEqual([
      [1, 1],
      [2, 1],
    ]);
    session.enableBreakpoint(1, false);
    const address = session.evaluate('counter');
    session.addBreakpoint(
      { kind: 'watch', address, length: 8, access: 'write' },
      { condition: '*(u32 *)counter == 3 || *(u32 *)counter == 5' },
    );
    expect(await counts(session, 'continue')).toEqual([3, 5]);
    expect(await counts(session, 'continueBack')).toEqual([5, 3, 0]);
    session.close();
  });

  test('that have no value stop, and the stop says why', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const condition = '*(u32 *)a.page(3) == 0x1234';
    session.addBreakpoint(session.breakpointAt('write_word.store'), { condition });
    const unmapped = await session.continue();
    expect(unmapped.reason).toMatchObject({ kind: 'breakpoint', hit: { id: 1 } });
    const page = `0x${session.evaluate('a.page(3)').toString(16)}`;
    expect(unmapped.text.split('\n').slice(0, 3)).toEqual([
      'Error in testing condition for breakpoint 1:',
      `Cannot access memory at address ${page}`,
      expect.stringMatching(/^Breakpoint 1, /),
    ]);
    const holds = await session.continue();
    expect(holds.text).toMatch(/^Breakpoint 1, /);
    session.close();
  });

  test('are refused where they are no expressions, and nothing is changed', async () => {
    const session = await sessionOf(isa, SPIN);
    const spec = session.breakpointAt('spin.loop');
    for (const [condition, message] of [
      ['$rzx == 1', 'no register `rzx`'],
      ['1 ==', 'a number, a name or ( is missing here'],
      ['', 'an expression is missing here'],
      ['*(u33 *)counter', 'u33'],
      ['conter == 1', 'did you mean `counter`'],
      ['a == 1', 'arena `a` is no number by itself'],
    ] as const) {
      expect(() => session.addBreakpoint(spec, { condition })).toThrow(message);
    }
    expect(() => session.addBreakpoint(spec, { ignore: -1 })).toThrow('-1 is no number of hits');
    expect(session.breakpoints).toEqual([]);
    session.addBreakpoint(spec, { condition: '1' });
    expect(() => session.setCondition(1, '1 +')).toThrow('missing here');
    expect(() => session.setCondition(2, '1')).toThrow('no breakpoint number 2');
    expect(() => session.setIgnore(1, 0.5)).toThrow('0.5 is no number of hits');
    expect(session.breakpoints).toMatchObject([{ condition: '1', ignore: 0 }]);
    session.close();
  });
});
