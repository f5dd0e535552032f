/** Why the machine has stopped, as the client is told. */

import { Event } from '@vscode/debugadapter';
import type { DebugProtocol } from '@vscode/debugprotocol';
import { hitIds, type Stop, type StopReason } from '../stop.js';
import type { BreakpointBook, Category } from './breakpoint-book.js';
import { threadOf } from './frames.js';

const REASONS: Readonly<Record<Category, string>> = {
  source: 'breakpoint',
  function: 'function breakpoint',
  instruction: 'instruction breakpoint',
  exception: 'exception',
  data: 'data breakpoint',
};

/** How a reason is called, and what is said beside it. */
function described(reason: StopReason): { readonly reason: string; readonly description: string } {
  switch (reason.kind) {
    case 'start':
      return { reason: 'entry', description: 'At the start' };
    case 'stepped':
    case 'path':
    case 'finished':
      return { reason: 'step', description: 'Paused on step' };
    case 'resolved':
      return { reason: 'step', description: 'The fault is resolved' };
    case 'fault':
      return reason.hit === null
        ? { reason: 'step', description: `In the path of ${reason.event.exception}` }
        : { reason: 'exception', description: `Paused on ${reason.event.exception}` };
    case 'breakpoint':
    case 'function':
      return { reason: 'breakpoint', description: 'Paused on breakpoint' };
    case 'kfence':
      return { reason: 'exception', description: 'Paused on KFENCE' };
    case 'scratch':
      return { reason: 'exception', description: 'The scratch page is installed' };
    case 'oops':
      return { reason: 'exception', description: 'Paused on oops' };
    case 'console':
      return { reason: 'exception', description: 'Paused on a console line' };
    case 'watchpoint':
    case 'entry':
      return { reason: 'data breakpoint', description: 'Paused on data breakpoint' };
    case 'fixture-step':
      return reason.hit === null
        ? { reason: 'step', description: `The step ${reason.phase === 'begins' ? 'begins' : 'has ended'}` }
        : { reason: 'breakpoint', description: 'Paused on breakpoint' };
    case 'interrupted':
      return { reason: 'pause', description: 'Paused' };
    case 'history-begin':
      return { reason: 'entry', description: 'At the start of the run' };
    case 'end':
      return { reason: 'step', description: 'The run is over' };
  }
}

export function stoppedEvent(stop: Stop, book: BreakpointBook): DebugProtocol.Event {
  const { reason, position, text } = stop;
  const hits = hitIds(stop).flatMap((id) => book.hit(id) ?? []);
  const [first] = hits;
  const said = described(reason);
  // The instruction is shown by the frame, and the client has numbers of its own for breakpoints.
  const rows = text
    .split('\n')
    .filter((row) => row !== '' && !row.startsWith('=> '))
    .map((row) => row.replace(/^(Breakpoint|Catchpoint|Watchpoint) [0-9]+\b/, '$1'));
  return new Stopped({
    ...said,
    ...(first === undefined
      ? {}
      : { reason: REASONS[first.category], hitBreakpointIds: hits.map(({ id }) => id) }),
    ...(rows.length === 0 ? {} : { text: rows.join('; ') }),
    threadId: threadOf(position.cpu),
    allThreadsStopped: true,
  });
}

class Stopped extends Event {
  constructor(readonly body: DebugProtocol.StoppedEvent['body']) {
    super('stopped');
  }
}
