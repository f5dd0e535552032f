import { afterAll, describe, expect, test } from '@jest/globals';
import { ARGS, engine, ISAS, SCRATCH_STEPS, sessionOf, stateOf } from './testing.js';

afterAll(() => engine.close());

const SPIN = '  - { call: spin, registers: { ARG0: 4, ARG1: counter } }\n';

describe.each(ISAS)('changes on %s', (isa) => {
  const [arg] = ARGS[isa];

  test('of a register and of memory have their effect, and are made again when the run comes past', async () => {
    const session = await sessionOf(isa, SPIN);
    const counter = session.evaluate('counter');
    await session.until(session.evaluate('spin.loop'));
    const { tick } = session.position;
    expect(session.writeRegister(arg, 9n).text).toBe(`${arg} = 0x9`);
    session.writeMemory(counter, Uint8Array.of(100));
    expect(session.registers().find(({ name }) => name === arg)).toMatchObject({ value: 9n, changed: true });
    expect(session.changes.map((each) => each.tick)).toEqual([tick, tick]);
    await session.toEnd();
    expect(session.readMemory(counter, 1)).toEqual(Uint8Array.of(109));
    const state = stateOf(session);
    await session.toStart();
    expect(session.readMemory(counter, 1)).toEqual(Uint8Array.of(0));
    await session.continue();
    expect(stateOf(session)).toBe(state);
    // A step back from behind them stands on the changed machine.
    await session.toTick(tick);
    expect(session.register(arg)).toBe(9n);
    await session.dropChanges();
    expect(session.changes).toEqual([]);
    await session.toEnd();
    expect(session.readMemory(counter, 1)).toEqual(Uint8Array.of(4));
    expect(() => session.writeRegister(arg, 1n)).toThrow('the run is over');
    session.close();
  });

  test('of pc make code go on elsewhere', async () => {
    const session = await sessionOf(isa, SPIN);
    await session.until(session.evaluate('spin.loop'));
    session.writeRegister('pc', session.evaluate('touch.load'));
    session.writeRegister(arg, session.evaluate('counter'));
    expect(session.nameOf(session.pc)).toMatch(/^touch/);
    await session.stepInstruction();
    expect(session.nameOf(session.pc)).toMatch(/^touch\+0x[34]\//);
    expect((await session.continue()).reason).toMatchObject({ kind: 'end', status: 'passed' });
    session.close();
  });

  test('of pc stop at a breakpoint that it is put to, each time and both ways, and go on from there', async () => {
    const session = await sessionOf(isa, SPIN);
    const [from, to] = ['spin.loop', 'touch.load'].map((each) => session.evaluate(each)) as [bigint, bigint];
    for (const address of [from, to]) session.addBreakpoint({ kind: 'address', address });
    await session.continue();
    session.writeRegister('pc', to);
    session.writeRegister(arg, session.evaluate('counter'));
    const { tick } = session.position;
    const reached = { reason: { kind: 'breakpoint', pc: to }, position: { tick, pc: to } };
    expect(await session.continue()).toMatchObject(reached);
    expect((await session.stepInstruction()).reason.kind).toBe('stepped');
    expect(await session.continueBack()).toMatchObject(reached);
    expect((await session.continueBack()).reason.kind).toBe('history-begin');
    expect(await session.continue()).toMatchObject(reached);
    expect((await session.continue()).reason).toMatchObject({ kind: 'end', status: 'passed' });
    // Put back to where it stopped, it has stopped there already.
    await session.toTick(tick);
    session.writeRegister('pc', from);
    session.writeRegister('pc', to);
    expect((await session.stepInstruction()).reason.kind).toBe('stepped');
    session.close();
  });

  test('in a path are what the code goes on with', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    session.addBreakpoint({ kind: 'scratch' });
    await session.continue();
    // The store is tried again, to another page, which is not there either.
    session.writeRegister(arg, session.evaluate('a.page(5)'));
    expect(session.register(arg)).toBe(session.evaluate('a.page(5)'));
    const again = await session.continue();
    expect(again.reason).toMatchObject({ kind: 'scratch' });
    await session.finishFault();
    expect(session.arenas()[0]?.ranges.filter(({ state }) => state === 'scratch')).toEqual([
      { first: 3, last: 3, state: 'scratch' },
      { first: 5, last: 5, state: 'scratch' },
    ]);
    session.close();
  });

  test('of a table entry are what the next access finds', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    await session.until(session.evaluate('write_word.store'));
    const scratched = session.evaluate('a.page(3)');
    // The entry of a page that is mapped: the arena's address leads there now, and nothing faults.
    const donor = session.walk(session.evaluate('counter'), 'write', false);
    const entry = donor.levels.at(-1)?.entry ?? 0n;
    session.writeEntry(scratched, null, entry);
    expect(session.walk(scratched, 'write', false)).toMatchObject({ ok: true, pa: donor.pa });
    const stop = await session.stepInstruction();
    expect(stop.reason.kind).toBe('stepped');
    expect(session.readMemory(session.evaluate('counter'), 2)).toEqual(Uint8Array.of(0x34, 0x12));
    session.close();
  });

  test('made earlier make the session forget those further on, and it says so', async () => {
    const session = await sessionOf(isa, SPIN);
    await session.until(session.evaluate('spin.loop'));
    const first = session.position.tick;
    await session.stepInstruction();
    await session.stepInstruction();
    session.writeMemory(session.evaluate('counter') + 8n, Uint8Array.of(1));
    session.writePhysical(session.ram.base + session.ram.size - 8, Uint8Array.of(1, 2));
    await session.toTick(first);
    const result = session.writeMemory(session.evaluate('counter') + 16n, Uint8Array.of(2));
    expect(result.dropped.map(({ change }) => change.kind)).toEqual(['memory', 'physical']);
    expect(result.text).toContain('2 changes made further on are forgotten');
    expect(session.changes.length).toBe(1);
    session.close();
  });

  test('of what is not there are refused in words, and nothing is recorded', async () => {
    const session = await sessionOf(isa, SPIN);
    expect(() => session.writeMemory(0x10n, Uint8Array.of(1))).toThrow('0x10 is not mapped');
    expect(() => session.writePhysical(session.ram.base + session.ram.size, Uint8Array.of(1))).toThrow(
      'outside of the ram',
    );
    expect(() => session.writeEntry(session.evaluate('a.page(0)') + 0x4000_0000_0000n, 'pte', 0n)).toThrow(
      'no entry at level pte',
    );
    expect(() => session.writeRegister('nothing', 1n)).toThrow('no register `nothing`');
    expect(session.changes).toEqual([]);
    session.close();
  });
});

test('a register that the machine cannot run by is not changed', async () => {
  const session = await sessionOf('arm64', SPIN);
  await session.stepInstruction();
  const before = session.register('tcr_el1');
  // TG1, bits 31:30: 0b10 is a granule of 4 KiB, 0b11 one of 64 KiB, which is not modelled.
  expect((before >> 30n) & 3n).toBe(2n);
  expect(() => session.writeRegister('tcr_el1', before | (1n << 30n))).toThrow(
    expect.objectContaining({
      name: 'SessionError',
      message: expect.stringMatching(/^tcr_el1 cannot be changed: /),
    }),
  );
  expect(session.register('tcr_el1')).toBe(before);
  expect(session.changes).toEqual([]);
  expect((await session.stepInstruction()).reason.kind).toBe('stepped');
  session.close();
});
