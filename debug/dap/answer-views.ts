/** Requests that look at the machine while it stands still, and those that change it. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { u64 } from '../../emu/address.js';
import type { DebugSession } from '../api.js';
import type { Answer, Desk } from './desk.js';
import { disassemble } from './disassembly.js';
import { assign, evaluate, wordAt } from './evaluation.js';
import { exceptionInfo } from './exception-info.js';
import { type FrameRef, fixtureSource, pathSource, threadOf } from './frames.js';
import type { Launched } from './launched.js';
import { parseReference, read, reference } from './memory-reference.js';
import { pathText } from './path-source.js';
import { RequestError } from './request-error.js';
import type { Arguments } from './requests.js';
import { scopesOf } from './scopes.js';
import { addressText } from './variables.js';

export function answerViews(desk: Desk): void {
  desk.handle('threads', () => ({ body: { threads: threads(desk.launched.session) } }));
  desk.handle('stackTrace', (args) => ({ body: desk.still.frames.list(args) }));
  desk.handle('scopes', ({ frameId }) => {
    const { session, frames, variables } = desk.still;
    const scopes = scopesOf(session, frames.get(frameId)).map(
      ({ name, hint, expensive, children }): DebugProtocol.Scope => ({
        name,
        expensive,
        variablesReference: variables.add(children),
        ...(hint === undefined ? {} : { presentationHint: hint }),
      }),
    );
    return { body: { scopes } };
  });
  desk.handle('variables', (args) => ({ body: { variables: desk.still.variables.list(args) } }));
  desk.handle('setVariable', (args) => setVariable(desk, args));
  desk.handle('setExpression', (args) => setExpression(desk, args));
  desk.handle('evaluate', (args) => evaluateRequest(desk, args));
  desk.handle('completions', ({ text, column }) => {
    const { client } = desk;
    const before = text.slice(0, Math.max(0, client.fromColumn(column) - 1));
    const { words, beginning } = desk.still.console.complete(before);
    const start = client.column(before.length - beginning.length + 1);
    const targets = words.map((label) => ({ label, start, length: beginning.length }));
    return { body: { targets } };
  });
  desk.handle('exceptionInfo', () => ({ body: exceptionInfo(desk.still.session) }));
  desk.handle('source', ({ source, sourceReference }) => {
    const { sources, session } = desk.launched;
    const number = source?.sourceReference ?? sourceReference;
    if (number === 0) return { body: { content: session.fixture.source.text } };
    const content = sources.text(number);
    if (content === null) throw new RequestError(`source ${number} is not there any more`);
    return { body: { content } };
  });
  desk.handle('loadedSources', () => ({ body: { sources: loadedSources(desk) } }));
  desk.handle('disassemble', (args) => ({
    body: { instructions: disassemble(desk.still.session, args) },
  }));
  desk.handle('readMemory', (args) => ({ body: readMemory(desk.still.session, args) }));
  desk.handle('writeMemory', (args) => writeMemory(desk, args));
}

function threads(session: DebugSession): DebugProtocol.Thread[] {
  const { comm, pid, mode } = session.task;
  return Array.from({ length: session.cpus }, (_, cpu) => ({
    id: threadOf(cpu),
    name: cpu === session.cpu ? `CPU ${cpu}: ${comm} (pid ${pid}), ${mode} mode` : `CPU ${cpu}`,
  }));
}

function loadedSources(desk: Desk): DebugProtocol.Source[] {
  const { session, file, sources } = desk.still;
  const path = session.path();
  const { text } = pathText(path, (address) => session.nameOf(address));
  return [
    fixtureSource(file, desk.client),
    ...(path.calls.length === 0 ? [] : [pathSource(sources.numberOf(text))]),
  ];
}

function setVariable(desk: Desk, { variablesReference, name, value }: Arguments<'setVariable'>): Answer {
  const { variables, console } = desk.still;
  const node = variables.children(variablesReference).find((each) => each.name === name);
  if (node === undefined) throw new RequestError(`there is no variable \`${name.slice(0, 60)}\` here`);
  const { set, now } = node;
  if (set === undefined) throw new RequestError(`${name} cannot be changed`);
  set(console.shell.value(value).value);
  const memory = node.memory === undefined || node.watch === undefined ? null : node.memory;
  return {
    body: { value: now?.() ?? value },
    after: () => desk.changed(memory === null ? null : { reference: memory, count: 8 }),
  };
}

function setExpression(desk: Desk, { expression, value, frameId }: Arguments<'setExpression'>): Answer {
  const { session, console, frames } = desk.still;
  const frame = frameId === undefined ? null : frames.get(frameId);
  if (frame?.kind === 'code' && frame.level > 0 && /^\s*\$/.test(expression)) {
    throw new RequestError(`${expression.trim()} cannot be changed: it is a register of a caller`);
  }
  const wanted = console.shell.value(value).value;
  const memory = assign(session, expression, wanted);
  const shown = memory === null ? u64(wanted) : (wordAt(session, memory.address, memory.length) ?? wanted);
  return {
    body: { value: addressText(session, shown) },
    after: () =>
      desk.changed(memory === null ? null : { reference: reference(memory.address), count: memory.length }),
  };
}

function evaluateRequest(desk: Desk, { expression, context, frameId }: Arguments<'evaluate'>): Answer {
  const launched = desk.still;
  const { session, console, frames } = launched;
  if (context === 'repl' && expression.trim() === '') return { body: { result: '', variablesReference: 0 } };
  if (context === 'repl' && console.isCommand(expression)) return command(desk, launched, expression);
  const frame = frameId === undefined ? null : frames.get(frameId);
  const text = frame === null ? expression : inFrame(session, frame, expression);
  return { body: evaluate(session, console.shell, text).shown };
}

/** An expression with the registers of a frame. Of a caller, pc and sp are known; what the CPU has is not the caller's. */
function inFrame(session: DebugSession, frame: FrameRef, expression: string): string {
  if (frame.kind !== 'code' || frame.level === 0) return expression;
  const word = expression.trim().toLowerCase();
  // In the text of a function registers have no dollar.
  const text = session.registers().some(({ name }) => name === word) ? `$${word}` : expression;
  return text.replace(/\$([a-z]\w*)/gi, (register, name: string) => {
    if (/^(pc|rip)$/i.test(name)) return reference(frame.pc);
    if (/^r?sp$/i.test(name) && frame.sp !== null) return reference(frame.sp);
    const known = frame.sp === null ? 'only $pc is known' : 'only $pc and $sp are known';
    throw new RequestError(`${register} has no value here: of a caller ${known}`);
  });
}

/** A command of the terminal. It may move the machine. */
async function command(desk: Desk, launched: Launched, line: string): Promise<Awaited<Answer>> {
  const { session, console } = launched;
  const { shell } = console;
  const { reason } = session.stop;
  const changes = session.changes.length;
  let good = false;
  await desk.motion.run(
    session,
    async () => {
      good = await shell.execute(line);
      return session.stop;
    },
    null,
    () => shell.interrupt(),
  );
  shell.takeInterrupt();
  const text = console.take();
  const after = (): void => {
    if (shell.status !== null) desk.end();
    else if (session.stop.reason !== reason) desk.moved();
    else if (session.changes.length !== changes) desk.changed(null);
  };
  if (good) return { body: { result: text, variablesReference: 0 }, after };
  throw new RequestError(text === '' ? `${line.trim()} went wrong` : text);
}

function readMemory(
  session: DebugSession,
  { memoryReference, offset, count }: Arguments<'readMemory'>,
): DebugProtocol.ReadMemoryResponse['body'] {
  if (count < 0) throw new RequestError(`readMemory: ${count} bytes cannot be read`);
  const place = parseReference(memoryReference, offset);
  const { bytes, unreadable } = read(session, place, count);
  return {
    address: reference(place.address),
    ...(bytes.length === 0 ? {} : { data: Buffer.from(bytes).toString('base64') }),
    ...(unreadable === 0 ? {} : { unreadableBytes: unreadable }),
  };
}

function writeMemory(
  desk: Desk,
  { memoryReference, offset, allowPartial, data }: Arguments<'writeMemory'>,
): Answer {
  const { session } = desk.still;
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(data) || data.length % 4 !== 0) {
    throw new RequestError('writeMemory: data is no base64');
  }
  const bytes = Uint8Array.from(Buffer.from(data, 'base64'));
  const place = parseReference(memoryReference, offset);
  const there = read(session, place, bytes.length).bytes.length;
  if (bytes.length > 0 && (there === 0 || (there < bytes.length && !allowPartial))) {
    throw new RequestError(
      `writeMemory: ${bytes.length - there} of ${bytes.length} bytes at ${reference(place.address)} are not mapped`,
    );
  }
  const written = bytes.subarray(0, there);
  if (written.length > 0) {
    if (place.physical) session.writePhysical(Number(place.address), written);
    else session.writeMemory(place.address, written);
  }
  return {
    body: { bytesWritten: written.length },
    after: () => {
      if (written.length > 0) desk.changed({ reference: reference(place.address), count: written.length });
    },
  };
}
