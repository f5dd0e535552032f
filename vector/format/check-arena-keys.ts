/** What the schema cannot say of arenas: which keys need which others, and what makes no sense together. */
import type { FixtureError } from './fixture-error.js';
import { quoted } from './fixture-error.js';
import type { FixtureData } from './schema.js';
import { type MmapStep, type MremapStep, type Step, withInner } from './schema-steps.js';
import type { Path, Source } from './source.js';

/** All mistakes about arenas in a fixture that fits the schema. */
export function checkArenaKeys(source: Source, fixture: FixtureData): FixtureError[] {
  const errors: FixtureError[] = [];
  const { arenas = {}, task } = fixture;
  for (const [name, arena] of Object.entries(arenas)) {
    if (arena.when !== 'step') continue;
    for (const key of ['inject', 'expect'] as const) {
      if (arena[key] === undefined) continue;
      errors.push(
        source.error(
          source.keyPlace(['arenas', name, key]),
          `an arena that a step creates has no ${quoted(key)} here`,
          `The step has it: - create: ${name}`,
        ),
      );
    }
  }
  for (const [step, path] of fixture.steps.flatMap((each, i) => withInner(each, ['steps', i]))) {
    if ('create' in step && Object.hasOwn(arenas, step.create) && arenas[step.create]?.when !== 'step') {
      errors.push(
        source.at(
          [...path, 'create'],
          `arena ${quoted(step.create)} is there from the start`,
          'Say `when: step` where it is declared.',
        ),
      );
    }
    if (task?.kthread === true && ownsMappings(step) && step.process === undefined) {
      errors.push(
        source.error(
          source.keyPlace(path),
          'fork' in step
            ? 'a kernel thread has nothing that a child could get'
            : 'a kernel thread maps nothing',
          'Name a process that does it.',
        ),
      );
    }
    if ('fork' in step && step.fork === step.process) {
      errors.push(source.at([...path, 'fork'], 'a process is not its own child: the child has another name'));
    }
    if ('mmap' in step) errors.push(...checkMmap(source, step, path));
    if ('mremap' in step) errors.push(...checkMremap(source, step, path));
    if ('inject' in step && step.inject !== undefined && Object.keys(step.inject).length === 0) {
      errors.push(source.at([...path, 'inject'], 'nothing fails here: name what is to fail'));
    }
  }
  return errors;
}

function ownsMappings(step: Step): step is Extract<Step, { process?: unknown }> {
  return 'mmap' in step || 'munmap' in step || 'mremap' in step || 'fork' in step;
}

function checkMmap(source: Source, { mmap }: MmapStep, path: Path): FixtureError[] {
  const { flags = ['shared'] } = mmap;
  const kinds = flags.filter((flag) => flag === 'shared' || flag === 'private');
  if (kinds.length === 1) return [];
  return [
    source.at(
      [...path, 'mmap', 'flags'],
      'a mapping is either shared or private: exactly one of them is wanted',
    ),
  ];
}

function checkMremap(source: Source, { mremap }: MremapStep, path: Path): FixtureError[] {
  const { flags = [], new_addr } = mremap;
  if (new_addr === undefined || flags.includes('fixed') || flags.includes('dontunmap')) return [];
  return [
    source.error(
      source.keyPlace([...path, 'mremap', 'new_addr']),
      'nobody looks at a new address without MREMAP_FIXED or MREMAP_DONTUNMAP',
      'Add fixed to the flags.',
    ),
  ];
}
