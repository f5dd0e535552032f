/** What is measured: figures, and the processes that measure them. */
import { join } from 'node:path';
import type { Engine } from '../emu/cpu.js';
import { type Event, type EventSink, NO_EVENTS } from '../emu/events.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { packageRoot } from '../scripts/setup-engine.js';
import { ArenaPages, COUNTS, OCCUPANCIES, type Occupancy } from './arena-pages.js';
import { BareLoop } from './bare-loop.js';
import { FaultStage, STAGES, type Stage } from './fault-parts.js';
import { FixtureRun } from './fixture-run.js';
import { ARCH_NAMES, type ArchName } from './guest-code.js';
import { EmptyCall, LoopWithoutFaults } from './no-faults.js';
import { Oops } from './oops.js';
import { RANGES, RangeTreeOperations } from './range-tree.js';
import { ScratchFault } from './scratch-fault.js';
import { SMALL_FIXTURE } from './small-fixture.js';
import { StepBack } from './step-back.js';
import type { Subject } from './subject.js';
import { TlbFill } from './tlb-fill.js';

export type Unit = 'ns' | 'µs' | 'ms' | 'M/s' | '/s' | 'MiB';

/** A number of the report. */
export interface Figure {
  /** Key in the JSON report; never changes its meaning. */
  readonly id: string;
  readonly section: string;
  readonly label: string;
  readonly unit: Unit;
  /** Id of the figure of the Python binding to compare with. */
  readonly python?: string | undefined;
  /** Stands in the tables of parts only. */
  readonly part?: boolean;
}

/** How a process comes to its figures; each begins with an engine of its own. */
export type Process =
  | {
      /** A subject in a loop of the benchmark library; one figure, from nanoseconds for each round. */
      readonly kind: 'subject';
      readonly figures: readonly [Figure];
      /** @param rounds of one run, fewer than usual when a test wants it */
      readonly make: (engine: Engine, rounds?: number) => Subject;
      /** Closed machines leave their engines to the next ones. */
      readonly reuse: boolean;
      /** Milliseconds of warming up, and as many of measuring. */
      readonly time: number;
      /** Measured in the build whose paths can be stopped in. */
      readonly stops: boolean;
    }
  /** Subjects of one kind that differ in a number only, one after the other; a figure of each. */
  | {
      readonly kind: 'series';
      readonly figures: readonly [Figure, ...Figure[]];
      /** One for each figure. */
      readonly make: readonly ((engine: Engine, rounds?: number) => Subject)[];
      readonly time: number;
    }
  /** A sweep: first tenth, last tenth, peak of memory. */
  | { readonly kind: 'sweep'; readonly figures: readonly [Figure, Figure, Figure]; readonly arch: ArchName }
  /** A script of the Python binding that prints nanoseconds for each round. */
  | { readonly kind: 'python'; readonly figures: readonly [Figure]; readonly args: readonly string[] }
  /** The command line, from outside. */
  | { readonly kind: 'command'; readonly figures: readonly [Figure]; readonly args: readonly string[] };

/** Somebody who gets every event and keeps none. */
class LastEvent implements EventSink {
  last: Event | null = null;
  emit(event: Event): void {
    this.last = event;
  }
}

/** Rounds of one run: pages touched, pages filled. */
export const FAULTS = 4096;
const FILLS = 2048;
const CALLS = 256;
const OOPSES = 32;
const INSTRUCTIONS = 6_000_000;
const STEPPED = 1_000_000;

const WITHOUT_FAULTS = 'running without faults';
const FILL = 'a TLB fill: walk, hit';
const RESTART = 'a miss, a stop, a restart: nothing behind it';
const SCRATCH = 'a scratch fault, handled';
const OOPS = 'an oops: nobody handles the fault';
const FIXTURES = 'fixtures';
const DEBUGGER = 'a debugging session';
const SWEEP = 'every page of an arena of 4 GiB';
const ARENA_PAGES = 'pages of an arena of 4 GiB, allocated and freed by kfuncs';
const RANGE_TREE = 'the free pages of an arena: find, cut a range in two, join it again';
/** Pages that a run allocates and frees, whatever the size of one allocation. */
const PAGES_OF_A_RUN = 4096;
const TREE_ROUNDS = 4096;

/** A fixture with an arena, whose page tables take most of its time. */
const ARENA_FIXTURE: Readonly<Record<ArchName, string>> = {
  'x86-64': join('fixtures', 'x86', 'kernel-read-of-unallocated-page.yaml'),
  arm64: join('fixtures', 'arm64', 'kernel-read-of-unallocated-page.yaml'),
};

interface SubjectFigure extends Figure {
  readonly make: (engine: Engine, rounds?: number) => Subject;
  readonly reuse?: boolean;
  readonly time?: number;
  readonly stops?: boolean;
}

const TIME = 400;
/** Reading, checking and assembling are much code that has to be compiled first. */
const FIXTURE_TIME = 1500;

function subject({ make, reuse = false, time = TIME, stops = false, ...figure }: SubjectFigure): Process {
  return { kind: 'subject', figures: [figure], make, reuse, time, stops };
}

function python(figure: Figure, ...args: string[]): Process {
  return { kind: 'python', figures: [figure], args };
}

function ofArch(arch: ArchName): Process[] {
  const pythonFill = `python-tlb-fill/${arch}`;
  const pythonRestart = `python-miss-restart/${arch}`;
  return [
    subject({
      id: `instructions/${arch}`,
      section: WITHOUT_FAULTS,
      label: `instructions, ${arch}`,
      unit: 'M/s',
      make: (engine, rounds = INSTRUCTIONS) => new LoopWithoutFaults(engine, arch, rounds),
    }),
    subject({
      id: `call/${arch}`,
      section: WITHOUT_FAULTS,
      label: `a call from the host that returns at once, ${arch}`,
      unit: 'ns',
      make: (engine, rounds = CALLS) => new EmptyCall(engine, arch, rounds),
    }),
    subject({
      id: `tlb-fill/near/${arch}`,
      section: FILL,
      label: `the page next to the last, ${arch}`,
      unit: 'ns',
      python: pythonFill,
      make: (engine, rounds = FILLS) => new TlbFill(engine, arch, rounds, 'near'),
    }),
    subject({
      id: `tlb-fill/far/${arch}`,
      section: FILL,
      label: `a page 2 MiB from the last, all 4 levels, ${arch}`,
      unit: 'ns',
      python: pythonFill,
      make: (engine, rounds = FILLS) => new TlbFill(engine, arch, rounds, 'far'),
    }),
    python(
      { id: pythonFill, section: FILL, label: `the Python binding, empty callback, ${arch}`, unit: 'ns' },
      'tlb_fill.py',
      arch,
      String(FILLS),
    ),
    subject({
      id: `miss-restart/${arch}`,
      section: RESTART,
      label: `koffi, ${arch}`,
      unit: 'ns',
      python: pythonRestart,
      make: (engine, rounds = FAULTS) => new BareLoop(engine, arch, rounds),
    }),
    python(
      { id: pythonRestart, section: RESTART, label: `the Python binding, ${arch}`, unit: 'ns' },
      'miss_restart.py',
      arch,
      String(FAULTS),
    ),
    subject({
      id: `scratch-fault/${arch}`,
      section: SCRATCH,
      label: `nobody listens, ${arch}`,
      unit: 'ns',
      python: pythonRestart,
      make: (engine, rounds = FAULTS) => new ScratchFault(engine, arch, rounds, NO_EVENTS),
    }),
    subject({
      id: `scratch-fault/events/${arch}`,
      section: SCRATCH,
      label: `its events are made, ${arch}`,
      unit: 'ns',
      python: pythonRestart,
      make: (engine, rounds = FAULTS) => new ScratchFault(engine, arch, rounds, new LastEvent()),
    }),
    ...STAGES.map((stage) =>
      subject({
        id: stageId(stage, arch),
        section: partsSection(arch),
        label: `up to ${stage}`,
        unit: 'ns',
        part: true,
        make: (engine, rounds = FAULTS) => new FaultStage(engine, arch, rounds, stage),
      }),
    ),
    subject({
      id: `oops/first-word/${arch}`,
      section: OOPS,
      label: `up to its first word, ${arch}`,
      unit: 'µs',
      make: (engine, rounds = OOPSES) => new Oops(engine, arch, rounds, 'first word'),
    }),
    subject({
      id: `oops/text/${arch}`,
      section: OOPS,
      label: `with its text on the console, ${arch}`,
      unit: 'µs',
      make: (engine, rounds = OOPSES) => new Oops(engine, arch, rounds, 'all'),
    }),
    subject({
      id: `fixtures/fresh/${arch}`,
      section: FIXTURES,
      label: `small fixtures, an engine for each, ${arch}`,
      unit: '/s',
      time: FIXTURE_TIME,
      make: (engine) => new FixtureRun(engine, { text: SMALL_FIXTURE[arch] }),
    }),
    subject({
      id: `fixtures/reuse/${arch}`,
      section: FIXTURES,
      label: `small fixtures, engines used again, ${arch}`,
      unit: '/s',
      time: FIXTURE_TIME,
      reuse: true,
      make: (engine) => new FixtureRun(engine, { text: SMALL_FIXTURE[arch] }),
    }),
    subject({
      id: `fixtures/loaded/${arch}`,
      section: FIXTURES,
      label: `the same, loaded before, ${arch}`,
      unit: '/s',
      time: FIXTURE_TIME,
      reuse: true,
      make: (engine) => new FixtureRun(engine, { text: SMALL_FIXTURE[arch], once: true }),
    }),
    subject({
      id: `fixtures/arena/${arch}`,
      section: FIXTURES,
      label: `fixtures with an arena, engines used again, ${arch}`,
      unit: '/s',
      time: FIXTURE_TIME,
      reuse: true,
      make: (engine) => new FixtureRun(engine, { file: join(packageRoot(), ARENA_FIXTURE[arch]) }),
    }),
    subject({
      id: `step-back/${arch}`,
      section: DEBUGGER,
      label: `a step back from instruction 1,000,000, ${arch}`,
      unit: 'ms',
      time: FIXTURE_TIME,
      reuse: true,
      stops: true,
      make: (engine, instructions = STEPPED) => new StepBack(engine, arch, instructions),
    }),
    {
      kind: 'sweep',
      arch,
      figures: [
        {
          id: `sweep/first-tenth/${arch}`,
          section: SWEEP,
          label: `a fault of the first tenth, ${arch}`,
          unit: 'ns',
        },
        {
          id: `sweep/last-tenth/${arch}`,
          section: SWEEP,
          label: `a fault of the last tenth, ${arch}`,
          unit: 'ns',
        },
        {
          id: `sweep/memory/${arch}`,
          section: SWEEP,
          label: `peak memory of the process, ${arch}`,
          unit: 'MiB',
        },
      ],
    },
  ];
}

function arenaPages(arch: ArchName, percent: Occupancy): Process {
  const [first, ...others] = COUNTS.map((count): Figure => {
    const pages = count === 1 ? '1 page' : `${count.toLocaleString('en')} pages`;
    return {
      id: `arena-pages/${count}/${percent}%/${arch}`,
      section: ARENA_PAGES,
      label: `${pages} at ${percent} % occupancy, ${arch}`,
      unit: '/s',
    };
  });
  if (first === undefined) throw new Error('no counts');
  return {
    kind: 'series',
    figures: [first, ...others],
    make: COUNTS.map(
      (count) =>
        (engine, rounds = Math.max(16, PAGES_OF_A_RUN / count)) =>
          new ArenaPages(engine, arch, percent, count, rounds),
    ),
    time: TIME,
  };
}

function rangeTree(): Process {
  const [first, ...others] = RANGES.map(
    (ranges): Figure => ({
      id: `range-tree/${ranges}`,
      section: RANGE_TREE,
      label: `${ranges.toLocaleString('en')} ranges`,
      unit: 'ns',
    }),
  );
  if (first === undefined) throw new Error('no sizes');
  return {
    kind: 'series',
    figures: [first, ...others],
    make: RANGES.map(
      (ranges) =>
        (_engine, rounds = TREE_ROUNDS) =>
          new RangeTreeOperations(ranges, rounds),
    ),
    time: TIME,
  };
}

/** In the order in which a turn measures them. */
export const PROCESSES: readonly Process[] = [
  ...ARCH_NAMES.flatMap(ofArch),
  ...ARCH_NAMES.flatMap((arch) => OCCUPANCIES.map((percent) => arenaPages(arch, percent))),
  rangeTree(),
  {
    kind: 'command',
    figures: [
      {
        id: 'start-up',
        section: FIXTURES,
        label: 'start-up to the first result: `kfault run` of one file',
        unit: 'ms',
      },
    ],
    args: ['run', ARENA_FIXTURE['x86-64']],
  },
];

/** Sections of the report, in its order. */
export const SECTIONS: readonly string[] = [
  WITHOUT_FAULTS,
  FILL,
  RESTART,
  SCRATCH,
  OOPS,
  FIXTURES,
  DEBUGGER,
  SWEEP,
  ARENA_PAGES,
  RANGE_TREE,
];

function stageId(stage: Stage, arch: ArchName): string {
  return `scratch-fault/up-to-${stage}/${arch}`;
}

function partsSection(arch: ArchName): string {
  return `a scratch fault in parts, ${arch}`;
}

/**
 * A whole that is measured in stages, each of which does what the one before it does and something more.
 * The cost of a part is the difference of two stages.
 */
export interface Split {
  readonly section: string;
  /** Part, and the figure in which it comes in. */
  readonly parts: readonly (readonly [label: string, id: string])[];
  /** What all parts should come to. */
  readonly whole: readonly [label: string, id: string];
  /** What is not in the whole, but in this figure. */
  readonly beyond: readonly [label: string, id: string];
}

export const SPLITS: readonly Split[] = ARCH_NAMES.map((arch) => ({
  section: partsSection(arch),
  parts: [
    ['engine: stop, restart, two callbacks', `miss-restart/${arch}`],
    ['walk: one refused, one that hits', stageId('walk', arch)],
    ['registers: taken, fault address put back', stageId('registers', arch)],
    ['path: frame, recorded walk, fault handler', stageId('path', arch)],
    ['stack walk, program on the stack', stageId('stack', arch)],
    ['PTE: found and stored', stageId('pte', arch)],
    ['report to the stream', stageId('report', arch)],
  ],
  whole: ['the whole, nobody listens', `scratch-fault/${arch}`],
  beyond: ['events, when somebody listens', `scratch-fault/events/${arch}`],
}));

/** From nanoseconds for each round. */
export function fromNanoseconds(unit: Unit, ns: number): number {
  switch (unit) {
    case 'ns':
      return ns;
    case 'µs':
      return ns / 1e3;
    case 'ms':
      return ns / 1e6;
    case 'M/s':
      return 1e3 / ns;
    case '/s':
      return 1e9 / ns;
    case 'MiB':
      throw new RangeError('memory is not measured in nanoseconds');
  }
}

/** The engine for a process of its own. */
export function openEngine(library: string, reuse: boolean): NativeEngine {
  return new NativeEngine(library, { reuse });
}
