/** The figures of the benchmarks: what is measured, by name. */
import type { Arch } from '../arch/arch.js';
import type { Engine } from '../emu/cpu.js';
import { type Event, type EventSink, NO_EVENTS } from '../emu/events.js';
import { BareLoop } from './bare-loop.js';
import { ScratchFaults } from './scratch-fault.js';

/** Rounds of one measured call. */
export const ROUNDS = 4096;

/** Something that can be measured: `run` does ROUNDS rounds, `reset` makes the next call possible. */
export interface Subject {
  run(): void;
  reset(): void;
  close(): void;
}

/** Somebody who gets every event and keeps none. */
class LastEvent implements EventSink {
  last: Event | null = null;
  emit(event: Event): void {
    this.last = event;
  }
}

function bare(engine: Engine): Subject {
  const loop = new BareLoop(engine);
  return { run: () => loop.run(ROUNDS), reset: () => undefined, close: () => loop.close() };
}

function scratch(engine: Engine, arch: Arch['name'], sink: EventSink): Subject {
  const faults = new ScratchFaults(engine, arch, ROUNDS, sink);
  return {
    run: () => faults.run(ROUNDS),
    reset: () => faults.reset(ROUNDS),
    close: () => faults.close(),
  };
}

/** Figures in the order in which they are printed. */
export const FIGURES: ReadonlyMap<string, (engine: Engine) => Subject> = new Map([
  ['bare miss-stop-restart, koffi', bare],
  ['fully handled scratch fault, x86-64', (engine) => scratch(engine, 'x86-64', NO_EVENTS)],
  ['  the same with its events made, x86-64', (engine) => scratch(engine, 'x86-64', new LastEvent())],
  ['fully handled scratch fault, arm64', (engine) => scratch(engine, 'arm64', NO_EVENTS)],
  ['  the same with its events made, arm64', (engine) => scratch(engine, 'arm64', new LastEvent())],
]);
