/** The call stack: ported functions of the path, then code, then the step of the fixture that has led there. */
import { basename } from 'node:path';
import type { DebugProtocol } from '@vscode/debugprotocol';
import { hex } from '../../emu/address.js';
import type { DebugSession } from '../api.js';
import type { PathCall, StepView } from '../views.js';
import type { Client } from './client.js';
import type { FixtureLines } from './fixture-lines.js';
import { Handles } from './handles.js';
import { reference } from './memory-reference.js';
import { currentLines, pathText, type VirtualSources } from './path-source.js';
import { RequestError } from './request-error.js';
import type { Arguments } from './requests.js';

/** What a frame stands for. */
export type FrameRef =
  | { readonly kind: 'call'; readonly cpu: number; readonly call: PathCall }
  /** `level` is 0 where registers are those of the CPU. */
  | {
      readonly kind: 'code';
      readonly cpu: number;
      readonly level: number;
      readonly pc: bigint;
      readonly sp: bigint | null;
    }
  | { readonly kind: 'step'; readonly cpu: number };

const PATH_NAME = 'path of the fault';

export interface FrameSurroundings {
  readonly session: DebugSession;
  /** Absolute. */
  readonly file: string;
  readonly client: Client;
  readonly lines: FixtureLines;
  readonly sources: VirtualSources;
}

/** Threads are CPUs: their numbers count from 1. */
export function threadOf(cpu: number): number {
  return cpu + 1;
}

export class Frames {
  readonly #handles = new Handles<FrameRef>();
  /** Frames of a thread, once somebody has asked. */
  readonly #known = new Map<number, readonly DebugProtocol.StackFrame[]>();

  constructor(readonly around: FrameSurroundings) {}

  forget(): void {
    this.#handles.forget();
    this.#known.clear();
  }

  /** What the user has changed may show in the stack; numbers go on to mean what they do. */
  refresh(): void {
    this.#known.clear();
  }

  /** Throws a RequestError for a number that is not known. */
  get(id: number): FrameRef {
    const frame = this.#handles.get(id);
    if (frame !== undefined) return frame;
    throw new RequestError(`there is no frame ${id}: frames go when the machine moves`);
  }

  list({ threadId, startFrame, levels }: Arguments<'stackTrace'>): {
    readonly stackFrames: DebugProtocol.StackFrame[];
    readonly totalFrames: number;
  } {
    const { session } = this.around;
    const cpu = threadId - 1;
    if (cpu < 0 || cpu >= session.cpus) {
      const known = session.cpus === 1 ? 'thread 1' : `threads 1 to ${session.cpus}`;
      throw new RequestError(`there is no thread ${threadId}: this machine has ${known}`);
    }
    const all = this.#known.get(cpu) ?? this.#make(cpu);
    this.#known.set(cpu, all);
    return {
      stackFrames: all.slice(startFrame, levels > 0 ? startFrame + levels : undefined),
      totalFrames: all.length,
    };
  }

  #make(cpu: number): DebugProtocol.StackFrame[] {
    const { session } = this.around;
    if (cpu !== session.cpu) return [this.#codeFrame(cpu, 0, session.register('pc', cpu), null)];
    const code = session
      .callStack()
      .flatMap(({ pc, sp }) => (pc === null ? [] : [{ pc, sp }]))
      .map(({ pc, sp }, level) => this.#codeFrame(cpu, level, pc, sp));
    const path = this.#pathFrames(cpu, code.length > 0);
    const frames = [...path, ...code];
    const step = this.#stepFrame(cpu, frames.length > 0);
    return step === null ? frames : [...frames, step];
  }

  #pathFrames(cpu: number, hasCode: boolean): DebugProtocol.StackFrame[] {
    const { session, sources, client } = this.around;
    const path = session.path();
    if (path.stack.length === 0) return [];
    const text = pathText(path, (address) => session.nameOf(address));
    const source = pathSource(sources.numberOf(text.text));
    const lines = currentLines(path, text);
    return path.stack
      .map((call, i) => ({
        id: this.#handles.create({ kind: 'call', cpu, call }),
        name: call.fn,
        source,
        line: client.line(lines[i] ?? 1),
        column: client.column(1),
        // The handlers are no guest code: what they handle is.
        ...(hasCode ? { instructionPointerReference: reference(session.pc) } : {}),
      }))
      .reverse();
  }

  #codeFrame(cpu: number, level: number, pc: bigint, sp: bigint | null): DebugProtocol.StackFrame {
    const { session, lines, client } = this.around;
    const line = lines.lineOf(pc, level > 0);
    return {
      id: this.#handles.create({ kind: 'code', cpu, level, pc, sp }),
      name: session.nameOf(pc) ?? hex(pc),
      ...(line === null
        ? { line: 0, column: 0 }
        : { source: this.#fixtureSource(), line: client.line(line), column: client.column(1) }),
      instructionPointerReference: reference(pc),
    };
  }

  #stepFrame(cpu: number, subtle: boolean): DebugProtocol.StackFrame | null {
    const { session, client } = this.around;
    const step = stepHere(session);
    if (step === null) return null;
    const state = step.state === 'running' || step.state === 'waiting' ? '' : ` (${step.state})`;
    return {
      id: this.#handles.create({ kind: 'step', cpu }),
      name: `${step.where}: ${step.text}${state}`,
      source: this.#fixtureSource(),
      line: client.line(step.line),
      column: client.column(1),
      ...(subtle ? { presentationHint: 'subtle' as const } : {}),
    };
  }

  #fixtureSource(): DebugProtocol.Source {
    return fixtureSource(this.around.file, this.around.client);
  }
}

/** The step that runs, or comes next, or was the last. */
function stepHere(session: DebugSession): StepView | null {
  const steps = session.fixtureSteps();
  const running = session.currentStep();
  if (running !== null) return running;
  if (session.position.place === 'start') return steps[0] ?? null;
  return steps.findLast(({ state }) => state !== 'waiting') ?? steps[0] ?? null;
}

export function fixtureSource(file: string, client: Client): DebugProtocol.Source {
  return { name: basename(file), path: client.path(file) };
}

export function pathSource(number: number): DebugProtocol.Source {
  return { name: PATH_NAME, sourceReference: number, origin: 'the kernel’s fault path' };
}
