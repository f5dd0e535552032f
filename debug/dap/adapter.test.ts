/** A whole conversation, on both architectures. Every message is checked against the protocol's own types. */
import { describe, expect, test } from '@jest/globals';
import type { DebugProtocol } from '@vscode/debugprotocol';
import { ISAS } from '../testing.js';
import { sample, TestClient } from './testing.js';

const FACTS = {
  'x86-64': {
    store: '48 89 07',
    argument: 'rdi',
    filler: 'int3',
    handler: 'exc_page_fault',
    exception: 'x86.#PF.supervisor-write-not-present',
    levels: ['PGD', 'PUD', 'PMD', 'PTE'],
  },
  arm64: {
    store: '',
    argument: 'x0',
    filler: 'brk #0x100',
    handler: 'do_mem_abort',
    exception: 'arm64.Data-Abort.supervisor-write-',
    levels: ['PGD', 'PUD', 'PMD', 'PTE'],
  },
} as const;

type Bodies = {
  disassemble: NonNullable<DebugProtocol.DisassembleResponse['body']>;
  readMemory: NonNullable<DebugProtocol.ReadMemoryResponse['body']>;
  breakpoints: DebugProtocol.SetBreakpointsResponse['body'];
  info: DebugProtocol.DataBreakpointInfoResponse['body'];
  exception: DebugProtocol.ExceptionInfoResponse['body'];
};

function address(text: string): string {
  return /^0x[0-9a-f]+/.exec(text)?.[0] ?? '';
}

describe.each(ISAS)('%s', (isa) => {
  const scratch = sample(isa, 'set-cmask-writes-to-unallocated-page');
  const facts = FACTS[isa];

  test('from the faulting store through the path and back, and to the end', async () => {
    const client = new TestClient();
    expect(await client.launch(scratch)).toMatchObject({ reason: 'entry', threadId: 1 });
    const [entry] = await client.frames();
    expect(entry).toMatchObject({ name: expect.stringMatching(/^step 1: /), source: { path: scratch } });

    const store = address(await client.evaluate('write_cmask.store'));
    const set = await client.body<Bodies['breakpoints']>('setInstructionBreakpoints', {
      breakpoints: [{ instructionReference: store }],
    });
    expect(set.breakpoints).toEqual([{ id: 1, verified: true, instructionReference: store }]);
    expect(await client.move('continue')).toMatchObject({
      reason: 'instruction breakpoint',
      hitBreakpointIds: [1],
      text: expect.stringMatching(/^Breakpoint, 0x/),
    });
    const [top, caller] = await client.frames();
    expect(top).toMatchObject({ instructionPointerReference: store, source: { path: scratch } });
    expect(caller).toMatchObject({ name: expect.stringContaining('set_cmask'), source: { path: scratch } });
    // Of the caller, the CPU's registers say nothing.
    const argument = `$${facts.argument}`;
    const ofCaller = { frameId: caller?.id, context: 'watch' };
    expect(
      (await client.body<{ result: string }>('evaluate', { expression: '$pc', ...ofCaller })).result,
    ).toContain(caller?.instructionPointerReference);
    for (const expression of [argument, argument.slice(1)]) {
      expect(await client.refused('evaluate', { expression, ...ofCaller })).toContain('of a caller only $pc');
    }
    expect(await client.refused('setExpression', { expression: '$pc', value: '0', ...ofCaller })).toContain(
      'a register of a caller',
    );
    const lines = (await client.body<{ content: string }>('source', { sourceReference: 0 })).content.split(
      '\n',
    );
    expect(lines[(top?.line ?? 0) - 1]).toContain(isa === 'arm64' ? 'str' : 'mov qword ptr [rdi], rax');

    // Into the fault, and to its third decision.
    expect(await client.move('stepIn', { granularity: 'instruction' })).toMatchObject({ reason: 'step' });
    for (let i = 0; i < 3; i++) expect(await client.move('stepIn')).toMatchObject({ reason: 'step' });
    const inside = await client.frames();
    const codeAt = inside.findIndex(({ name }) => name.startsWith('write_cmask'));
    expect(inside.slice(0, codeAt).map(({ name }) => name)).toContain(facts.handler);
    expect(inside[codeAt]?.instructionPointerReference).toBe(store);
    // Each of the path's frames stands at a line of the path.
    const { content } = await client.body<{ content: string }>('source', {
      source: inside[0]?.source,
      sourceReference: inside[0]?.source?.sourceReference,
    });
    const path = content.split('\n');
    expect(path[(inside[0]?.line ?? 0) - 1]).toMatch(/ → /);
    for (const [i, { name }] of inside.slice(0, codeAt - 1).entries()) {
      expect(path[(inside[i + 1]?.line ?? 0) - 1]?.trim().startsWith(`${name}(`)).toBe(true);
    }

    const walk = await client.scope('Walk');
    expect([...walk.keys()].map((name) => name.replace(/\[.*/, ''))).toEqual(
      expect.arrayContaining([...facts.levels]),
    );
    expect((await client.scope('Fault')).get('address')?.value).toContain('a.page(3)');
    const info = await client.body<Bodies['exception']>('exceptionInfo', { threadId: 1 });
    expect(info.exceptionId).toContain(facts.exception);

    // Back to the decision before, and out of the path to the store.
    const here = path.length;
    expect(await client.move('stepBack')).toMatchObject({ reason: 'step' });
    const [before] = await client.frames();
    expect(before?.line).toBeLessThan(here);
    expect(await client.move('stepBack', { granularity: 'instruction' })).toMatchObject({ reason: 'step' });
    expect((await client.frames())[0]).toMatchObject({ instructionPointerReference: store });
    // Over the fault: the store has happened.
    await client.move('next');
    expect(await client.evaluate('*(u64 *)(a.page(3) + 0x10)')).toBe('0x4141');
    expect(client.printed('stderr')).toContain('Arena WRITE access');
    expect(await client.move('reverseContinue')).toMatchObject({ reason: 'instruction breakpoint' });

    // The end is stopped at; from there it goes back, and on it is over.
    expect(await client.move('continue')).toMatchObject({ text: 'The run is over: the fixture has passed.' });
    expect(await client.move('stepBack')).toMatchObject({ reason: 'step' });
    expect(await client.move('continue')).toMatchObject({ text: 'The run is over: the fixture has passed.' });
    await client.body('continue', { threadId: 1 });
    expect(await client.event('exited')).toEqual({ exitCode: 0 });
    await client.event('terminated');
    expect(await client.refused('stackTrace', { threadId: 1 })).toBe('stackTrace: the session is over');
    await client.leave();
  });

  test('what stops: data, entries, functions, lines, filters, conditions', async () => {
    const client = new TestClient();
    await client.launch(scratch);
    const watch = await client.body<Bodies['info']>('dataBreakpointInfo', {
      name: 'a.page(3) + 0x10',
      bytes: 8,
    });
    expect(watch).toMatchObject({ accessTypes: ['read', 'write', 'readWrite'] });
    const entry = await client.body<Bodies['info']>('dataBreakpointInfo', { name: 'pte a.page(3)' });
    await client.body('setDataBreakpoints', {
      breakpoints: [watch, entry].map(({ dataId }) => ({ dataId, accessType: 'write' })),
    });
    const { breakpoints } = await client.body<Bodies['breakpoints']>('setFunctionBreakpoints', {
      breakpoints: [
        { name: 'bpf_arena_handle_page_fault' },
        { name: 'bpf_arena_handle_page_fold' },
        { name: 'write_cmask', condition: '0 == 1' },
        { name: 'write_cmask', hitCondition: '% 2' },
      ],
    });
    expect(breakpoints.map(({ verified }) => verified)).toEqual([true, false, true, false]);
    expect(breakpoints[1]?.message).toContain('bpf_arena_handle_page_fault');
    await client.body('setExceptionBreakpoints', {
      filters: ['scratch'],
      filterOptions: [{ filterId: 'nothing' }],
    });
    expect(await client.move('continue')).toMatchObject({ reason: 'function breakpoint' });
    expect(await client.move('continue')).toMatchObject({ reason: 'exception' });
    const third = await client.move('continue');
    expect(third.reason).toBe('data breakpoint');
    expect(third.text).toMatch(/^Watchpoint: Write of .*a\.page\(3\) \+ 0x10.* New value = 0x4141$/);
    await client.body('setExceptionBreakpoints', { filters: [] });
    expect(await client.move('reverseContinue')).toMatchObject({ reason: 'data breakpoint' });
    expect(await client.move('reverseContinue')).toMatchObject({ reason: 'function breakpoint' });
    expect((await client.move('continue')).text).toMatch(/P=1|New/);

    await client.body('setDataBreakpoints', { breakpoints: [] });
    // A line of the second step, one of the code, and one of neither.
    const lines = (await client.body<{ content: string }>('source', { sourceReference: 0 })).content.split(
      '\n',
    );
    const lineOf = (text: string): number => lines.findIndex((row) => row.includes(text)) + 1;
    const placed = await client.body<Bodies['breakpoints']>('setBreakpoints', {
      source: { path: scratch },
      breakpoints: [{ line: lineOf('ret: 0') }, { line: lineOf('store:') }, { line: 1 }],
    });
    expect(placed.breakpoints).toMatchObject([
      { verified: true, line: lineOf('the scratch page is not allocated over') },
      { verified: true, line: lineOf('store:') + 1 },
      { verified: false, line: 1 },
    ]);
    expect(await client.move('continue')).toMatchObject({
      reason: 'breakpoint',
      hitBreakpointIds: [placed.breakpoints[0]?.id],
      text: expect.stringMatching(/^Catchpoint: a step begins\./),
    });
    const other = await client.body<Bodies['breakpoints']>('setBreakpoints', {
      source: { path: '/somewhere/else.yaml' },
      breakpoints: [{ line: 3 }],
    });
    expect(other.breakpoints).toMatchObject([{ verified: false }]);

    // All that are hit at once are told, and none whose condition does not hold.
    await client.body('setBreakpoints', { source: { path: scratch }, breakpoints: [] });
    await client.body('setFunctionBreakpoints', { breakpoints: [] });
    const instructionReference = address(await client.evaluate('write_cmask.store'));
    const same = await client.body<Bodies['breakpoints']>('setInstructionBreakpoints', {
      breakpoints: ['1', '0', '2'].map((condition) => ({ instructionReference, condition })),
    });
    const [one, , two] = same.breakpoints;
    expect(await client.move('reverseContinue')).toMatchObject({ hitBreakpointIds: [one?.id, two?.id] });
    await client.leave();
  });

  test('instructions around an address, memory, registers, and once more from the start', async () => {
    const client = new TestClient();
    await client.launch(scratch, { stopAt: 'write_cmask' });
    const start = address(await client.evaluate('write_cmask'));
    const show = async (instructionOffset: number, instructionCount: number) =>
      (
        await client.body<Bodies['disassemble']>('disassemble', {
          memoryReference: start,
          instructionOffset,
          instructionCount,
        })
      ).instructions;
    const around = await show(-50, 100);
    expect(around).toHaveLength(100);
    expect(around[50]).toMatchObject({ address: start, symbol: 'write_cmask' });
    // The same instructions wherever the list begins, ascending.
    expect(await show(-50, 20)).toEqual(around.slice(0, 20));
    expect(await show(-3, 10)).toEqual(around.slice(47, 57));
    expect(await show(2, 5)).toEqual(around.slice(52, 57));
    const addresses = around.map((each) => BigInt(each.address));
    expect(addresses).toEqual([...addresses].sort((a, b) => (a < b ? -1 : 1)));
    // From behind as from in front, also over what fills up between functions.
    const { instructions: forwards } = await client.body<Bodies['disassemble']>('disassemble', {
      memoryReference: around[0]?.address ?? '',
      instructionCount: 55,
    });
    expect(forwards).toEqual(around.slice(0, 55));
    expect(around[49]?.instruction).toBe(facts.filler);
    const { instructions: nothing } = await client.body<Bodies['disassemble']>('disassemble', {
      memoryReference: '0x1000',
      instructionOffset: -1,
      instructionCount: 3,
    });
    expect(nothing.map((each) => each.presentationHint)).toEqual(['invalid', 'invalid', 'invalid']);
    // From the end of the function it goes back over the same ones.
    const end = around[55]?.address ?? '';
    const back = await client.body<Bodies['disassemble']>('disassemble', {
      memoryReference: end,
      instructionOffset: -5,
      instructionCount: 5,
    });
    expect(back.instructions).toEqual(around.slice(50, 55));
    if (facts.store !== '') expect(around.map((each) => each.instructionBytes)).toContain(facts.store);

    const { data } = await client.body<Bodies['readMemory']>('readMemory', {
      memoryReference: start,
      count: 4,
    });
    expect(Buffer.from(data ?? '', 'base64').toString('hex')).toBe(
      around
        .slice(50, 54)
        .map((each) => each.instructionBytes?.replaceAll(' ', ''))
        .join('')
        .slice(0, 8),
    );
    expect(await client.body('readMemory', { memoryReference: '0x10', count: 8 })).toEqual({
      address: '0x10',
      unreadableBytes: 8,
    });
    const sp = address(await client.evaluate('$sp'));
    await client.body('writeMemory', {
      memoryReference: sp,
      data: Buffer.from('kfault!!').toString('base64'),
    });
    expect(await client.event('memory')).toEqual({ memoryReference: sp, offset: 0, count: 8 });
    expect(await client.evaluate('x/s $sp', 'repl')).toContain('kfault!!');
    expect(await client.refused('writeMemory', { memoryReference: '0x10', data: 'AAAA' })).toContain(
      '3 of 3 bytes at 0x10 are not mapped',
    );

    const frames = await client.frames();
    const { scopes } = await client.body<DebugProtocol.ScopesResponse['body']>('scopes', {
      frameId: frames[0]?.id,
    });
    const registers = scopes[0]?.variablesReference;
    expect(
      await client.body('setVariable', {
        variablesReference: registers,
        name: facts.argument,
        value: 'a.page(4)',
      }),
    ).toEqual({ value: expect.stringContaining('<a.page(4)>') });
    await client.body('setExpression', { expression: `$${facts.argument}`, value: '8' });
    expect(await client.evaluate(facts.argument, 'hover')).toBe('0x8');
    const { targets } = await client.body<{ targets: DebugProtocol.CompletionItem[] }>('completions', {
      text: 'walk write_cm',
      column: 14,
    });
    expect(targets[0]).toEqual({ label: 'write_cmask', start: 6, length: 8 });

    // A command that moves is a stop like any other.
    await client.evaluate('reverse-stepi', 'repl');
    expect(await client.stopped()).toMatchObject({ reason: 'step' });
    await client.body('restart');
    // stopAt is in the arguments.
    expect(await client.stopped()).toMatchObject({ reason: 'breakpoint' });
    expect(await client.evaluate(facts.argument, 'hover')).toContain('<a.page(3) + 0x10>');
    await client.leave();
  });

  test('an oops', async () => {
    const client = new TestClient();
    const stopped = await client.launch(
      sample(isa, 'oops-on-a-null-pointer'),
      { stopOnEntry: false },
      async () => {
        await client.body('setExceptionBreakpoints', { filters: ['oops'] });
      },
    );
    expect(stopped).toMatchObject({ reason: 'exception', description: 'Paused on oops' });
    const info = await client.body<Bodies['exception']>('exceptionInfo', { threadId: 1 });
    expect(info).toMatchObject({ breakMode: 'always', details: { typeName: 'oops' } });
    expect(info.description).toMatch(/NULL pointer dereference/);
    expect(info.details?.stackTrace?.split('\n')[0]).toBe(info.description);
    await client.leave();
  });
});
