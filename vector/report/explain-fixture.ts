/** `kfault explain`: runs a fixture and tells the story of its faults, step by step. */
import { hex } from '../../emu/address.js';
import { bytesText } from '../../emu/assembler/source.js';
import type { Engine } from '../../emu/cpu.js';
import { instructionText, loadDisassembler } from '../../emu/disassembler.js';
import type { ConsoleFormat } from '../../kernel/printk.js';
import { buildMachine } from '../build/build-machine.js';
import { outcomeText } from '../checks/check-run.js';
import { printable } from '../format/fixture-error.js';
import type { Fixture } from '../format/load.js';
import { STEP_KEYS, type Step } from '../format/schema-steps.js';
import type { Machine } from '../machine/machine.js';
import { ownEvents, runSteps, type StepSpan } from '../run/run-steps.js';
import { type ExplainView, explainFaults, explainHostCalls } from './explain.js';
import { consoleLines } from './fault-story.js';

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
      bpfInstructionAt: (pc) => machine.bpf.instructionAt(pc),
    };
    // Instructions are read when the story is told: text does not change in a fixture's run.
    const { spans } = runSteps(fixture, machine);
    const out = [data.name, `${data.arch}, ${source.file}`];
    const tell = (span: StepSpan, title: string, margin: string): void => {
      const events = ownEvents(machine.events, span);
      const faults = explainFaults(events, view);
      const called = explainHostCalls(events);
      const outcome = events.findLast((event) => event.type === 'outcome');
      const lines = [
        '',
        `${title}: ${stepText(span.step)}`,
        ...(faults.length > 0 ? ['', ...faults.map((line) => (line === '' ? '' : `  ${line}`)), ''] : []),
        ...(called.length > 0 ? ['', ...called.map((line) => `  ${line}`)] : []),
      ];
      if (outcome !== undefined) {
        lines.push(
          `  ${faults.length === 0 && called.length === 0 ? 'No fault. ' : ''}Outcome: ${outcomeText(outcome.outcome)}`,
        );
      }
      // One by one: a story can have more lines than a call can have arguments.
      for (const line of lines) out.push(line === '' ? '' : `${margin}${line}`);
      for (const inner of span.inner) {
        tell(inner, `In the middle of it, behind ${inner.behind ?? ''}`, `${margin}  `);
      }
    };
    spans.forEach((span, i) => {
      if (options.step === null || options.step === i + 1) tell(span, `Step ${i + 1}`, '');
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
  if ('stream_read' in step) return ` ${step.stream_read.program ?? 'of no program'}`;
  if ('write' in step) return ` at ${placeText(step.write.at)}`;
  if ('read' in step) return ` at ${placeText(step.read.at)}`;
  if ('pte' in step) return ` of ${placeText(step.pte.va)}`;
  if ('tlb' in step) return 'keep' in step.tlb ? ` keep ${placeText(step.tlb.keep)}` : ' flush';
  if ('destroy' in step) return ` ${step.destroy}`;
  if ('test_run' in step) return ` ${step.test_run}`;
  if ('create' in step) return ` ${step.create}`;
  if ('fork' in step) return ` ${step.fork}`;
  if ('exit' in step) return ` ${step.exit}`;
  if ('mmap' in step) return ` ${step.mmap.arena}`;
  if ('munmap' in step) return ` ${placeText(step.munmap.addr)}`;
  if ('mremap' in step) return ` ${placeText(step.mremap.addr)}`;
  return '';
}

/** An address as it was written; a bare number in hexadecimal, however YAML had it. */
function placeText({ text }: { readonly text: string }): string {
  return /^[0-9]+$/.test(text) ? hex(BigInt(text)) : text;
}
