/** Events of two runs, made comparable. */
import { type Event, isPrimitive } from '../../emu/events.js';

/**
 * An event as one line of text, for tests that compare two runs. Arguments and results that are objects are
 * in an event for their identity only, and are left out.
 */
export function eventLine(event: Event): string {
  let shown: unknown = event;
  if (event.type === 'enter') shown = { ...event, args: event.args.filter(isPrimitive) };
  if (event.type === 'leave') shown = { ...event, value: isPrimitive(event.value) ? event.value : 'object' };
  return JSON.stringify(shown, (_key, value: unknown) => {
    if (typeof value === 'bigint') return `${value}n`;
    return typeof value === 'function' ? (value as () => string)() : value;
  });
}
