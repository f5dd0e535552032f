import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { eventLine } from '../vector/report/event-line.js';
import type { DebugSession } from './session.js';
import { engine, ISAS, SCRATCH_STEPS, sessionOf, stateOf } from './testing.js';

afterAll(() => engine.close());

/** Pages are taken in front of the first one who asks for the map, which takes one, too. */
const STEPS = `${SCRATCH_STEPS}  - { kfunc: bpf_arena_alloc_pages, args: { map: a, page_cnt: 2 } }
  - { write: { at: counter, u64: a.map } }
`;

/** Looks at everything there is to see. */
function look(session: DebugSession): void {
  const page = session.evaluate('a.page(3)');
  for (const text of [
    'a.map',
    'pte(a.page(3))',
    'phys(a.page(3))',
    'a.scratch',
    'scratch(a)',
    '$pc',
    '*counter',
  ]) {
    try {
      session.evaluate(text);
    } catch (error) {
      expect(error).toMatchObject({ name: 'SessionError' });
    }
  }
  session.walk(page, 'write', true);
  session.disassemble(session.pc, 3, 2);
  for (const view of [
    'callStack',
    'path',
    'registers',
    'vmas',
    'kernelLayout',
    'arenas',
    'kfence',
    'symbols',
    'fixtureSteps',
  ] as const) {
    session[view]();
  }
}

describe.each(ISAS)('looking on %s', (isa) => {
  test('never changes the run, wherever it is done', async () => {
    const plain = await sessionOf(isa, STEPS);
    await plain.toEnd();
    const session = await sessionOf(isa, STEPS);
    look(session);
    while (session.result === null) {
      await session.nextFixtureStep();
      look(session);
    }
    expect(session.events.map(eventLine)).toEqual(plain.events.map(eventLine));
    expect(stateOf(session)).toBe(stateOf(plain));
    expect(session.readMemory(session.evaluate('counter'), 8)).toEqual(
      plain.readMemory(plain.evaluate('counter'), 8),
    );
    plain.close();
    session.close();
  });

  test('finds registers by the names that gdb has for them', async () => {
    const session = await sessionOf(isa, STEPS);
    await session.until(session.evaluate('write_word.store'));
    const same = {
      'x86-64': { fp: 'rbp', sp: 'rsp', eflags: 'rflags' },
      arm64: { fp: 'x29', lr: 'x30', cpsr: 'pstate' },
    };
    for (const [gdbs, own] of Object.entries(same[isa])) {
      expect([gdbs, session.evaluate(`$${gdbs}`)]).toEqual([gdbs, session.evaluate(`$${own}`)]);
    }
    const others = isa === 'arm64' ? 'eflags' : 'cpsr';
    expect(() => session.evaluate(`$${others}`)).toThrow(`there is no register \`${others}\` on ${isa}`);
    session.close();
  });

  test('says where the map is as soon as the run has given it a place', async () => {
    const session = await sessionOf(isa, STEPS);
    expect(() => session.evaluate('a.map')).toThrow(
      '`a.map` has no address here: nothing in the run has asked',
    );
    await session.toEnd();
    expect(session.evaluate('a.map')).toBe(session.evaluate('*counter'));
    session.close();
  });

  test('at tables that lead out of the ram shows what there is, and refuses the rest in words', async () => {
    const session = await sessionOf(isa, STEPS);
    const page = session.evaluate('a.page(3)');
    await session.until(session.evaluate('write_word.store'));
    // Tables where no ram is.
    for (const level of ['pmd', 'pud'] as const) {
      session.writeEntry(page, level, isa === 'arm64' ? 0xfff_ffff_f003n : 0x7_ffff_f067n);
      look(session);
      expect(session.arenas()[0]?.ranges.map(({ state }) => state)).not.toContain('allocated');
    }
    session.addBreakpoint({ kind: 'entry', va: page, level: null });
    for (const refused of [
      () => session.writeEntry(page, 'pte', 0n),
      () => session.writeMemory(page, Uint8Array.of(1)),
      () => session.evaluate('pte(a.page(3))'),
    ]) {
      expect(refused).toThrow(expect.objectContaining({ name: 'SessionError' }));
    }
    expect(session.changes.length).toBe(2);
    expect((await session.stepInstruction()).reason.kind).not.toBe('entry');
    session.close();
  });

  test('knows no code in a path that no code has led into', async () => {
    const session = await sessionOf(
      isa,
      '  - { kfunc: bpf_arena_alloc_pages, args: { map: a, page_cnt: 1 } }\n',
    );
    session.addBreakpoint({ kind: 'function', fn: 'bpf_arena_alloc_pages' });
    await session.continue();
    expect(session.callStack().map(({ kind, name }) => [kind, name])).toEqual([
      ['path', 'bpf_arena_alloc_pages'],
    ]);
    expect((await session.finish()).text).not.toContain('0x0');
    session.close();
  });
});

// Values as C gives them for unsigned long.
describe('the value of', () => {
  let session: DebugSession;
  beforeAll(async () => {
    session = await sessionOf('x86-64', SCRATCH_STEPS);
  });
  afterAll(() => session.close());

  test.each([
    ['1 + 2 == 3', 1n],
    ['1 | 2 == 2', 1n],
    ['6 & 3 == 3', 0n],
    ['(6 & 3) == 2', 1n],
    ['1 << 2 + 1 > 7', 1n],
    ['2 < 3 == 1', 1n],
    ['-1 < 0', 0n],
    ['!0 + !5', 1n],
    ['!!7', 1n],
    ['0 || 2', 1n],
    ['1 || 1 / 0', 1n],
    ['0 && 1 / 0', 0n],
    ['2 && 4', 1n],
    ['1 || 0 && 0', 1n],
    ['7 / 2 * 2 + 7 % 2', 7n],
    ['3 != 3', 0n],
    ['3 >= 3', 1n],
    ['4 <= 3', 0n],
  ])('%s is %s', (text, value) => {
    expect(session.evaluate(text)).toBe(value);
  });
});

test('what is no expression is said in words', async () => {
  const session = await sessionOf('x86-64', SCRATCH_STEPS);
  for (const [text, message] of [
    ['a.foo(1)', 'an arena has no `foo()`'],
    ['a.page()', 'a.page() takes the number of a page'],
    ['pte()', 'pte() takes 1 argument'],
    ['1 / 0', 'division by zero'],
    ['3 % (1 - 1)', 'division by zero'],
    ['*(u32)1', 'an operator is missing'],
    ['**0x10', 'Cannot access memory at address 0x10'],
    ['phys(1)', 'is not mapped'],
    ['$', 'means nothing in an expression'],
    ['a = 1', 'means nothing in an expression'],
  ] as const) {
    expect(() => session.evaluate(text)).toThrow(
      expect.objectContaining({ name: 'SessionError', message: expect.stringContaining(message) }),
    );
  }
  session.close();
});
