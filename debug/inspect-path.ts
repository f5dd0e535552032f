/** The kernel's path as a tree of calls and decisions, from the event stream. */
import { type Event, type FaultEvent, isPrimitive } from '../emu/events.js';
import type { MachineRun } from './run.js';
import { valueText } from './stop.js';
import type { PathCall, PathDecision, PathView } from './views.js';

interface Building {
  readonly kind: 'call';
  readonly fn: string;
  readonly args: PathCall['args'];
  readonly items: (PathDecision | PathCall)[];
  open: boolean;
  result: string | null;
}

export function pathView(run: MachineRun, nameOf: (address: bigint) => string | null): PathView {
  const [start, end] = run.pathRange;
  const calls: Building[] = [];
  const stack: Building[] = [];
  let fault: FaultEvent | null = null;
  let inner = 0;
  for (const event of run.machine.events.slice(start, end)) {
    // Steps in the middle of it have paths of their own.
    inner += nesting(event);
    if (inner > 0) continue;
    switch (event.type) {
      case 'fault':
        fault ??= event;
        break;
      case 'enter': {
        const args = event.argNames.map((name, i) => ({ name, value: shown(event.args[i], nameOf) }));
        const call: Building = { kind: 'call', fn: event.fn, args, items: [], open: true, result: null };
        (stack.at(-1)?.items ?? calls).push(call);
        stack.push(call);
        break;
      }
      case 'decide':
        stack.at(-1)?.items.push({ kind: 'decision', test: event.test, value: event.value });
        break;
      case 'leave': {
        const call = stack.pop();
        if (call === undefined) break;
        call.open = false;
        call.result = event.value === undefined ? null : shown(event.value, nameOf);
        break;
      }
      default:
        break;
    }
  }
  const over = run.place !== 'path';
  return { fault, calls, stack: over ? [] : stack, over };
}

/** How much deeper in runs and calls an event leads. */
function nesting(event: Event): number {
  if (event.type === 'run') return 1;
  if (event.type === 'host-call') return event.phase === 'start' ? 1 : -1;
  return event.type === 'outcome' ? -1 : 0;
}

function shown(value: unknown, nameOf: (address: bigint) => string | null): string {
  if (typeof value === 'bigint' && value > 0xffffn) {
    const name = nameOf(value);
    if (name !== null) return `${valueText(value)} <${name}>`;
  }
  return isPrimitive(value) ? valueText(value) : '…';
}
