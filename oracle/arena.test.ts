/** An arena under random use, on a machine of each architecture. `npm run arena-oracle` runs more of it. */
import { afterAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { ArenaModel, QUIRKS, type Quirk } from './arena-model.js';
import { check } from './arena-property.js';
import { type Case, cases, type Step } from './arena-steps.js';

const engine = new NativeEngine(undefined, { reuse: true });
afterAll(() => engine.close());

const NEVER = { failure: null, off: 0 } as const;
const SETUP = {
  max_entries: 8,
  mapped: 8,
  user: 0x7f7d_2620_0000n,
  map_extra: true,
  segvOnFault: false,
} as const;

/** A user fault without memory on page 2, which is reserved; then page 2 can be allocated. */
const GIVEN_BACK: readonly Step[] = [
  { ...NEVER, do: 'mmap', process: 0 },
  { ...NEVER, do: 'reserve', page: 2, count: 1 },
  { do: 'user touch', process: 0, page: 2, cpu: 0, store: null, failure: { what: 'page', after: 0 } },
  { ...NEVER, do: 'alloc', by: 'program', anywhere: false, page: 2, count: 1 },
];
/** Two freed pages of which the second is the first of the arena: its number is found under another name. */
const ACROSS_THE_START: readonly Step[] = [
  { ...NEVER, do: 'alloc', by: 'program', anywhere: true, page: 0, count: 2 },
  { ...NEVER, do: 'free', by: 'program', page: -1, count: 2 },
  { ...NEVER, do: 'alloc', by: 'kernel', anywhere: false, page: 0, count: 1 },
  { ...NEVER, do: 'alloc', by: 'program', anywhere: true, page: 0, count: 2 },
  { ...NEVER, do: 'alloc', by: 'program', anywhere: true, page: 0, count: 2 },
];

/** More pages than the mapping is long: the second allocation begins inside and ends behind it. */
const BEHIND: Case = {
  setup: { ...SETUP, mapped: 4, map_extra: false },
  steps: [
    { ...NEVER, do: 'alloc', by: 'program', anywhere: true, page: 0, count: 3 },
    { ...NEVER, do: 'alloc', by: 'program', anywhere: true, page: 0, count: 3 },
  ],
};

/** What seldom comes by itself is always tried. */
const EXAMPLES: [Case][] = [
  [{ setup: SETUP, steps: GIVEN_BACK }],
  [{ setup: SETUP, steps: ACROSS_THE_START }],
  [BEHIND],
];

describe.each(['x86-64', 'arm64'] as const)('an arena of %s', (arch) => {
  test('is after every step what its model is, and keeps what is always true of an arena', () => {
    const met = new Set<Quirk>();
    fc.assert(
      fc.property(cases(60), (each) => {
        for (const quirk of check(engine, arch, each)) met.add(quirk);
      }),
      { seed: 20261121, numRuns: 40, examples: EXAMPLES },
    );
    // No exception is idle: each quirk was met.
    expect([...met].sort()).toEqual(Object.keys(QUIRKS).sort());
  });
});

/** What the model says where the kernel's sources can be read: the model itself is held by these. */
test.each([
  ['addresses from the start, best fit', ['alloc 1', 'alloc 1', 'free 0', 'alloc 1'], ['0', '1', '-', '0']],
  ['all or nothing over a scratched page', ['touch 2', 'alloc 4', 'alloc 2'], ['-', 'NULL', '0']],
  ['a freed scratch page', ['touch 2', 'free 2', 'alloc 4'], ['-', '-', '0']],
] as const)('the model: %s', (_what, lines, answers) => {
  const model = new ArenaModel(SETUP);
  const got = lines.map((line) => {
    const [what, n] = line.split(' ');
    const { value } = model.perform(stepOf(what ?? '', Number(n)));
    if (what !== 'alloc' || value === null) return '-';
    return value === 0n ? 'NULL' : String((value - SETUP.user) / 4096n);
  });
  expect(got).toEqual(answers);
});

function stepOf(what: string, n: number): Step {
  switch (what) {
    case 'alloc':
      return { ...NEVER, do: 'alloc', by: 'program', anywhere: true, page: 0, count: n };
    case 'free':
      return { ...NEVER, do: 'free', by: 'program', page: n, count: 1 };
    default:
      return { do: 'kernel touch', guard: false, place: 8, page: n, cpu: 0, store: null, failure: null };
  }
}
