/** The pool of KFENCE and its objects. */
import { hex16 } from '../../../emu/address.js';
import type { KfenceObjectView, KfencePoolView } from '../../views.js';
import { bad, dim, good, hanging, type Line, line, type Span, strong } from '../lines.js';

/** Objects that were never used are counted only, unless `all`. */
export function kfenceLines(pool: KfencePoolView | null, all: boolean): Line[] {
  if (pool === null || pool.start === pool.end) {
    return [line(dim('This machine has no KFENCE pool (the fixture has no key `kfence`).'))];
  }
  const { objects } = pool;
  const out = [
    hanging(
      2,
      strong('KFENCE'),
      `: ${hex16(pool.start)}-${hex16(pool.end - 1n)}, ${objects.length} objects, `,
      pool.enabled ? good('enabled') : bad('disabled'),
    ),
  ];
  const shown = all ? objects : objects.filter(({ state }) => state !== 'unused');
  for (const object of shown) out.push(objectLine(object));
  const left = objects.length - shown.length;
  if (left > 0) out.push(line(dim(`  ${left} unused (kfence all)`)));
  return out;
}

function objectLine(object: KfenceObjectView): Line {
  const { slot, state, address, size, cache } = object;
  const what = state === 'unused' ? '' : `, ${size} bytes${cache === null ? '' : ` of ${cache}`}`;
  return hanging(
    6,
    `  #${slot} `.padEnd(6),
    `${hex16(address)} `,
    stateSpan(state),
    what,
    dim(object.protected ? ', protected' : ''),
  );
}

function stateSpan(state: KfenceObjectView['state']): Span {
  switch (state) {
    case 'unused':
      return dim(state);
    case 'allocated':
      return good(state);
    case 'rcu_freeing':
    case 'freed':
      return bad(state);
  }
}
