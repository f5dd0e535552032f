import { describe, expect, test } from '@jest/globals';
import { type Event, EventLog, NO_EVENTS } from './events.js';
import { type Delegate, drain, type Path, port, portedFunctions, type Step, Trace } from './path.js';
import { Trace as StraightTrace } from './path-straight.js';

interface Here {
  readonly trace: Trace;
}

const inner = port('inner', ['n'], function* (here: Here, n: number): Path<number> {
  if (yield* here.trace.decide('inner', 'n > 1', n > 1)) return n * 2;
  return n;
});

const outer = port('outer', ['n', 'what'], function* (here: Here, n: number, _what: object): Path<number> {
  const doubled = yield* inner(here, n);
  yield* here.trace.decide('outer', 'doubled', doubled);
  return doubled + 1;
});

const thrice = port('thrice', [], function* (here: Here): Path<void> {
  yield* here.trace.decide('thrice', 'times', 3);
});

const thrower = port('thrower', [], function* (here: Here): Path<void> {
  yield* here.trace.decide('thrower', 'about to', true);
  throw new Error('dead');
});

function here(pausing = false): { here: Here; log: EventLog } {
  const log = new EventLog();
  const trace = new Trace(3, log);
  trace.pausing = pausing;
  return { here: { trace }, log };
}

/** Steps at which a path stops, and its result. */
function stops<T>(path: Delegate<T>): { steps: Step[]; result: T } {
  const steps: Step[] = [];
  const iterator = path[Symbol.iterator]();
  for (;;) {
    const turn = iterator.next();
    if (turn.done === true) return { steps, result: turn.value };
    steps.push(turn.value);
  }
}

const words = (events: readonly (Event | Step)[]): string[] =>
  events.map((event) => {
    switch (event.type) {
      case 'enter':
        return `enter ${event.fn}`;
      case 'leave':
        return `leave ${event.fn} ${event.value}`;
      case 'decide':
        return `${event.fn}: ${event.test} ${event.value}`;
      default:
        return event.type;
    }
  });

const EXPECTED = [
  'enter outer',
  'enter inner',
  'inner: n > 1 true',
  'leave inner 8',
  'outer: doubled 8',
  'leave outer 9',
];

describe('a path', () => {
  test('that nobody watches runs through, and everything it did is in the stream', () => {
    const { here: on, log } = here();
    expect(drain(outer(on, 4, {}))).toBe(9);
    expect(words(log.events)).toEqual(EXPECTED);
    expect(log.events.every((event) => event.cpu === 3)).toBe(true);
    expect(log.events[0]).toMatchObject({ argNames: ['n', 'what'], args: [4, {}] });
  });

  test('that is watched stops at each entry, decision and return, and its events are the same', () => {
    const { here: on, log } = here(true);
    const { steps, result } = stops(outer(on, 4, {}));
    expect(result).toBe(9);
    expect(words(steps)).toEqual(EXPECTED);
    expect(words(log.events)).toEqual(EXPECTED);
  });

  test('stops where its last event stands: what comes behind has not happened yet', () => {
    const { here: on, log } = here(true);
    const iterator = outer(on, 1, {})[Symbol.iterator]();
    iterator.next();
    expect(words(log.events)).toEqual(['enter outer']);
    iterator.next();
    iterator.next();
    expect(words(log.events)).toEqual(['enter outer', 'enter inner', 'inner: n > 1 false']);
  });

  test('can be left in the middle by switching the pauses off', () => {
    const { here: on, log } = here(true);
    const iterator = outer(on, 4, {})[Symbol.iterator]();
    iterator.next();
    on.trace.pausing = false;
    expect(iterator.next()).toEqual({ done: true, value: 9 });
    expect(words(log.events)).toEqual(EXPECTED);
  });

  test('that throws leaves no return in the stream', () => {
    for (const pausing of [false, true]) {
      const { here: on, log } = here(pausing);
      expect(() => drain(thrower(on))).toThrow('dead');
      expect(words(log.events)).toEqual(['enter thrower', 'thrower: about to true']);
    }
  });

  test('is known by its name', () => {
    expect(portedFunctions()).toEqual(['inner', 'outer', 'thrice', 'thrower']);
  });
});

/** Both builds' Trace: this file's code is straightened, path-straight.ts is what it runs on then. */
describe.each([
  ['generators', Trace],
  ['plain functions', StraightTrace],
])('what is to happen at a decision, with %s', (_build, Build) => {
  /** The straight build's decide() hands the value back as it is. */
  const settled = (decided: unknown): unknown =>
    typeof decided === 'object' ? drain(decided as Delegate<unknown>) : decided;

  test('happens when its event is out, and the value stays what it was', () => {
    const log = new EventLog();
    const [trace, other] = [new Build(0, log), new Build(1, log)];
    const seen: unknown[] = [];
    trace.onDecision = (fn, test) => {
      seen.push([fn, test, log.events.length, settled(other.decide('other', 'n', 7))]);
      trace.onDecision = null;
    };
    expect(settled(trace.decide('inner', 'n > 1', 5))).toBe(5);
    expect(settled(trace.decide('inner', 'n > 2', 6))).toBe(6);
    expect(seen).toEqual([['inner', 'n > 1', 1, 7]]);
    expect(log.events.map((event) => event.cpu)).toEqual([0, 1, 0]);
  });

  test('happens when nobody listens, on the same CPU, too', () => {
    const trace = new Build(0, NO_EVENTS);
    trace.onDecision = () => {
      trace.onDecision = null;
      expect(settled(trace.decide('nested', 'n', 8))).toBe(8);
    };
    expect(settled(trace.decide('inner', 'n > 1', 5))).toBe(5);
    expect(trace.onDecision).toBeNull();
  });
});

test('a path is seen to stop at a decision before what is to happen there, which may be a path of its own', () => {
  const { here: on, log } = here(true);
  on.trace.onDecision = (fn) => (fn === 'inner' ? thrice(on) : undefined);
  const { steps, result } = stops(inner(on, 4));
  expect(result).toBe(8);
  const expected = [
    'enter inner',
    'inner: n > 1 true',
    'enter thrice',
    'thrice: times 3',
    'leave thrice undefined',
    'leave inner 8',
  ];
  expect(words(steps)).toEqual(expected);
  expect(words(log.events)).toEqual(expected);
});

test('a path that is gone through can be made to stop from one of its events on', () => {
  const { here: on, log } = here();
  const sink = on.trace.sink;
  on.trace.sink = {
    emit: (event) => {
      sink.emit(event);
      on.trace.pausing = event.type === 'decide';
    },
  };
  const { steps, result } = stops(outer(on, 4, {}));
  expect(result).toBe(9);
  expect(words(steps)).toEqual(['inner: n > 1 true', 'outer: doubled 8']);
  expect(words(log.events)).toEqual(EXPECTED);
});
