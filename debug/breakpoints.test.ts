import { afterAll, describe, expect, test } from '@jest/globals';
import { type DebugSession, type StopReason, stopText } from './session.js';
import { hitIds } from './stop.js';
import { ARGS, engine, ISAS, OOPS_STEPS, SCRATCH_STEPS, sessionOf, sessionOfFile } from './testing.js';

afterAll(() => engine.close());

/** What of stops can be compared: events are about objects of their own machine. */
const texts = (found: readonly [number, StopReason][]): string[] =>
  found.map(([tick, reason]) => `${tick} ${stopText(reason, () => null)}`);

/** Stops up to the end, forwards. */
async function stops(session: DebugSession): Promise<[number, StopReason][]> {
  const found: [number, StopReason][] = [];
  for (let i = 0; i < 40; i++) {
    const { reason, position } = await session.continue();
    if (reason.kind === 'end') return found;
    found.push([position.tick, reason]);
  }
  throw new Error('there is no end to it');
}

/** The same backwards, from where the session stands. */
async function stopsBack(session: DebugSession): Promise<[number, StopReason][]> {
  const found: [number, StopReason][] = [];
  for (let i = 0; i < 40; i++) {
    const { reason, position } = await session.continueBack();
    if (reason.kind === 'history-begin') return found.reverse();
    found.push([position.tick, reason]);
  }
  throw new Error('there is no end to it');
}

const SPIN = '  - { call: spin, registers: { ARG0: 4, ARG1: counter } }\n';

const KFENCE = 'kfence: { sample_interval: 100, objects: 4 }\ncaches: { c: { size: 64 } }';
const KFENCE_STEPS = `
  - slab: kmem_cache_alloc
    args: { cache: c }
    allocations: [{ slot: 0, side: right }]
  - { call: touch, registers: { ARG0: kfence.object(0) + 64 } }
`;

const ZEROES = [0, 0, 0, 0, 0, 0, 0];

describe.each(ISAS)('breakpoints on %s', (isa) => {
  test('on an exception take its name as people write it, and no other', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const [typed, name, wrong, meant] =
      isa === 'arm64' ? ['data abort', 'Data Abort', 'Data Abor', 'Data Abort'] : ['pf', '#PF', '#PG', '#GP'];
    const set = session.addBreakpoint({ kind: 'fault', exception: typed });
    expect(set.spec).toEqual({ kind: 'fault', exception: name });
    const { reason } = await session.continue();
    expect(reason).toMatchObject({ kind: 'fault', hit: { id: set.id }, event: { exception: name } });
    expect(() => session.addBreakpoint({ kind: 'fault', exception: wrong })).toThrow(
      `there is no exception \`${wrong}\` on ${isa}: did you mean \`${meant}\`?`,
    );
  });

  test('that are hit at once are all named, both ways', async () => {
    const session = await sessionOf(isa, SPIN);
    const code = { kind: 'address', address: session.evaluate('spin.loop') } as const;
    const watch = {
      kind: 'watch',
      address: session.evaluate('counter'),
      length: 8,
      access: 'write',
    } as const;
    session.addBreakpoint(watch);
    session.addBreakpoint({ ...watch, length: 1 });
    session.addBreakpoint(code, { condition: '0' });
    const named = ['Watchpoint 1:', 'Watchpoint 2:'];
    const heads = (text: string): string[] => text.match(/^(Watchpoint|Breakpoint) \d+[:,]/gm) ?? [];
    const first = await session.continue();
    expect(heads(first.text)).toEqual(named);
    expect(hitIds(first)).toEqual([1, 2]);
    expect(hitIds(await session.continue())).toEqual([1, 2]);
    const back = await session.continueBack();
    expect(heads(back.text)).toEqual(named);
    expect([hitIds(back), back.position.tick]).toEqual([[1, 2], first.position.tick]);
    // Code is come to where it stands for something else: that is a hit as well.
    for (const { id } of session.breakpoints) session.removeBreakpoint(id);
    const { pc } = first.position;
    const there = [session.addBreakpoint(watch), session.addBreakpoint({ kind: 'address', address: pc })];
    await session.toStart();
    expect(hitIds(await session.continue())).toEqual(there.map(({ id }) => id));
    expect(session.breakpoints.map(({ hits }) => hits)).toEqual([1, 1]);
  });

  test('on an address stop before the instruction each time it is come to, but not when it is tried again', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const spec = session.breakpointAt('write_word.store');
    session.addBreakpoint(spec);
    const there = await stops(session);
    expect(there.map(([, reason]) => reason)).toMatchObject([
      { kind: 'breakpoint', pc: session.evaluate('write_word.store'), hit: { id: 1 } },
      { kind: 'breakpoint', pc: session.evaluate('write_word.store') },
    ]);
    expect(session.breakpoints).toMatchObject([{ id: 1, hits: 2, enabled: true }]);
    expect(texts(await stopsBack(session))).toEqual(texts(there));
    session.enableBreakpoint(1, false);
    expect(await stops(session)).toEqual([]);
    session.close();
  });

  test('on symbols, in a loop, temporary or removed', async () => {
    const session = await sessionOf(isa, SPIN);
    session.addBreakpoint(session.breakpointAt('spin'), { temporary: true });
    const loop = session.addBreakpoint(session.breakpointAt('spin.loop'));
    const there = await stops(session);
    const pcs = there.map(([, reason]) =>
      reason.kind === 'breakpoint' ? session.nameOf(reason.pc) : reason.kind,
    );
    expect(pcs.filter((name) => name === session.nameOf(session.evaluate('spin.loop'))).length).toBe(
      isa === 'x86-64' ? 4 : 4,
    );
    expect(session.breakpoints.map(({ id }) => id)).toEqual([loop.id]);
    session.removeBreakpoint(loop.id);
    expect(session.breakpoints).toEqual([]);
    session.close();
  });

  test('on ported functions, any fault, the scratch page, and steps of the fixture', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    session.addBreakpoint({ kind: 'fixture-step', number: 2 });
    session.addBreakpoint({ kind: 'fault', exception: null });
    session.addBreakpoint({ kind: 'scratch' });
    session.addBreakpoint(session.breakpointAt('bpf_arena_handle_page_fault'));
    session.addBreakpoint({ kind: 'fault', exception: isa === 'arm64' ? 'PC Alignment' : '#SS' });
    const there = await stops(session);
    expect(there.map(([, { kind }]) => kind)).toEqual(['fault', 'function', 'scratch', 'fixture-step']);
    expect(texts(await stopsBack(session))).toEqual(texts(there));
    session.close();
  });

  test('on an oops, and on lines of the console', async () => {
    const session = await sessionOf(isa, OOPS_STEPS);
    session.addBreakpoint({ kind: 'console', text: 'address: 0000000000000010' });
    session.addBreakpoint({ kind: 'console', text: 'at virtual address 0000000000000010' });
    session.addBreakpoint({ kind: 'oops' });
    const there = await stops(session);
    expect(there.map(([, { kind }]) => kind)).toContain('oops');
    const [, oops] = there.find(([, { kind }]) => kind === 'oops') ?? [];
    expect(oops?.kind === 'oops' && oops.title).toMatch(/^(Oops: |Internal error: Oops: )/);
    expect(texts(await stopsBack(session))).toEqual(texts(there));
    session.close();
  });

  test('on a fault in the KFENCE pool', async () => {
    const session = await sessionOf(isa, KFENCE_STEPS, KFENCE);
    session.addBreakpoint({ kind: 'kfence' });
    const there = await stops(session);
    expect(there.map(([, reason]) => reason)).toMatchObject([
      { kind: 'kfence', address: session.evaluate('kfence.object(0) + 64') },
    ]);
    expect(session.kfence()).toMatchObject({
      enabled: true,
      objects: [{ slot: 0, state: 'allocated', size: 64 }, {}, {}, {}],
    });
    session.close();
  });

  test('watchpoints see writes by comparison, reads and other accesses, exactly', async () => {
    const session = await sessionOf(isa, SPIN);
    const counter = session.evaluate('counter');
    session.addBreakpoint({ kind: 'watch', address: counter, length: 8, access: 'write' });
    const writes = await stops(session);
    expect(
      writes.map(([, reason]) =>
        reason.kind === 'watchpoint'
          ? [reason.hit.access, reason.hit.before?.[0], reason.hit.after?.[0]]
          : [],
      ),
    ).toEqual([0, 1, 2, 3].map((n) => ['write', n, n + 1]));
    expect(texts(await stopsBack(session))).toEqual(texts(writes));

    session.removeBreakpoint(1);
    session.addBreakpoint({ kind: 'watch', address: counter + 4n, length: 1, access: 'write' });
    expect(await stops(session)).toEqual([]);
    await session.toStart();
    session.removeBreakpoint(2);
    session.addBreakpoint({ kind: 'watch', address: counter + 2n, length: 1, access: 'read' });
    const reads = await stops(session);
    expect(reads.map(([, reason]) => reason.kind === 'watchpoint' && reason.hit.access)).toEqual(
      Array(4).fill('read'),
    );
    expect(texts(await stopsBack(session))).toEqual(texts(reads));
    session.removeBreakpoint(3);
    session.addBreakpoint({ kind: 'watch', address: counter, length: 8, access: 'access' });
    const both = await stops(session);
    // One instruction of x86 does both; two of arm64.
    expect(both.length).toBe(isa === 'x86-64' ? 4 : 8);
    session.close();
  });

  test('a watchpoint on an arena page sees the scratch page come, and what is stored in it', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const page = session.evaluate('a.page(3)');
    session.addBreakpoint({ kind: 'watch', address: page, length: 4, access: 'write' });
    const there = await stops(session);
    expect(there.map(([, { kind }]) => kind)).toEqual(['watchpoint', 'watchpoint']);
    const [first, second] = there.map(([, reason]) => (reason.kind === 'watchpoint' ? reason.hit : null));
    expect([first?.before, first?.after]).toEqual([null, Uint8Array.of(0, 0, 0, 0)]);
    expect([second?.before, second?.after]).toEqual([
      Uint8Array.of(0, 0, 0, 0),
      Uint8Array.of(0x34, 0x12, 0, 0),
    ]);
    expect(texts(await stopsBack(session))).toEqual(texts(there));
    session.close();
  });

  test('a watchpoint on a table entry sees each of its changes', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const page = session.evaluate('a.page(3)');
    session.addBreakpoint({ kind: 'entry', va: page, level: null });
    const there = await stops(session);
    const [first] = there.map(([, reason]) => (reason.kind === 'entry' ? reason.hit : null));
    expect([first?.va, first?.level, first?.before]).toEqual([page, 'pte', 0n]);
    expect((first?.after ?? 0n) !== 0n).toBe(true);
    expect(texts(await stopsBack(session))).toEqual(texts(there));
    session.close();
  });

  test('what another process has at a watched address is no change, and what it writes there is', async () => {
    const session = await sessionOfFile(isa, 'arena-is-not-inherited-by-a-child');
    const address = session.evaluate('word');
    session.addBreakpoint({ kind: 'watch', address, length: 8, access: 'write' });
    const forwards = await stops(session);
    const seen = forwards.map(([, reason]) => ('hit' in reason ? reason.hit : null));
    // The child writes; it, its child, and another child of the parent end.
    expect(seen).toMatchObject([
      { before: Uint8Array.of(0x11, ...ZEROES), after: Uint8Array.of(0x33, ...ZEROES) },
      { before: Uint8Array.of(0x33, ...ZEROES), after: null },
      { before: Uint8Array.of(0x33, ...ZEROES), after: null },
      { before: Uint8Array.of(0x11, ...ZEROES), after: null },
    ]);
    expect(texts(await stopsBack(session))).toEqual(texts(forwards));
  });

  test('what cannot be is said in words', async () => {
    const session = await sessionOf(isa, SPIN);
    expect(() => session.breakpointAt('spinn')).toThrow(/no function or symbol `spinn`.*spin/);
    expect(() => session.addBreakpoint({ kind: 'function', fn: 'handle_mm_faults' })).toThrow(
      /no ported function.*handle_mm_fault/,
    );
    expect(() => session.addBreakpoint({ kind: 'watch', address: 0n, length: 0, access: 'write' })).toThrow(
      '1 to 4096',
    );
    expect(() => session.addBreakpoint({ kind: 'fixture-step', number: 3 })).toThrow('there is no step 3');
    expect(() => session.removeBreakpoint(7)).toThrow('no breakpoint number 7');
    expect(() => session.evaluate('1 +')).toThrow();
    expect(() => session.evaluate('$xyz')).toThrow(/no register `xyz`/);
    expect(() => session.register('rzx')).toThrow(/no register/);
    await session.stepInstruction();
    expect(session.evaluate(`$${ARGS[isa][0]} + 1`)).toBe(5n);
    expect(session.evaluate('$pc')).toBe(session.pc);
    expect(session.evaluate('$sp')).toBe(session.sp);
    await expect(session.finishFault()).rejects.toThrow('no fault is being handled');
    session.close();
  });
});
