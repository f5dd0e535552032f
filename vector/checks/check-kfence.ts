/** Expectations about KFENCE: counters, the freelist, single objects. */

import { COUNTERS, type CounterKey, type KfenceExpect } from '../format/schema-kfence.js';
import type { Path } from '../format/source.js';
import type { KfenceView } from '../machine/machine.js';
import type { Checks } from './failure.js';

export function checkKfence(checks: Checks, expect: KfenceExpect | undefined, path: Path): void {
  if (expect === undefined) return;
  const { kfence } = checks.machine;
  if (kfence === null) throw checks.source.at(path, 'this machine has no KFENCE');
  const view = kfence.view();
  const { enabled, free, objects = {} } = expect;
  if (enabled !== undefined && enabled !== view.enabled) {
    checks.fail('kfence', [...path, 'enabled'], String(enabled), String(view.enabled));
  }
  for (const [key, counter] of Object.entries(COUNTERS)) {
    const want = expect[key as CounterKey]?.value(checks.machine.scope);
    const actual = view.counter(counter);
    if (want === undefined || want === BigInt.asUintN(64, BigInt(actual))) continue;
    checks.fail('kfence', [...path, key], String(BigInt.asIntN(64, want)), String(actual));
  }
  const wantFree = free?.value(checks.machine.scope);
  if (wantFree !== undefined && wantFree !== BigInt(view.free)) {
    checks.fail('kfence', [...path, 'free'], String(wantFree), String(view.free));
  }
  for (const [slot, object] of Object.entries(objects)) {
    checkObject(checks, view.object(Number(slot)), object, [...path, 'objects', slot]);
  }
}

function checkObject(
  checks: Checks,
  actual: ReturnType<KfenceView['object']>,
  { state, addr, unprotected_page }: NonNullable<KfenceExpect['objects']>[string],
  path: Path,
): void {
  if (state !== undefined && state !== actual.state) {
    checks.fail('kfence', [...path, 'state'], state, actual.state);
  }
  checks.number('kfence', [...path, 'addr'], addr, actual.addr);
  checks.number('kfence', [...path, 'unprotected_page'], unprotected_page, actual.unprotected_page);
}
