/** Errnos in fixtures: negative numbers, as the kernel returns them, by their names. */
import { errnoName } from '../../kernel/errno.js';
import type { Expression } from './bound-expression.js';
import type { Scope } from './expression.js';

/** `-EACCES`, `no error` for 0; a number that no errno has, and any positive one, as it is. */
export function errnoText(errno: number): string {
  if (errno === 0) return 'no error';
  const name = errno < 0 ? errnoName(errno) : null;
  return name === null ? String(errno) : `-${name}`;
}

/** The errno that is expected: negative, or 0. Throws a FixtureError at a positive one. */
export function errnoOf(expected: Expression, scope: Scope): number {
  const errno = BigInt.asIntN(64, expected.value(scope));
  if (errno <= 0n) return Number(errno);
  const name = errnoName(Number(errno));
  throw expected.error(
    `errnos are negative here: ${name === null ? `-${errno}` : `-${name}`}`,
    'The kernel returns them so.',
  );
}
