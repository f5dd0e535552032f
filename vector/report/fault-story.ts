/** The event stream cut into faults: what each was, what was done about it and how it ended. */
import type {
  DecideEvent,
  Event,
  FaultEvent,
  ResolvedEvent,
  RunOutcome,
  WalkEvent,
} from '../../emu/events.js';
import { type ConsoleFormat, PLAIN, record_print_text } from '../../kernel/printk.js';
import type { RESOLUTIONS } from '../format/schema-expect.js';

export type Resolution = (typeof RESOLUTIONS)[number];

export interface FaultStory {
  readonly fault: FaultEvent;
  /** The walk that missed; null where none was made (#GP on a non-canonical address, alignment). */
  readonly walk: WalkEvent | null;
  /** Everything from behind the fault to its end, that of faults inside it included. */
  readonly events: readonly Event[];
  /** How the instruction went on; null when it did not. */
  readonly resolved: ResolvedEvent | null;
  /** How the run ended, when it ended in this fault. */
  readonly outcome: RunOutcome | null;
}

interface OpenStory {
  readonly fault: FaultEvent;
  readonly walk: WalkEvent | null;
  readonly events: Event[];
  resolved: ResolvedEvent | null;
  outcome: RunOutcome | null;
}

/** The faults of a stretch of events, in the order in which they were taken. */
export function faultStories(events: readonly Event[]): FaultStory[] {
  const all: OpenStory[] = [];
  let open: OpenStory[] = [];
  const walks = new Map<number, WalkEvent>();

  for (const event of events) {
    if (event.type === 'walk') {
      walks.set(event.cpu, event);
      continue;
    }
    if (event.type === 'fault') {
      for (const story of open) if (story.fault.cpu === event.cpu) story.events.push(event);
      const story: OpenStory = {
        fault: event,
        walk: walks.get(event.cpu) ?? null,
        events: [],
        resolved: null,
        outcome: null,
      };
      walks.delete(event.cpu);
      all.push(story);
      open.push(story);
      continue;
    }
    // Only one CPU moves at a time, but a path may be interrupted by another CPU's.
    const mine = open.filter((story) => story.fault.cpu === event.cpu);
    for (const story of mine) story.events.push(event);
    if (event.type === 'resolved') {
      const innermost = mine.findLast((story) => story.resolved === null);
      if (innermost !== undefined) {
        innermost.resolved = event;
        // What killed the task is said by the outcome that follows.
        if (event.how !== 'dead') open = open.filter((story) => story !== innermost);
      }
    } else if (event.type === 'outcome') {
      for (const story of mine) story.outcome = event.outcome;
      open = open.filter((story) => story.fault.cpu !== event.cpu);
      walks.delete(event.cpu);
    }
  }
  return all;
}

/** Names of the functions entered, in order. */
export function entered(story: Pick<FaultStory, 'events'>): string[] {
  return story.events.flatMap((event) => (event.type === 'enter' ? [event.fn] : []));
}

export function decisions(story: Pick<FaultStory, 'events'>): DecideEvent[] {
  return story.events.filter((event) => event.type === 'decide');
}

/** What ended a fault, as the events tell it. */
export function resolvedBy(story: FaultStory): Resolution {
  switch (story.outcome?.kind) {
    case 'oops':
    case 'panic':
    case 'signal':
      return story.outcome.kind;
    default:
  }
  switch (story.resolved?.how) {
    case 'fixup':
      return 'fixup';
    case 'retry':
      return retriedBecause(story);
    case 'dead':
    case undefined:
      return 'none';
  }
}

/** Functions whose `true` lets the instruction try again, under both architectures' names. */
const GRANTS: Readonly<Record<string, Resolution>> = {
  bpf_arena_handle_page_fault: 'scratch',
  kfence_handle_page_fault: 'kfence',
  spurious_kernel_fault: 'spurious',
  is_spurious_el1_translation_fault: 'spurious',
};

function retriedBecause(story: FaultStory): Resolution {
  let reason: Resolution = 'none';
  for (const event of story.events) {
    if (event.type !== 'leave') continue;
    const granted = GRANTS[event.fn];
    if (granted !== undefined && event.value === true) reason = granted;
    if (event.fn === 'handle_mm_fault') reason = 'vm';
  }
  return reason;
}

/** Text that reports wrote to a program's stream; reports that were dropped left none. */
export function streamText(
  events: readonly Event[],
  program: string,
  stream: 'stdout' | 'stderr',
): { text: string; dropped: number } {
  let text = '';
  let dropped = 0;
  for (const event of events) {
    if (event.type !== 'stream' || event.program !== program || event.stream !== stream) continue;
    if (event.dropped) dropped += 1;
    else text += event.text();
  }
  return { text, dropped };
}

/** All stream text of a stretch of events, whatever program it belongs to. */
export function allStreamText(events: readonly Event[]): string {
  return events.map((event) => (event.type === 'stream' && !event.dropped ? event.text() : '')).join('');
}

/** The kernel log of a stretch of events, one string per line. */
export function consoleLines(events: readonly Event[], format: ConsoleFormat = PLAIN): string[] {
  return events.flatMap((event) => (event.type === 'console' ? record_print_text(event, format) : []));
}
