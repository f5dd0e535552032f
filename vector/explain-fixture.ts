/** `kfault explain`: runs a fixture and tells the story of its faults, step by step. */
import { hex } from '../emu/address.js';
import { bytesText } from '../emu/assembler/source.js';
import type { Engine } from '../emu/cpu.js';
import { instructionText, loadDisassembler } from '../emu/disassembler.js';
import type { ConsoleFormat } from '../kernel/printk.js';
import { buildMachine } from './build-machine.js';
import { outcomeText } from './checks/check-run.js';
import { type ExplainView, explainFaults, explainHostCalls } from './explain.js';
import { consoleLines } from './fault-story.js';
import { printable } from './fixture-error.js';
import type { Fixture } from './load.js';
import type { Machine } from './machine.js';
import { runSteps } from './run-steps.js';
import { STEP_KEYS, type Step } from './schema-steps.js';

/** Longest instruction of either architecture, in bytes. */
const INSTRUCTION_MAX = 15;

export interface ExplainOptions {
  /** Number of the only step to tell about, from 1; all of them if null. */
  readonly step: number | null;
}

/** The story as lines of text. Throws FixtureError and FixtureErrors like running does. */
export async function explainFixture(
  fixture: Fixture,
  engine: Engine,
  options: ExplainOptions,
): Promise<string[]> {
  const { source, data } = fixture;
  requireStep(fixture, options);
  const disassembler = await loadDisassembler();
  const { machine } = await buildMachine(fixture, engine);
  try {
    const view: ExplainView = {
      arch: machine.arch,
      nameOf: (address) => machine.nameOf(address),
      instructionAt: (pc) => instructionAt(machine, pc),
    };
    // Instructions are read when the story is told: text does not change in a fixture's run.
    const { spans } = runSteps(fixture, machine);
    const out = [data.name, `${data.arch}, ${source.file}`];
    data.steps.forEach((step, i) => {
      if (options.step !== null && options.step !== i + 1) return;
      const span = spans[i];
      if (span === undefined) return;
      const events = machine.events.slice(span.start, span.end);
      const faults = explainFaults(events, view);
      const outcome = events.findLast((event) => event.type === 'outcome');
      out.push('', `Step ${i + 1}: ${stepText(step)}`);
      if (faults.length > 0) out.push('', ...faults.map((line) => (line === '' ? '' : `  ${line}`)), '');
      const called = explainHostCalls(events);
      if (called.length > 0) out.push('', ...called.map((line) => `  ${line}`));
      if (outcome !== undefined) {
        out.push(`  ${faults.length === 0 ? 'No fault. ' : ''}Outcome: ${outcomeText(outcome.outcome)}`);
      }
    });
    return out.map(printable);
  } finally {
    machine.close();
  }

  function instructionAt(machine: Machine, pc: bigint): string | null {
    for (let length = INSTRUCTION_MAX; length > 0; length -= 1) {
      const bytes = machine.readMemory(0, pc, length);
      if (bytes === null) continue;
      const [instruction] = disassembler.disassemble(data.arch, bytes, pc, {
        count: 1,
        symbolize: (target) => machine.nameOf(target),
      });
      if (instruction === undefined) return null;
      return `${bytesText(data.arch, instruction.bytes)}   ${instructionText(instruction)}`;
    }
    return null;
  }
}

export interface ConsoleOptions extends ExplainOptions {
  readonly format: ConsoleFormat;
}

/** The kernel log of a run, line by line as a console prints it. Throws like `explainFixture`. */
export async function consoleOfFixture(
  fixture: Fixture,
  engine: Engine,
  options: ConsoleOptions,
): Promise<string[]> {
  requireStep(fixture, options);
  const { machine } = await buildMachine(fixture, engine);
  try {
    const { spans } = runSteps(fixture, machine);
    const span = options.step === null ? undefined : spans[options.step - 1];
    const events = span === undefined ? machine.events : machine.events.slice(span.start, span.end);
    return consoleLines(events, options.format).map(printable);
  } finally {
    machine.close();
  }
}

function requireStep({ source, data }: Fixture, { step }: ExplainOptions): void {
  if (step === null || step <= data.steps.length) return;
  const count = data.steps.length;
  throw source.at(
    ['steps'],
    `there is no step ${step}: the fixture has ${count} step${count === 1 ? '' : 's'}`,
  );
}

/** `call bpf_prog_set_cmask`, with the step's own name behind it. */
export function stepText(step: Step): string {
  const key = STEP_KEYS.find((each) => Object.hasOwn(step, each)) ?? 'check';
  const name = step.name === undefined ? '' : `  (${step.name})`;
  return `${key}${stepObject(step)}${name}`;
}

function stepObject(step: Step): string {
  if ('call' in step) return ` ${placeText(step.call)}`;
  if ('user' in step) return ` ${placeText(step.user)}`;
  if ('kfunc' in step) return ` ${step.kfunc}`;
  if ('kernel' in step) return ` ${step.kernel}`;
  if ('stream_read' in step) return ` ${step.stream_read.program}`;
  if ('write' in step) return ` at ${placeText(step.write.at)}`;
  if ('read' in step) return ` at ${placeText(step.read.at)}`;
  if ('pte' in step) return ` of ${placeText(step.pte.va)}`;
  if ('tlb' in step) return 'keep' in step.tlb ? ` keep ${placeText(step.tlb.keep)}` : ' flush';
  if ('destroy' in step) return ` ${step.destroy}`;
  return '';
}

/** An address as it was written; a bare number in hexadecimal, however YAML had it. */
function placeText({ text }: { readonly text: string }): string {
  return /^[0-9]+$/.test(text) ? hex(BigInt(text)) : text;
}
