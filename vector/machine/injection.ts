/** What a fixture lets fail, as the kernel's rooms are told. */

import type { Failures, Injected } from '../../bpf/failures.js';
import type { Delegate, Path } from '../../emu/path.js';
import { EDEADLK, ETIMEDOUT } from '../../kernel/errno.js';
import type { InjectData, InjectKey } from '../format/schema-arena.js';

const ERRORS = { EDEADLK, ETIMEDOUT } as const;

interface Planned {
  readonly key: InjectKey;
  readonly plan: Injected;
  /** How often something has to fail. */
  readonly times: number;
}

/** See ArenaMachine.failing(). */
export function* failing<T>(
  failures: Failures,
  inject: InjectData | null,
  work: () => Delegate<T>,
  untried: (what: InjectKey) => void,
): Path<T> {
  const restore = failures.suspend();
  try {
    const planned = plansOf(failures, inject ?? {});
    const result = yield* work();
    const missing = planned.find(({ plan, times }) => plan.taken < times);
    if (missing !== undefined) untried(missing.key);
    return result;
  } finally {
    restore();
  }
}

function plansOf(failures: Failures, inject: InjectData): Planned[] {
  const planned: Planned[] = [];
  const { lock, ...allocations } = inject;
  if (lock !== undefined) {
    const { errno, after, times = 1 } = typeof lock === 'string' ? { errno: lock } : lock;
    const plan = failures.inject({ what: 'spinlock', after, times: countOf(times), errno: ERRORS[errno] });
    planned.push({ key: 'lock', plan, times: countOf(times) ?? 1 });
  }
  for (const [key, given] of Object.entries(allocations)) {
    if (given === undefined) continue;
    const what = key as Exclude<InjectKey, 'lock'>;
    const { after, times = 1 } = given;
    const plan = failures.inject({ what, after, times: countOf(times) });
    planned.push({ key: what, plan, times: countOf(times) ?? 1 });
  }
  return planned;
}

/** Undefined is every time. */
function countOf(times: number | 'all'): number | undefined {
  return times === 'all' ? undefined : times;
}
