/**
 * The story of each fault, told from the event stream alone: the instruction, the walk, what the exception
 * says, the kernel's way through it with every decision, what changed, and how it went on.
 */
import type { Arch } from '../../arch/arch.js';
import { hex, hex16 } from '../../emu/address.js';
import { type Event, isPrimitive, type Primitive } from '../../emu/events.js';
import { errnoName } from '../../kernel/errno.js';
import { outcomeText } from '../checks/check-run.js';
import { primitiveText } from '../checks/primitive-text.js';
import { type FaultStory, faultStories, resolvedBy } from './fault-story.js';

/** What a storyteller must know besides the events. */
export interface ExplainView {
  readonly arch: Arch;
  /** `write_cmask+0x4/0x10`, `a.page(3)`; null for an address without a name. */
  nameOf(address: bigint): string | null;
  /** The instruction at `pc` as text with its bytes in front; null when there is none. */
  instructionAt(pc: bigint): string | null;
  /** The BPF instruction that it was compiled from; null for other code. */
  bpfInstructionAt?(pc: bigint): string | null;
}

/** Widest line that is broken. Texts of the kernel are shown as they are. */
const WIDTH = 100;
/** Columns that the tree of a fault, in the story of a fixture, stands in. */
const MARGIN = 6;

/** The lines of the story of one step's events; `[]` when nothing faulted. */
export function explainFaults(events: readonly Event[], view: ExplainView): string[] {
  const stories = faultStories(events);
  const out: string[] = [];
  let last: string[] = [];
  let again = 0;
  const flush = (): void => {
    if (again > 0)
      out.push('', again === 1 ? 'The next fault is the same.' : `The next ${again} faults are the same.`);
    again = 0;
  };
  stories.forEach((story, i) => {
    const [head = '', ...rest] = explainFault(story, i + 1, stories.length, view);
    // An instruction that gets nowhere faults again and again: told once.
    if (i > 0 && rest.join('\n') === last.join('\n')) {
      again += 1;
      return;
    }
    flush();
    out.push(...(i === 0 ? [] : ['']), head, ...rest);
    last = rest;
  });
  flush();
  return out;
}

/** The kernel's way through what was called from outside guest code: kfuncs, deferred work. */
export function explainHostCalls(events: readonly Event[]): string[] {
  const out: string[] = [];
  let start = -1;
  events.forEach((event, i) => {
    if (event.type !== 'host-call') return;
    if (event.phase === 'start') start = i + 1;
    else for (const line of tree(events.slice(start, i))) out.push(line);
  });
  return out;
}

function explainFault(story: FaultStory, index: number, count: number, view: ExplainView): string[] {
  const { fault, walk } = story;
  const { arch } = view;
  const out: string[] = [];
  out.push(
    `Fault ${index} of ${count}: ${fault.exception}, ${fault.access} at ${address(fault.address, view)}` +
      `${fault.cpu === 0 ? '' : ` on CPU ${fault.cpu}`}`,
  );

  out.push('', '  Instruction');
  const instruction = view.instructionAt(fault.pc);
  out.push(`    ${address(fault.pc, view)}`);
  if (instruction !== null) out.push(`      ${instruction}`);
  const bpf = view.bpfInstructionAt?.(fault.pc) ?? null;
  if (bpf !== null) out.push(`      compiled from ${bpf}`);

  if (walk !== null) {
    out.push(
      '',
      `  Walk for ${article(walk.access)} at ${hex16(walk.va)} with ${walk.user ? 'user' : 'kernel'} rights`,
    );
    out.push(...arch.describeWalk(walk).map((line) => `    ${line}`));
  }

  out.push('', `  ${arch.name === 'arm64' ? 'ESR_EL1' : 'Error code'} ${hex(fault.code)}`);
  out.push(...arch.describeFault(fault.exception, fault.code).map((line) => `    ${line}`));

  out.push('', '  In the kernel');
  out.push(...tree(story.events).map((line) => `    ${line}`));

  out.push('', `  ${ending(story, view)}`);
  return out;
}

function article(access: string): string {
  return access === 'fetch' ? 'a fetch' : `a ${access}`;
}

function address(va: bigint, view: ExplainView): string {
  const name = view.nameOf(va);
  return name === null ? hex16(va) : `${hex16(va)}  ${name}`;
}

/** Functions entered as an indented tree, with what they decided and did between entry and return. */
function tree(events: readonly Event[]): string[] {
  const out: string[] = [];
  const stack: string[] = [];
  const indent = (): string => '  '.repeat(stack.length);
  events.forEach((event, i) => {
    switch (event.type) {
      case 'enter':
        out.push(...wrap(`${indent()}${event.fn}(${argumentsText(event.argNames, event.args)})`, indent()));
        stack.push(event.fn);
        break;
      case 'leave': {
        // A function that threw never left: its callers' returns close it too.
        const at = stack.lastIndexOf(event.fn);
        if (at >= 0) stack.length = at;
        const { value } = event;
        const returned = value === undefined || !isPrimitive(value) ? '' : ` = ${resultText(value)}`;
        const before = events[i - 1];
        if (before?.type === 'enter' && before.fn === event.fn) out[out.length - 1] += returned;
        else if (returned !== '') out.push(`${indent()}  return${returned.replace(' =', '')}`);
        break;
      }
      case 'decide': {
        // Callbacks and helpers that are no functions of their own here decide under their own names.
        const inside = stack.at(-1) ?? event.fn;
        const fn = inside === event.fn ? '' : `${event.fn}: `;
        out.push(...wrap(`${indent()}? ${fn}${event.test}  ${resultText(event.value)}`, `${indent()}  `));
        break;
      }
      case 'console':
      case 'stream':
        out.push(...effect(event).map((line) => `${indent()}${line}`));
        break;
      default:
        out.push(...effect(event).flatMap((line) => wrap(`${indent()}${line}`, `${indent()}  `)));
    }
  });
  return out;
}

/** What an event did to the machine or told somebody; steps of the path are not effects. */
function effect(event: Event): string[] {
  switch (event.type) {
    case 'pte-write': {
      const change = event.changed
        ? `${hex16(event.old)} -> ${hex16(event.value)}`
        : `${hex16(event.old)} stays (tried to store ${hex16(event.value)})`;
      return [`* ${event.by}: ${event.level} at ${hex(event.pa)}: ${change}`];
    }
    case 'populate':
      return [`* tables for ${hex16(event.start)}-${hex16(event.end - 1n)}: ${event.tables} pages`];
    case 'tlb-flush':
      return [`* ${event.by}: TLB flush, ${event.va === null ? 'everything' : hex16(event.va)}`];
    case 'page':
      return [
        `* page ${hex(event.pa)} ${event.action === 'alloc' ? 'taken' : 'given back'} (${event.owner})`,
      ];
    case 'console':
      return block(`* console <${event.level}>`, event.text);
    case 'stream':
      return event.dropped
        ? [`* ${event.program} ${event.stream}: full, the report is dropped`]
        : block(`* ${event.program} ${event.stream}`, event.text());
    case 'fault':
      return [`* ${event.exception} inside: ${event.access} at ${hex16(event.address)}`];
    case 'run':
    case 'walk':
    case 'resolved':
    case 'outcome':
    case 'host-call':
    case 'enter':
    case 'leave':
    case 'decide':
      return [];
  }
}

function block(head: string, text: string): string[] {
  const lines = text.replace(/\n+$/, '').split('\n');
  const only = lines[0] ?? '';
  return lines.length === 1 ? [`${head}: ${only}`] : [`${head}:`, ...lines.map((line) => `    | ${line}`)];
}

function argumentsText(names: readonly string[], args: readonly unknown[]): string {
  // What has no name is no argument of the kernel's function.
  return names
    .flatMap((name, i) => {
      const value = args[i];
      return value === undefined || !isPrimitive(value) ? [] : [`${name}=${valueText(value)}`];
    })
    .join(', ');
}

/** A result or a decision: negative ones that are errnos by their names. */
function resultText(value: Primitive): string {
  const name = typeof value === 'number' && value < 0 ? errnoName(value) : null;
  return name === null ? valueText(value) : `-${name}`;
}

/** Numbers small enough to be counts or errnos in decimal, others in hexadecimal. */
function valueText(value: Primitive): string {
  if (typeof value === 'number') return Math.abs(value) < 4096 ? String(value) : hex(value);
  return primitiveText(value);
}

/** Breaks a long line at blanks. */
function wrap(line: string, indent: string): string[] {
  const limit = WIDTH - MARGIN;
  if (line.length <= limit) return [line];
  const out: string[] = [];
  let rest = line;
  while (rest.length > limit) {
    const at = rest.lastIndexOf(' ', limit);
    if (at <= indent.length + 4) break;
    out.push(rest.slice(0, at).trimEnd());
    rest = `${indent}    ${rest.slice(at + 1).trimStart()}`;
  }
  return [...out, rest];
}

function ending(story: FaultStory, view: ExplainView): string {
  if (story.outcome !== null) return `End: ${outcomeText(story.outcome)}`;
  if (story.resolved === null) return 'The run goes no further.';
  const where = address(story.resolved.pc, view);
  switch (story.resolved.how) {
    case 'retry':
      return `Retry (${resolvedBy(story)}): the same instruction again at ${where}`;
    case 'fixup':
      return `Fixup: goes on at ${where}`;
    case 'dead':
      return 'The task does not go on.';
  }
}
