/** Values of events in words. */
import { hex } from '../../emu/address.js';
import type { Primitive } from '../../emu/events.js';

/** An argument, a decision or a return value as people read it. */
export function primitiveText(value: Primitive): string {
  switch (typeof value) {
    case 'bigint':
      return hex(value);
    case 'string':
      return value;
    case 'object':
      return 'NULL';
    default:
      return String(value);
  }
}
