/** The real process, spoken to by the client of the protocol's authors. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, test } from '@jest/globals';
import { DebugClient } from '@vscode/debugadapter-testsupport';
import type { DebugProtocol } from '@vscode/debugprotocol';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'cli', 'kfault.mjs');
const SAMPLES = {
  x86: { fn: 'exc_page_fault', fixture: sample('x86') },
  arm64: { fn: 'do_mem_abort', fixture: sample('arm64') },
} as const;

function sample(folder: string): string {
  return join(root, 'fixtures', folder, 'set-cmask-writes-to-unallocated-page.yaml');
}

beforeAll(() => {
  if (!existsSync(join(root, 'dist', 'bundle-paths', 'main.js'))) {
    throw new Error('these tests run the compiled command: npm run build first');
  }
});

/** The messages in what was written; throws where there is anything else. */
function messages(out: Buffer): DebugProtocol.ProtocolMessage[] {
  const found: DebugProtocol.ProtocolMessage[] = [];
  for (let at = 0; at < out.length; ) {
    const header = /^Content-Length: (\d+)\r\n\r\n/.exec(out.toString('latin1', at, at + 100));
    if (header === null) throw new Error(`no message: ${out.toString('utf8', at, at + 100)}`);
    const begin = at + header[0].length;
    at = begin + Number(header[1]);
    found.push(JSON.parse(out.toString('utf8', begin, at)));
  }
  return found;
}

test('kfault dap on standard input and output: from launch to exit, and nothing else is written', async () => {
  // DebugClient starts processes without arguments only.
  const child = spawn(process.execPath, [bin, 'dap'], { stdio: ['pipe', 'pipe', 'pipe'] });
  let out = Buffer.alloc(0);
  let err = '';
  let seq = 0;
  const send = (command: string, args: object = {}): void => {
    seq += 1;
    const body = JSON.stringify({ seq, type: 'request', command, arguments: args });
    child.stdin.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  };
  child.stdout.on('data', (bytes: Buffer) => {
    const before = out.length;
    out = Buffer.concat([out, bytes]);
    const fresh = (event: string): boolean => out.indexOf(`"event":"${event}"`) >= before;
    if (fresh('initialized')) send('configurationDone');
    if (fresh('terminated')) send('disconnect');
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  const closed = new Promise((resolve) => child.on('close', resolve));
  send('initialize', { adapterID: 'kfault' });
  send('launch', { fixture: SAMPLES.arm64.fixture, noDebug: true });
  expect(await closed).toBe(0);
  expect(err).toBe('');
  const said = messages(out) as (DebugProtocol.Response & DebugProtocol.Event)[];
  // Without debugging nothing stops, not even at the end.
  expect(said.map(({ type, event, command }) => (type === 'event' ? event : command))).toEqual([
    ...['initialize', 'launch', 'initialized', 'configurationDone'],
    ...['output', 'output', 'exited', 'terminated', 'disconnect'],
  ]);
  expect(said.filter(({ type }) => type === 'response').every(({ success }) => success)).toBe(true);
  expect(said.find(({ event }) => event === 'exited')?.body).toEqual({ exitCode: 0 });
});

test('kfault dap --port: one client after the other, on both architectures', async () => {
  const server = spawn(process.execPath, [bin, 'dap', '--port', '0'], { stdio: ['ignore', 'pipe', 'pipe'] });
  try {
    const port = await new Promise<number>((resolve) => {
      server.stderr.setEncoding('utf8').on('data', (text: string) => {
        const found = /127\.0\.0\.1:(\d+)/.exec(text)?.[1];
        if (found !== undefined) resolve(Number(found));
      });
    });
    for (const { fn, fixture } of [SAMPLES.x86, SAMPLES.arm64]) {
      const client = new DebugClient('node', bin, 'kfault');
      client.defaultTimeout = 60_000;
      await client.start(port);
      await Promise.all([
        client.waitForEvent('initialized').then(async () => {
          await client.setFunctionBreakpointsRequest({ breakpoints: [{ name: fn }] });
          await client.configurationDoneRequest();
        }),
        client.launch({ fixture, stopOnEntry: false }),
        client.assertStoppedLocation('function breakpoint', {}),
      ]);
      const { body } = await client.stackTraceRequest({ threadId: 1 });
      expect(body.stackFrames[0]?.name).toBe(fn);
      await Promise.all([client.waitForEvent('stopped'), client.stepBackRequest({ threadId: 1 })]);
      await client.stop();
    }
    // A page in a browser may send what looks like messages.
    const launch = JSON.stringify({ seq: 1, type: 'request', command: 'initialize', arguments: {} });
    const body = `Content-Length: ${launch.length}\r\n\r\n${launch}`;
    const page = connect(port, '127.0.0.1');
    page.end(`POST / HTTP/1.1\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    let answer = '';
    for await (const bytes of page) answer += String(bytes);
    expect(answer).toBe('');
  } finally {
    server.kill();
  }
});
