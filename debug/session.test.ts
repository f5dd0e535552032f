import { afterAll, describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import type { DebugSession, Stop } from './session.js';
import { engine, ISAS, OOPS_STEPS, SCRATCH_STEPS, sessionOf, stateOf } from './testing.js';

afterAll(() => engine.close());

/** `tick kind` of a stop, and pc's symbol without size in code. */
function shown(session: DebugSession, { reason, position }: Stop): string {
  const at = position.place === 'code' ? ` ${session.nameOf(position.pc)?.replace(/\/0x.*/, '')}` : '';
  return `${reason.kind}${at}`;
}

/** Steps, all four kinds. Their order says how far a fixture has to go. */
const STEPS = `${SCRATCH_STEPS}  - { write: { at: counter, u64: 5 } }
  - { call: spin, registers: { ARG0: 5, ARG1: counter } }
  - { kfunc: bpf_arena_alloc_pages, args: { map: a, page_cnt: 1 } }
  - { call: touch, registers: { ARG0: 0x10 } }
`;

describe.each(ISAS)('a session on %s', (isa) => {
  test('begins before the first step, and ends with the result of the fixture', async () => {
    const session = await sessionOf(isa, OOPS_STEPS);
    expect(session.stop).toMatchObject({
      reason: { kind: 'start' },
      position: { tick: 0, place: 'start', step: null },
    });
    const end = await session.continue();
    expect(end).toMatchObject({ reason: { kind: 'end', status: 'failed' }, position: { place: 'end' } });
    expect(session.result?.failures.map(({ where }) => where)).toEqual(['step 2 expect.outcome']);
    await expect(session.stepInstruction()).rejects.toThrow('only goes back');
    const back = await session.stepInstructionBack();
    expect(back.position.place).toBe('code');
    expect(shown(session, back)).toBe('stepped touch+0x0');
    expect(session.result).toBeNull();
    session.close();
  });

  test('goes through a scratch install decision by decision, and back the same way', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const before = session.events.length;
    session.addBreakpoint({ kind: 'fault', exception: null }, { temporary: true });
    const fault = await session.continue();
    expect(fault.reason).toMatchObject({ kind: 'fault', event: { address: session.evaluate('a.page(3)') } });
    expect(session.breakpoints).toEqual([]);
    const there: Stop[] = [];
    for (;;) {
      const stop = await session.stepPath();
      if (stop.reason.kind === 'end') break;
      there.push(stop);
    }
    const decisions = there.map(({ reason }) =>
      reason.kind === 'path' && reason.event.type === 'decide'
        ? `${reason.event.fn}: ${reason.event.test}`
        : reason.kind,
    );
    expect(decisions).toContainEqual(expect.stringContaining('bpf_arena_handle_page_fault: '));
    // Every decision of the run, in its order.
    const all = session.events
      .slice(before)
      .flatMap((event) => (event.type === 'decide' ? [`${event.fn}: ${event.test}`] : []));
    expect(decisions).toEqual(all);
    for (const stop of there.reverse()) {
      const back = await session.stepPathBack();
      expect(back).toEqual(stop);
    }
    expect((await session.stepPathBack()).reason).toEqual({ kind: 'history-begin' });
    session.close();
  });

  test('shows the path as a stack with its decisions so far, and as it went afterwards', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    session.addBreakpoint({ kind: 'scratch' });
    const stop = await session.continue();
    expect(stop.reason).toMatchObject({ kind: 'scratch', hit: { id: 1 } });
    const during = session.path();
    expect(during.over).toBe(false);
    expect(during.stack.map(({ fn }) => fn)).toContain('bpf_arena_handle_page_fault');
    expect(during.stack.at(-1)?.open).toBe(true);
    expect(session.arenas()[0]?.ranges.filter(({ state }) => state === 'scratch')).toEqual([
      { first: 3, last: 3, state: 'scratch' },
    ]);
    expect(session.walk(session.evaluate('a.page(3)'), 'write', false)).toMatchObject({
      ok: true,
      rights: 'rw',
    });
    const frames = session.callStack();
    expect(frames[0]?.kind).toBe('path');
    expect(frames.filter(({ kind }) => kind === 'code').map(({ name }) => name.replace(/\+.*/, ''))).toEqual([
      'write_word',
      expect.stringMatching(/^bpf_prog_[0-9a-f]{16}_demo$/),
      expect.stringMatching(/^ret_from_fork/),
    ]);
    const finished = await session.finishFault();
    expect(finished.reason).toMatchObject({ kind: 'resolved', event: { how: 'retry' } });
    const after = session.path();
    expect(after.over).toBe(true);
    expect(after.stack).toEqual([]);
    expect(after.calls.length).toBe(1);
    expect(after.calls[0]?.open).toBe(false);
    expect(after.fault?.address).toBe(session.evaluate('a.page(3)'));
    session.close();
  });

  test('steps into and over calls and faults, finishes functions, and undoes each of it', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const call = isa === 'x86-64' ? 2 : 2;
    for (let i = 0; i <= call; i++) await session.stepInstruction();
    const atCall = session.position;
    const over = await session.stepOver();
    const behind = session.position;
    expect(shown(session, over)).toMatch(/^stepped bpf_prog_\w+_demo\+0x[0-9a-f]$/);
    expect(behind.instructions).toBeGreaterThan(atCall.instructions + 5);
    expect((await session.stepOverBack()).position).toEqual(atCall);
    const into = await session.stepInstruction();
    expect(shown(session, into)).toBe('stepped write_word+0x0');
    expect((await session.stepInstructionBack()).position).toEqual(atCall);
    await session.stepInstruction();
    await session.until(session.evaluate('write_word.store'));
    const store = session.position;
    // A fault that is recovered is stepped over with its instruction.
    const stored = await session.stepOver();
    expect(stored.position.instructions).toBe(store.instructions + 1);
    // Behind the fault the instruction begins once more.
    await session.stepOverBack();
    expect(session.position.pc).toBe(store.pc);
    expect((await session.stepOverBack()).position).toEqual(store);
    const finished = await session.finish();
    expect(finished.reason).toMatchObject({ kind: 'finished', fn: 'write_word' });
    expect(finished.position).toEqual(behind);
    await session.toTick(store.tick);
    expect((await session.finishBack()).position).toEqual(atCall);
    const outer = await session.finish();
    expect(outer.reason).toMatchObject({ kind: 'fixture-step', phase: 'ended' });
    session.close();
  });

  test('finishes a function from its first instruction and from its last one, and goes back to its call', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    await session.until(session.evaluate('write_word'));
    const entry = session.position;
    const names = session.callStack().map(({ name }) => name.replace(/\+.*/, ''));
    expect(names.slice(0, 2)).toEqual(['write_word', expect.stringMatching(/^bpf_prog_\w+_demo$/)]);
    const back = await session.finishBack();
    expect(back.position.tick).toBe(entry.tick - 1);
    await session.toTick(entry.tick);
    const behind = await session.finish();
    expect(behind).toMatchObject({ reason: { kind: 'finished', fn: 'write_word' } });
    await session.toTick(behind.position.tick - 1);
    expect(session.disassemble(session.pc, 1)[0]?.text).toMatch(/^ret/);
    expect((await session.finish()).position).toEqual(behind.position);
    await session.toTick(behind.position.tick - 1);
    expect((await session.finishBack()).position).toEqual(back.position);
    session.close();
  });

  test('finishes ported functions, and goes back to their entries', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    session.addBreakpoint({ kind: 'function', fn: 'bpf_arena_handle_page_fault' });
    const entry = await session.continue();
    expect(entry.reason).toMatchObject({ kind: 'function', event: { fn: 'bpf_arena_handle_page_fault' } });
    const at = session.position;
    await session.stepPath();
    const done = await session.finish();
    expect(done.reason).toMatchObject({ kind: 'finished', fn: 'bpf_arena_handle_page_fault', value: true });
    expect((await session.stepOverBack()).position).toEqual(at);
    expect((await session.stepOver()).position).toEqual(done.position);
    await session.stepPathBack();
    // Decisions of functions that it has called come last: each step leads one call out.
    for (let calls = 0; calls < 4 && session.position.tick > at.tick; calls++) await session.finishBack();
    expect(session.position).toEqual(at);
    const begin = await session.finishFaultBack();
    expect(begin.position).toMatchObject({ place: 'code', pc: session.evaluate('write_word.store') });
    session.close();
  });

  test('moves by steps of the fixture, and says how each of them went', async () => {
    const session = await sessionOf(isa, OOPS_STEPS);
    expect(session.fixtureSteps().map(({ state }) => state)).toEqual(['waiting', 'waiting']);
    const phases: string[] = [];
    for (;;) {
      const { reason, position } = await session.nextFixtureStep();
      if (reason.kind !== 'fixture-step') break;
      phases.push(`${reason.phase} ${position.step?.join(' ')}`);
      if (phases.length === 3) {
        expect(session.fixtureSteps().map(({ state }) => state)).toEqual(['passed', 'running']);
        expect(session.currentStep()).toMatchObject({ where: 'step 2', text: 'call touch' });
      }
    }
    expect(phases).toEqual(['begins steps 0', 'ended steps 0', 'begins steps 1', 'ended steps 1']);
    expect(session.fixtureSteps().map(({ state, failures }) => [state, failures.length])).toEqual([
      ['passed', 0],
      ['failed', 1],
    ]);
    await session.nextFixtureStepBack();
    await session.nextFixtureStepBack();
    expect(session.stop.reason).toMatchObject({ kind: 'fixture-step', phase: 'begins' });
    expect(session.position.step).toEqual(['steps', 1]);
    session.close();
  });

  test('comes to the state of a straight run, whatever the way', async () => {
    const straight = await sessionOf(isa, STEPS);
    await straight.toEnd();
    const length = straight.position.tick;
    const move = fc.constantFrom(
      'stepInstruction',
      'stepOver',
      'stepPath',
      'finish',
      'nextFixtureStep',
      'stepInstructionBack',
      'stepOverBack',
      'stepPathBack',
      'finishBack',
      'nextFixtureStepBack',
      'continue',
      'continueBack',
    );
    const session = await sessionOf(isa, STEPS);
    session.addBreakpoint({ kind: 'address', address: session.evaluate('write_word.store') });
    const seen: { readonly tick: number; readonly way: string; readonly state: string }[] = [];
    await fc.assert(
      fc.asyncProperty(
        fc.nat(length - 1),
        fc.array(move, { minLength: 1, maxLength: 6 }),
        async (from, moves) => {
          await session.toTick(from);
          let way = `${from}`;
          for (const name of moves) {
            const before = session.position.tick;
            way += ` ${name}`;
            try {
              await session[name as 'stepInstruction']();
            } catch (error) {
              // There is nothing to be finished, or no way on from the end.
              expect((error as Error).name).toBe('SessionError');
              continue;
            }
            const { tick } = session.position;
            if (name.endsWith('Back')) expect(tick).toBeLessThan(Math.max(before, 1));
            else expect(tick).toBeGreaterThan(before);
            seen.push({ tick, way, state: stateOf(session) });
          }
        },
      ),
      { numRuns: 8, seed: 8 },
    );
    // All that was seen, in one run straight through the places.
    await straight.toStart();
    const states = new Map<number, string>();
    for (const { tick, way, state } of seen.sort((a, b) => a.tick - b.tick)) {
      if (tick > straight.position.tick) await straight.toTick(tick);
      if (!states.has(tick)) states.set(tick, stateOf(straight));
      expect([straight.position.tick, way, state]).toEqual([tick, way, states.get(tick)]);
    }
    expect(states.size).toBeGreaterThan(10);
    session.close();
    straight.close();
  });

  test('a step back undoes a step, from every place of a run', async () => {
    const session = await sessionOf(isa, STEPS);
    const ticks: number[] = [];
    while (session.result === null) {
      await session.stepInstruction();
      if (session.position.place === 'code') ticks.push(session.position.tick);
    }
    for (const tick of ticks.reverse()) {
      await session.stepInstructionBack();
      // Places that a step goes past are those where a fault is over.
      while (session.position.tick > tick) await session.stepInstructionBack();
      expect(session.position.tick).toBe(tick);
    }
    await session.stepInstructionBack();
    expect(session.stop.reason.kind).toBe('history-begin');
    session.close();
  });

  test('goes back by one at instruction 1,000,000', async () => {
    const session = await sessionOf(isa, '  - { call: spin, registers: { ARG0: 400000, ARG1: counter } }\n');
    await session.toTick(1_000_002);
    const { pc, instructions } = session.position;
    expect(instructions).toBe(1_000_000);
    const counted = session.readMemory(session.evaluate('counter'), 8);
    await session.stepInstructionBack();
    expect(session.position.instructions).toBe(999_999);
    await session.stepInstruction();
    expect(session.position).toMatchObject({ pc, instructions });
    expect(session.readMemory(session.evaluate('counter'), 8)).toEqual(counted);
    session.close();
  });

  test('is interrupted where it is, and goes on', async () => {
    const session = await sessionOf(isa, '  - { call: spin, registers: { ARG0: 3000000, ARG1: counter } }\n');
    const running = session.continue();
    expect(session.running).toBe(true);
    await expect(session.stepInstruction()).rejects.toThrow('interrupt it first');
    setImmediate(() => session.interrupt());
    const stop = await running;
    expect(stop.reason.kind).toBe('interrupted');
    expect(stop.position.place).toBe('code');
    expect((await session.continue()).reason.kind).toBe('end');
    session.close();
    await expect(session.toStart()).rejects.toThrow('closed');
  });
});
