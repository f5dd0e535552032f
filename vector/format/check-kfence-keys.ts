/** What the schema cannot say of KFENCE: which keys need which others, and the arguments of the allocators. */
import { slabFunctionNames } from '../../mm/slab.js';
import { type FixtureError, quoted } from './fixture-error.js';
import type { FixtureData } from './schema.js';
import type { SlabCallName } from './schema-kfence.js';
import { type SlabStep, type Step, withInner } from './schema-steps.js';
import type { Path, Source } from './source.js';
import { didYouMean, listOf } from './suggest.js';

type Argument = 'cache' | 'size' | 'gfp' | 'ptr';

/** What a function takes; `gfp` may always be left out. */
const ARGUMENTS: Readonly<Record<SlabCallName, readonly Argument[]>> = {
  kmem_cache_alloc: ['cache', 'gfp'],
  kmalloc: ['size', 'gfp'],
  krealloc: ['ptr', 'size', 'gfp'],
  kmem_cache_free: ['cache', 'ptr'],
  kfree: ['ptr'],
  ksize: ['ptr'],
  kmem_cache_shrink: ['cache'],
  kmem_cache_destroy: ['cache'],
  rcu_barrier: [],
};

const NEEDS_KFENCE = 'The key kfence at the top (it may be empty: `kfence: {}`) makes a machine that has it.';

/** All mistakes about KFENCE in a fixture that fits the schema. */
export function checkKfenceKeys(source: Source, fixture: FixtureData): FixtureError[] {
  const errors: FixtureError[] = [];
  const addKey = (path: Path, message: string, hint = ''): void => {
    errors.push(source.error(source.keyPlace(path), message, hint));
  };
  const { kfence, caches = {}, config, steps } = fixture;
  if (kfence === undefined) {
    if (fixture.caches !== undefined)
      addKey(['caches'], 'a machine without KFENCE has no caches', NEEDS_KFENCE);
    for (const [step, path] of steps.flatMap((each, i) => withInner(each, ['steps', i]))) {
      const key = keyOf(step);
      if (key !== null)
        addKey([...path, key], `a machine without KFENCE has no ${quoted(key)}`, NEEDS_KFENCE);
      const expect = 'check' in step ? step.check : 'expect' in step ? step.expect : undefined;
      const at: Path = [...path, 'check' in step ? 'check' : 'expect', 'kfence'];
      if (expect?.kfence !== undefined) addKey(at, 'this machine has no KFENCE', NEEDS_KFENCE);
    }
    if (fixture.expect?.kfence !== undefined)
      addKey(['expect', 'kfence'], 'this machine has no KFENCE', NEEDS_KFENCE);
    return errors;
  }
  if (config?.KFENCE === false) {
    addKey(['kfence'], 'a kernel that is built without KFENCE has none', 'Leave out `KFENCE: false`.');
  }
  const { pool } = kfence;
  if (pool !== undefined && pool % 4096n !== 0n) {
    errors.push(source.at(['kfence', 'pool'], 'the pool begins with a page'));
  }
  for (const [name, cache] of Object.entries(caches)) {
    const path: Path = ['caches', name];
    if (cache.size < 1 || cache.size > 8192) {
      errors.push(source.at([...path, 'size'], `objects of ${cache.size} bytes: a cache has 1 to 8192`));
    }
    const { align = 1, ctor } = cache;
    if ((align & (align - 1)) !== 0)
      errors.push(source.at([...path, 'align'], `${align} is no power of two`));
    if (ctor !== undefined && ctor.length > cache.size) {
      errors.push(source.at([...path, 'ctor'], `${ctor.length} bytes do not fit an object of ${cache.size}`));
    }
  }
  fixture.text?.forEach(({ symbol }, i) => {
    if (slabFunctionNames.some((name) => name === symbol)) {
      errors.push(source.at(['text', i, 'symbol'], `${quoted(symbol)} is a function of the kernel already`));
    }
  });
  for (const [step, path] of steps.flatMap((each, i) => withInner(each, ['steps', i]))) {
    if ('slab' in step) errors.push(...checkArguments(source, step, path, Object.keys(caches)));
  }
  return errors;
}

/** The key that needs KFENCE, or null. */
function keyOf(step: Step): string | null {
  if ('slab' in step) return 'slab';
  if ('kfence' in step) return 'kfence';
  if ('debugfs' in step) return 'debugfs';
  return 'call' in step && step.allocations !== undefined ? 'allocations' : null;
}

function checkArguments(
  source: Source,
  step: SlabStep,
  path: Path,
  caches: readonly string[],
): FixtureError[] {
  const errors: FixtureError[] = [];
  const takes = ARGUMENTS[step.slab];
  const args = step.args ?? {};
  for (const name of Object.keys(args)) {
    if (takes.some((each) => each === name)) continue;
    const place = source.keyPlace([...path, 'args', name]);
    const hint = takes.length === 0 ? 'It takes nothing.' : `It takes ${listOf(takes)}.`;
    errors.push(source.error(place, `${step.slab}() takes no ${quoted(name)}`, hint));
  }
  const missing = takes.filter((name) => name !== 'gfp' && args[name] === undefined);
  if (missing.length > 0) {
    errors.push(source.at([...path, 'slab'], `${step.slab}() needs ${listOf(missing)}`));
  }
  const { cache } = args;
  if (cache !== undefined && !caches.includes(cache) && !cache.startsWith('kmalloc-')) {
    const hint = caches.length === 0 ? 'The fixture declares no caches.' : `Its caches: ${listOf(caches)}.`;
    errors.push(
      source.at(
        [...path, 'args', 'cache'],
        `unknown cache ${quoted(cache)}${didYouMean(cache, caches)}`,
        hint,
      ),
    );
  }
  return errors;
}
