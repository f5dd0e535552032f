/** Errnos in fixtures have the sign that the kernel gives them. */
import { expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { runFixture } from '../run/run-fixture.js';
import { errnoText } from './errno-text.js';
import { parseFixture } from './load.js';
import { Source } from './source.js';

const engine = new NativeEngine();

async function problems(arena: string, program: string): Promise<string[]> {
  const text = `name: x
arch: x86-64
arenas: { a: { max_entries: 16, ${arena} } }
programs:
  p:
    ${program}
    bpf: |
      r0 = r7
      exit
steps: [{ check: {} }]
`;
  const loaded = parseFixture(new Source('f.yaml', text));
  const { errors } = loaded.ok ? await runFixture(loaded.fixture, engine) : loaded;
  return errors.map(({ line, column, message }) => `${line}:${column} ${message}`);
}

test('an errno has its name, and a number that is none has its sign', () => {
  expect([-13, 0, 13, -1000].map(errnoText)).toEqual(['-EACCES', 'no error', '13', '-1000']);
});

test.each([
  ['flags: 0, expect: -EINVAL', 'expect: { errno: -EACCES }', []],
  ['flags: 0, expect: EINVAL', 'expect: { errno: -EACCES }', ['errnos are negative here: -EINVAL']],
  ['map_extra: 0', 'expect: { errno: EACCES }', ['errnos are negative here: -EACCES']],
  ['map_extra: 0', 'expect: { errno: 1000 }', ['errnos are negative here: -1000']],
  [
    'flags: 0, expect: -E2BIG',
    'expect: { errno: -EACCES }',
    ['-E2BIG is expected, but the kernel says -EINVAL'],
  ],
  ['expect: -E2BIG', 'expect: { errno: -EACCES }', ['-E2BIG is expected, but the kernel creates the arena']],
  [
    'map_extra: 0',
    'expect: { errno: 0 }',
    ['no error is expected, but the kernel says -EACCES: R7 !read_ok'],
  ],
])('%s, %s', async (arena, program, expected) => {
  const found = await problems(arena, program);
  expect(found.map((each) => each.replace(/^\S+ /, ''))).toEqual(expected);
});

test('the place is that of the errno', async () => {
  expect(await problems('flags: 0, expect: EINVAL', 'expect: { errno: -EACCES }')).toEqual([
    '3:51 errnos are negative here: -EINVAL',
  ]);
  expect(await problems('map_extra: 0', 'expect: { errno: EACCES }')).toEqual([
    '6:22 errnos are negative here: -EACCES',
  ]);
});
