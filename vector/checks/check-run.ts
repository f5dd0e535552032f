/** Expectations about what happened: outcome, faults, console and streams. All read from events. */
import {
  BUS_ADRALN,
  BUS_ADRERR,
  BUS_OBJERR,
  SEGV_ACCERR,
  SEGV_MAPERR,
  SEGV_PKUERR,
  SIGBUS,
  SIGKILL,
  SIGSEGV,
} from '../../arch/kernel.js';
import { hex } from '../../emu/address.js';
import type { Event, RunOutcome } from '../../emu/events.js';
import type { FaultExpect, OutcomeExpect, RunExpect, StateExpect } from '../format/schema-expect.js';
import type { Path } from '../format/source.js';
import {
  allStreamText,
  consoleLines,
  entered,
  type FaultStory,
  faultStories,
  resolvedBy,
  streamText,
} from '../report/fault-story.js';
import { checkWay } from './check-happened.js';
import type { Checks } from './failure.js';

const SIGNALS: ReadonlyMap<number, string> = new Map([
  [SIGBUS, 'SIGBUS'],
  [SIGKILL, 'SIGKILL'],
  [SIGSEGV, 'SIGSEGV'],
]);
const SEGV_CODES: ReadonlyMap<number, string> = new Map([
  [SEGV_MAPERR, 'SEGV_MAPERR'],
  [SEGV_ACCERR, 'SEGV_ACCERR'],
  [SEGV_PKUERR, 'SEGV_PKUERR'],
]);
const BUS_CODES: ReadonlyMap<number, string> = new Map([
  [BUS_ADRALN, 'BUS_ADRALN'],
  [BUS_ADRERR, 'BUS_ADRERR'],
  [BUS_OBJERR, 'BUS_OBJERR'],
]);

/** Lines of console shown with an outcome that nobody expected. */
const CONSOLE_SHOWN = 40;

/** `returned`, `oops: BUG: …`, `signal: SIGSEGV, SEGV_MAPERR at 0x0`. */
export function outcomeText(outcome: RunOutcome): string {
  switch (outcome.kind) {
    case 'returned':
      return 'returned';
    case 'oops':
      return `oops: ${outcome.title}`;
    case 'panic':
      return `panic: ${outcome.title}`;
    case 'signal':
      return `signal: ${signalText(outcome.signo, outcome.code)} at ${hex(outcome.address)}${outcome.pkey === undefined ? '' : `, key ${outcome.pkey}`}`;
    case 'livelock':
      return (
        `livelock: ${outcome.turns} turns ${outcome.pc === null ? '' : `at ${hex(outcome.pc)} `}` +
        `for ${hex(outcome.address)} without progress`
      );
    case 'budget':
      return `budget: ${outcome.instructions} instructions used up`;
    case 'deadline':
      return `deadline: ${outcome.milliseconds} ms are over`;
    case 'stopped':
      return `stopped at ${hex(outcome.pc)}: ${outcome.why}`;
  }
}

/** `SIGSEGV, SEGV_MAPERR`; numbers for what has no name here. */
function signalText(signo: number, code: number): string {
  const codes = signo === SIGSEGV ? SEGV_CODES : signo === SIGBUS ? BUS_CODES : new Map<number, string>();
  return `${SIGNALS.get(signo) ?? signo}, ${codes.get(code) ?? `code ${code}`}`;
}

/** Checks how a call from outside guest code ended. */
export function checkEnd(
  checks: Checks,
  expected: OutcomeExpect | undefined,
  path: Path,
  outcome: RunOutcome,
  events: readonly Event[],
): void {
  checkOutcome(checks, expected ?? 'returned', [...path, 'outcome'], outcome, events, faultStories(events));
}

/** Checks how a run of code ended, its faults and its texts. */
export function checkRun(
  checks: Checks,
  expect: RunExpect | undefined,
  path: Path,
  outcome: RunOutcome,
  events: readonly Event[],
): void {
  const stories = faultStories(events);
  checkOutcome(checks, expect?.outcome ?? 'returned', [...path, 'outcome'], outcome, events, stories);
  if (expect?.faults !== undefined) checkFaults(checks, expect.faults, [...path, 'faults'], stories);
  if (expect !== undefined) checkTexts(checks, expect, path, events);
}

function checkOutcome(
  checks: Checks,
  expected: OutcomeExpect,
  path: Path,
  outcome: RunOutcome,
  events: readonly Event[],
  stories: readonly FaultStory[],
): void {
  const wanted = typeof expected === 'string' ? { kind: expected } : expected;
  const kindPath = typeof expected === 'string' ? path : [...path, 'kind'];
  if (wanted.kind !== outcome.kind) {
    checks.fail('outcome', kindPath, wanted.kind, outcomeText(outcome), {
      notes: circumstances(checks, events, stories),
    });
    return;
  }
  if (typeof expected === 'string') return;
  const title = outcome.kind === 'oops' || outcome.kind === 'panic' ? outcome.title : '';
  checks.equal('outcome', [...path, 'title'], expected.title, title);
  checks.equal('outcome', [...path, 'why'], expected.why, outcome.kind === 'stopped' ? outcome.why : '');
  for (const key of OUTCOME_NUMBERS) {
    checks.number('outcome', [...path, key], expected[key], outcomeNumber(outcome, key));
  }
}

const OUTCOME_NUMBERS = ['signo', 'code', 'address', 'pkey', 'pc', 'turns'] as const;

function outcomeNumber(outcome: RunOutcome, key: (typeof OUTCOME_NUMBERS)[number]): bigint | null {
  const fields: Partial<Record<string, bigint>> = (() => {
    switch (outcome.kind) {
      case 'oops':
        return { signo: BigInt(outcome.signal) };
      case 'signal':
        return {
          signo: BigInt(outcome.signo),
          code: BigInt(outcome.code),
          address: outcome.address,
          ...(outcome.pkey === undefined ? {} : { pkey: BigInt(outcome.pkey) }),
        };
      case 'livelock':
        return {
          address: outcome.address,
          ...(outcome.pc === null ? {} : { pc: outcome.pc }),
          turns: BigInt(outcome.turns),
        };
      case 'stopped':
        return { pc: outcome.pc };
      case 'returned':
      case 'panic':
      case 'budget':
      case 'deadline':
        return {};
    }
  })();
  return fields[key] ?? null;
}

/** What a person asks first when a run ended otherwise: the last fault and the console. */
function circumstances(checks: Checks, events: readonly Event[], stories: readonly FaultStory[]): string[] {
  const notes: string[] = [];
  const last = stories.at(-1);
  if (last !== undefined) {
    notes.push(`last fault: ${faultText(checks, last)}`, `its path: ${entered(last).join(' → ') || 'none'}`);
  }
  const lines = consoleLines(events);
  if (lines.length > 0) {
    notes.push('console:', ...lines.slice(0, CONSOLE_SHOWN).map((line) => `  ${line}`));
    if (lines.length > CONSOLE_SHOWN) notes.push(`  … ${lines.length - CONSOLE_SHOWN} more lines`);
  }
  return notes;
}

/** One line about a fault. */
function faultText(checks: Checks, story: FaultStory): string {
  const { exception, access, address, code, pc } = story.fault;
  return (
    `${exception} ${access} at ${checks.shown(address)}, code ${hex(code)}, ` +
    `by ${checks.machine.nameOf(pc) ?? hex(pc)}, resolved by ${resolvedBy(story)}`
  );
}

function checkFaults(
  checks: Checks,
  expected: readonly FaultExpect[],
  path: Path,
  stories: readonly FaultStory[],
): void {
  if (expected.length !== stories.length) {
    const count = (n: number): string => `${n === 0 ? 'no' : n} fault${n === 1 ? '' : 's'}`;
    checks.fail('faults', path, count(expected.length), count(stories.length), {
      notes: stories.map((story, i) => `${i}: ${faultText(checks, story)}`),
    });
  }
  expected.forEach((want, i) => {
    const story = stories[i];
    if (story !== undefined) checkFault(checks, want, [...path, i], story);
  });
}

function checkFault(checks: Checks, want: FaultExpect, path: Path, story: FaultStory): void {
  const { fault } = story;
  checks.number('faults', [...path, 'address'], want.address, fault.address);
  checks.number('faults', [...path, 'error_code'], want.error_code, fault.code);
  checks.number('faults', [...path, 'esr'], want.esr, fault.code);
  checks.equal('faults', [...path, 'access'], want.access, fault.access);
  checks.equal('faults', [...path, 'exception'], want.exception, fault.exception);
  checks.number('faults', [...path, 'pc'], want.pc, fault.pc);
  checkWay(checks, 'faults', want, path, story);
  checks.equal('faults', [...path, 'resolved_by'], want.resolved_by, resolvedBy(story));
  checks.text('faults', [...path, 'stream'], want.stream, allStreamText(story.events));
}

/** Console and stream texts of a stretch of events. */
export function checkTexts(
  checks: Checks,
  expect: Pick<StateExpect, 'console' | 'streams'>,
  path: Path,
  events: readonly Event[],
): void {
  checks.text(
    'console',
    [...path, 'console'],
    expect.console,
    consoleLines(events, checks.console)
      .map((line) => `${line}\n`)
      .join(''),
  );
  for (const [program, streams] of Object.entries(expect.streams ?? {})) {
    const at = [...path, 'streams', program];
    let dropped = 0;
    for (const stream of ['stdout', 'stderr'] as const) {
      const actual = streamText(events, program, stream);
      dropped += actual.dropped;
      checks.text('streams', [...at, stream], streams[stream], actual.text);
    }
    checks.number('streams', [...at, 'dropped'], streams.dropped, BigInt(dropped));
  }
}
