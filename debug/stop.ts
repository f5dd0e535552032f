/** Why a session has stopped, for programs and for people. */
import { hex } from '../emu/address.js';
import {
  type AccessType,
  type DecideEvent,
  type EnterEvent,
  type FaultEvent,
  isPrimitive,
  type LeaveEvent,
  type Primitive,
  type ResolvedEvent,
} from '../emu/events.js';
import { errnoName } from '../kernel/errno.js';
import type { Position } from './position.js';

/** A breakpoint or watchpoint that was hit: its number, and what it says for people. */
export interface Hit {
  readonly id: number;
  readonly text: string;
  /** Why its condition has no value here, where that is so. */
  readonly problem?: string;
}

/** What a data watchpoint saw. Bytes are those of the watched range. */
export interface WatchHit extends Hit {
  /** Virtual address of the first byte of the range that was touched or changed. */
  readonly address: bigint;
  readonly access: 'read' | 'write';
  /** Null where the range was not mapped. */
  readonly before: Uint8Array | null;
  readonly after: Uint8Array | null;
}

/** What a watchpoint on a table entry saw; null where the walk did not get to that level. */
export interface EntryHit extends Hit {
  readonly va: bigint;
  readonly level: string;
  readonly before: bigint | null;
  readonly after: bigint | null;
}

export type StopReason =
  /** Before the first step of the fixture: nothing has run. */
  | { readonly kind: 'start' }
  /** A step of the user's is done. In guest code: pc is the next instruction. */
  | { readonly kind: 'stepped' }
  /** pc has come to a breakpoint. */
  | { readonly kind: 'breakpoint'; readonly hit: Hit; readonly pc: bigint }
  /** A ported function was entered that has a breakpoint. */
  | { readonly kind: 'function'; readonly hit: Hit; readonly event: EnterEvent }
  /** An exception was taken; `hit` is null when a step of the user's led there. */
  | { readonly kind: 'fault'; readonly hit: Hit | null; readonly event: FaultEvent }
  | { readonly kind: 'kfence'; readonly hit: Hit; readonly address: bigint }
  /** The scratch page was put into a table entry. */
  | { readonly kind: 'scratch'; readonly hit: Hit; readonly entryPa: number }
  | { readonly kind: 'oops'; readonly hit: Hit; readonly title: string }
  | { readonly kind: 'console'; readonly hit: Hit; readonly line: string }
  | { readonly kind: 'watchpoint'; readonly hit: WatchHit }
  | { readonly kind: 'entry'; readonly hit: EntryHit }
  /** The path has come to a step: a decision, or the entry or return of a ported function. */
  | { readonly kind: 'path'; readonly event: EnterEvent | DecideEvent | LeaveEvent }
  /** The fault is over: guest code goes on at pc. */
  | { readonly kind: 'resolved'; readonly event: ResolvedEvent | null; readonly pc: bigint }
  /** The function that was to be finished has returned. */
  | { readonly kind: 'finished'; readonly fn: string; readonly value: Primitive | 'object' }
  /** A step of the fixture begins or has ended. */
  | { readonly kind: 'fixture-step'; readonly phase: 'begins' | 'ended'; readonly hit: Hit | null }
  | { readonly kind: 'interrupted' }
  /** Going back, the start was reached and nothing was hit on the way. */
  | { readonly kind: 'history-begin' }
  /** The last step is done; the result of the fixture is there. */
  | { readonly kind: 'end'; readonly status: 'passed' | 'failed' | 'invalid' };

/** A reason that breakpoints and watchpoints give. */
export type HitReason = Extract<StopReason, { readonly hit: unknown }>;

/** Where and why a session has stopped. */
export interface Stop {
  readonly reason: StopReason;
  /** What other breakpoints and watchpoints that were hit here say, in the order in which they were. */
  readonly others: readonly StopReason[];
  readonly position: Position;
  /** Lines for people, of all that was hit. */
  readonly text: string;
}

/** Numbers of all breakpoints that were hit at a stop, the one that is the reason first. */
export function hitIds({ reason, others }: Stop): number[] {
  return [reason, ...others].flatMap((each) => ('hit' in each && each.hit !== null ? [each.hit.id] : []));
}

/** A value of the event stream in a line of text. */
export function valueText(value: unknown): string {
  if (!isPrimitive(value)) return '…';
  if (typeof value === 'bigint') return value < 0n ? String(value) : hex(value);
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

/** What a decision or a function came to, as text: negative numbers are errnos as a rule. */
export function resultText(text: string): string {
  const errno = /^-[0-9]{1,4}$/.test(text) ? errnoName(Number(text)) : null;
  return errno === null ? text : `-${errno}`;
}

/** `0xffffffff81100004 <write_cmask+0x4/0x9>`, or the number alone. */
export function namedAddress(address: bigint, nameOf: (address: bigint) => string | null): string {
  const name = nameOf(address);
  return name === null ? hex(address) : `${hex(address)} <${name}>`;
}

const ACCESS: Readonly<Record<AccessType, string>> = { read: 'read', write: 'write', fetch: 'fetch' };

/** `Breakpoint 1, write_cmask+0x4` and so on. `nameOf` names addresses. */
export function stopText(reason: StopReason, nameOf: (address: bigint) => string | null): string {
  const text = reasonText(reason, nameOf);
  const hit = 'hit' in reason ? reason.hit : null;
  if (hit?.problem === undefined) return text;
  return `Error in testing condition for breakpoint ${hit.id}:\n${hit.problem}\n${text}`;
}

function reasonText(reason: StopReason, nameOf: (address: bigint) => string | null): string {
  const at = (address: bigint): string => namedAddress(address, nameOf);
  switch (reason.kind) {
    case 'start':
      return 'At the start: no step of the fixture has run.';
    case 'stepped':
      return '';
    case 'breakpoint':
      return `Breakpoint ${reason.hit.id}, ${at(reason.pc)}`;
    case 'function':
      return `Breakpoint ${reason.hit.id}, ${callText(reason.event)}`;
    case 'fault': {
      const { exception, pc, address, code, access } = reason.event;
      const prefix = reason.hit === null ? '' : `Catchpoint ${reason.hit.id}: `;
      return `${prefix}${exception} at ${at(pc)}: ${ACCESS[access]} of ${at(address)}, code ${hex(code)}`;
    }
    case 'kfence':
      return `Catchpoint ${reason.hit.id}: fault in the KFENCE pool at ${at(reason.address)}`;
    case 'scratch':
      return `Catchpoint ${reason.hit.id}: scratch page installed in the entry at physical ${hex(BigInt(reason.entryPa))}`;
    case 'oops':
      return `Catchpoint ${reason.hit.id}: ${reason.title}`;
    case 'console':
      return `Catchpoint ${reason.hit.id}: console: ${reason.line}`;
    case 'watchpoint':
      return watchText(reason.hit, at);
    case 'entry': {
      const { id, va, level, before, after } = reason.hit;
      return [
        `Watchpoint ${id}: ${level.toUpperCase()} of ${at(va)}`,
        `Old entry = ${entryText(before)}`,
        `New entry = ${entryText(after)}`,
      ].join('\n');
    }
    case 'path':
      return stepText(reason.event);
    case 'resolved':
      return reason.event === null
        ? `Goes on at ${at(reason.pc)}`
        : `Fault resolved (${reason.event.how}): goes on at ${at(reason.pc)}`;
    case 'finished':
      return reason.value === 'object' || reason.value === undefined
        ? `${reason.fn} has returned`
        : `${reason.fn} has returned ${resultText(valueText(reason.value))}`;
    case 'fixture-step':
      if (reason.hit !== null) return `Catchpoint ${reason.hit.id}: a step begins.`;
      return reason.phase === 'begins' ? 'A step of the fixture begins.' : 'A step of the fixture has ended.';
    case 'interrupted':
      return 'Interrupted.';
    case 'history-begin':
      return 'No more history: this is the start of the run.';
    case 'end':
      return `The run is over: the fixture ${reason.status === 'invalid' ? 'is invalid' : `has ${reason.status}`}.`;
  }
}

function entryText(entry: bigint | null): string {
  return entry === null ? 'none: the tables end above it' : hex(entry);
}

function watchText(hit: WatchHit, at: (address: bigint) => string): string {
  const kind = hit.access === 'read' ? 'Read' : 'Write';
  const head = `Watchpoint ${hit.id}: ${kind} of ${at(hit.address)}`;
  if (hit.access === 'read') return `${head}\nValue = ${bytesText(hit.after)}`;
  return [head, `Old value = ${bytesText(hit.before)}`, `New value = ${bytesText(hit.after)}`].join('\n');
}

/** Up to eight bytes as a number, more as they are in memory. */
function bytesText(bytes: Uint8Array | null): string {
  if (bytes === null) return 'not mapped';
  if (bytes.length > 8) return Buffer.from(bytes).toString('hex');
  return hex(bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n));
}

function callText({ fn, args, argNames }: EnterEvent): string {
  const shown = argNames.map((name, i) => `${name}=${valueText(args[i])}`);
  return `${fn}(${shown.join(', ')})`;
}

/** A step of a path in a line. */
export function stepText(event: EnterEvent | DecideEvent | LeaveEvent): string {
  switch (event.type) {
    case 'enter':
      return callText(event);
    case 'decide':
      return `${event.fn}: ${event.test} → ${resultText(valueText(event.value))}`;
    case 'leave':
      return event.value === undefined
        ? `${event.fn} returns`
        : `${event.fn} returns ${resultText(valueText(event.value))}`;
  }
}
