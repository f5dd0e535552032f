/** What is wrong is said in words, and nothing is left without an answer. */
import { rmSync, writeFileSync } from 'node:fs';
import { afterAll, expect, test } from '@jest/globals';
import { framed, type Incoming, MessageReader } from './framing.js';
import { Protocol } from './protocol-check.js';
import { sample, TestClient } from './testing.js';

const scratch = sample('x86-64', 'set-cmask-writes-to-unallocated-page');
const broken = `${scratch}.broken-for-a-test.yaml`;
afterAll(() => rmSync(broken, { force: true }));

test('requests out of order, of wrong types and about nothing', async () => {
  const client = new TestClient();
  expect(await client.refused('threads')).toBe('threads: the first request is initialize');
  await client.body('initialize', { adapterID: 'kfault', linesStartAt1: false });
  expect(await client.refused('initialize')).toBe('initialize was sent before');
  expect(await client.refused('threads')).toBe('no fixture has been launched');
  expect(await client.refused('attach', {})).toContain('use launch');
  expect(await client.refused('launch', {})).toContain('launch: arguments.fixture: ');
  expect(await client.refused('launch', { fixture: 3 })).toContain('expected string');
  expect(await client.refused('launch', { fixture: scratch, stopOnEntry: 'yes' })).toBe(
    'launch: arguments.stopOnEntry: expected true or false, not "yes"',
  );
  expect(await client.refused('launch', { fixture: scratch, steps: 'some' })).toBe(
    'launch: arguments.steps: expected `decisions` or `all`, not "some"',
  );
  expect(await client.refused('launch', { fixture: '' })).toContain('the file of a fixture is wanted');
  expect(await client.refused('launch', { fixture: '/nowhere.yaml' })).toBe(
    '/nowhere.yaml: there is no such file or folder',
  );
  writeFileSync(broken, 'name: broken\narch: x86-64\nsteps:\n  - call: nowhere\n    regs: {}\n');
  const response = await client.ask('launch', { fixture: broken });
  // File, line, column and text.
  expect(response.message).toMatch(/broken-for-a-test\.yaml:\d+:\d+: .*\n +\d+ \| .*\n +\| +\^/);
  expect(response.body.error.showUser).toBe(true);
  expect(await client.refused('launch', { fixture: scratch, engine: '/nowhere.so' })).toContain(
    '/nowhere.so',
  );
  expect(await client.refused('launch', { fixture: scratch, stopAt: 'write_cmark' })).toContain(
    'write_cmask',
  );
  await client.body('launch', { fixture: scratch });
  expect(await client.refused('continue', { threadId: 1 })).toContain('before configurationDone');
  await client.body('configurationDone');
  await client.stopped();
  // Lines count from 0 for this client.
  const [frame] = await client.frames();
  const text = (await client.body<{ content: string }>('source', {})).content.split('\n');
  expect(text[frame?.line ?? 0]).toContain('- call: bpf_prog_set_cmask');

  expect(await client.refused('restart', { arguments: { fixture: scratch, stopOnEntry: 1 } })).toBe(
    'restart: arguments.arguments.stopOnEntry: expected true or false, not 1',
  );
  expect(await client.refused('stackTrace', { threadId: 7 })).toBe(
    'there is no thread 7: this machine has thread 1',
  );
  expect(await client.refused('stackTrace', { threadId: 'one' })).toContain('arguments.threadId');
  expect(await client.refused('scopes', { frameId: 99 })).toContain('there is no frame 99');
  expect(await client.refused('variables', { variablesReference: 99 })).toContain('no variables 99');
  expect(await client.refused('evaluate', { expression: 'a.page(', context: 'watch' })).not.toBe('');
  expect(await client.refused('evaluate', { expression: 'info nonsense', context: 'repl' })).toContain(
    'nonsense',
  );
  expect(await client.refused('exceptionInfo', { threadId: 1 })).toBe('no exception has been taken here');
  expect(await client.refused('readMemory', { memoryReference: 'x', count: 1 })).toContain('no reference');
  expect(
    await client.refused('disassemble', { memoryReference: '0x0', instructionCount: 2 ** 40 }),
  ).toContain('at once');
  expect(await client.refused('gotoTargets', {})).toBe('kfault does not know the request `gotoTargets`');
  await client.body('terminate');
  await client.event('terminated');
  expect(await client.refused('next', { threadId: 1 })).toBe('next: the session is over');
  await client.leave();
});

test('requests while the machine runs', async () => {
  const client = new TestClient();
  await client.launch(scratch);
  // All of them arrive before the first one has been carried out.
  const move = client.post('continue', { threadId: 1 });
  const look = client.post('stackTrace', { threadId: 1 });
  const set = client.post('setFunctionBreakpoints', { breakpoints: [{ name: 'exc_page_fault' }] });
  const again = client.post('next', { threadId: 1 });
  expect((await client.response(move)).success).toBe(true);
  const refusals = await Promise.all([client.response(look), client.response(again)]);
  const stop = await client.stopped();
  expect((await client.response(set)).body).toMatchObject({ breakpoints: [{ verified: true }] });
  for (const { success, message } of refusals) expect(success || message === 'notStopped').toBe(true);
  expect(stop.reason).toBeDefined();
  await client.leave();
});

test('framing finds the next message behind a broken one', () => {
  const good = framed({ good: true });
  const read = (...parts: (string | Uint8Array)[]): Incoming[] => {
    const reader = new MessageReader();
    // Byte by byte, as it may come.
    return parts.flatMap((part) =>
      [...Buffer.from(part)].flatMap((byte) => reader.push(Uint8Array.of(byte))),
    );
  };
  const messages = (found: Incoming[]) => found.filter(({ kind }) => kind === 'message');
  expect(read(good, good)).toHaveLength(2);
  for (const bad of [
    'Content-Length: 3\r\n\r\n{"a":1}',
    'Content-Length: 40\r\n\r\n{"a":1}',
    'Content-Length: -1\r\n\r\n',
    'Content-Length: 99999999999\r\n\r\n',
    'Content-Type: x\r\n\r\n',
    'Content-Length: 77',
    'noise',
  ]) {
    const found = read(bad, good, good);
    expect(messages(found).at(-1)).toEqual({ kind: 'message', value: { good: true } });
    expect(found.some(({ kind }) => kind === 'bad')).toBe(true);
  }
  expect(read('Content-Length: 99999999\r\n\r\n')).toEqual([
    { kind: 'bad', why: 'Content-Length is 99999999, no number up to 16777216' },
  ]);
  expect(messages(read('x'.repeat(20_000), good))).toHaveLength(1);
});

test('what the protocol does not have is noticed', () => {
  const protocol = new Protocol();
  const event = { seq: 1, type: 'event', event: 'stopped', body: { reason: 'step', threadId: 1 } };
  const response = { seq: 2, type: 'response', request_seq: 1, command: 'threads', success: true };
  expect(protocol.problems(event)).toEqual([]);
  expect(protocol.problems({ ...event, body: { reason: 'step', threadId: 'one' } })).not.toEqual([]);
  expect(protocol.problems({ ...event, body: { threadId: 1 } })).toEqual(['.body.reason is missing']);
  expect(protocol.problems({ ...event, event: 'halted' })).toEqual(['the protocol has no HaltedEvent']);
  expect(protocol.problems(response)).toEqual(['.body is missing']);
  const threads = [{ id: 2 ** 60, name: 'CPU' }];
  expect(protocol.problems({ ...response, body: { threads } })).toHaveLength(1);
  expect(protocol.problems({ ...response, body: { threads: [], more: 1 } })).toEqual([
    '.body.more is not known',
  ]);
});
