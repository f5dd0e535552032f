/** Events of two runs, made comparable. */
import { type Event, isPrimitive } from '../../emu/events.js';

/**
 * An event as one line of text, for tests that compare two runs. Arguments and results that are objects are
 * in an event for their identity only, and are left out.
 */
export function eventLine(event: Event): string {
  return JSON.stringify(shown(event), (_key, value: unknown) => {
    if (typeof value === 'bigint') return `${value}n`;
    return typeof value === 'function' ? (value as () => string)() : value;
  });
}

/** True when two runs have the same events: what comparing all their lines comes to, without making them. */
export function sameEvents(one: readonly Event[], other: readonly Event[]): boolean {
  return (
    one.length === other.length && one.every((event, i) => alike(shown(event), shown(other[i] as Event)))
  );
}

/** What of an event can be compared with another run's. */
function shown(event: Event): unknown {
  if (event.type === 'enter') return { ...event, args: event.args.filter(isPrimitive) };
  if (event.type === 'leave') return { ...event, value: isPrimitive(event.value) ? event.value : 'object' };
  return event;
}

function alike(one: unknown, other: unknown): boolean {
  if (Object.is(one, other)) return true;
  if (typeof one === 'function' && typeof other === 'function') return one() === other();
  if (typeof one !== 'object' || typeof other !== 'object' || one === null || other === null) return false;
  const keys = Object.keys(one);
  return (
    keys.length === Object.keys(other).length &&
    keys.every((key) => key in other && alike(one[key as never], other[key as never]))
  );
}
