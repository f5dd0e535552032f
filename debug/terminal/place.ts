/** What stands for a place in memory: `*(u64 *)(a.page(3) + 8)`, `{u32}0x1000`, or a plain address. */
import { typeSize } from '../types.js';
import { CommandError } from './command-error.js';
import type { Size } from './format.js';

/** `size` is null for a plain address. */
export interface MemoryPlace {
  readonly address: string;
  readonly size: Size | null;
}

function sizeOf(type: string): Size {
  const wanted = type.trim().replace(/\s+/g, ' ');
  // A pointer to a pointer.
  if (wanted.endsWith('*')) return 8;
  const size = typeSize(wanted);
  if (size === null) {
    throw new CommandError(
      `${wanted === '' ? 'an empty type' : wanted} is no type that is known here: u8, u16, u32 and u64 are`,
    );
  }
  return size;
}

/** True when nothing stands behind the first operand: `*p + 8` is no place, `**p` and `*&name` are. */
function isOperand(text: string): boolean {
  let depth = 0;
  for (const char of text.replace(/^[*&\s]+/, '')) {
    if (char === '(') depth += 1;
    else if (char === ')') depth -= 1;
    else if (depth === 0 && /[-+*/%&|^~<>=!\s]/.test(char)) return false;
  }
  return true;
}

/** gdb's `{u32}ADDRESS` as C has it. */
export function withCasts(text: string): string {
  return text.replace(/\{([^{}]*)\}/g, '*($1 *)');
}

/** Takes a place apart; null for what has an operator behind it. Throws a CommandError for a type that is not known. */
function placeIn(text: string): MemoryPlace | null {
  const typed = withCasts(text.trim());
  const cast = /^\*\s*\(\s*([A-Za-z_][\w\s]*\**|)\s*\*\s*\)\s*(.+)$/s.exec(typed);
  const plain = cast ?? /^\*()\s*(.+)$/s.exec(typed);
  if (plain === null) return { address: typed, size: null };
  const [, type = '', address = ''] = plain;
  return isOperand(address) ? { address, size: cast === null ? 8 : sizeOf(type) } : null;
}

/** Takes a place apart. Throws a CommandError for a type that is not known, and for `*p + 8`. */
export function parsePlace(text: string): MemoryPlace {
  const place = placeIn(text);
  if (place !== null) return place;
  const [, address = ''] = /^\*\s*(?:\([^()]*\*\s*\))?\s*(.*)$/s.exec(withCasts(text.trim())) ?? [];
  throw new CommandError(`put what is added to the address in parentheses: *(u64 *)(${address})`);
}

/** Bytes of what an expression stands for: of a place in memory those of its type, else of any value. */
export function sizeIn(text: string): Size {
  return placeIn(text)?.size ?? 8;
}

/** Cuts a text at its last comma that is not in parentheses: `EXPR, LENGTH`; null when there is none. */
export function cutAtComma(text: string): readonly [string, string] | null {
  let depth = 0;
  for (let i = text.length - 1; i >= 0; i -= 1) {
    const char = text.charAt(i);
    if (char === ')') depth += 1;
    else if (char === '(') depth -= 1;
    else if (char === ',' && depth === 0) return [text.slice(0, i).trim(), text.slice(i + 1).trim()];
  }
  return null;
}
