/** What stands for a place in memory: `*(u64 *)(a.page(3) + 8)`, `{u32}0x1000`, or a plain address. */
import { CommandError } from './command-error.js';
import type { Size } from './format.js';

/** `size` is null for a plain address. */
export interface MemoryPlace {
  readonly address: string;
  readonly size: Size | null;
}

const TYPES: Readonly<Record<string, Size>> = {
  u8: 1,
  s8: 1,
  char: 1,
  'unsigned char': 1,
  bool: 1,
  uint8_t: 1,
  int8_t: 1,
  __u8: 1,
  u16: 2,
  s16: 2,
  short: 2,
  'unsigned short': 2,
  uint16_t: 2,
  int16_t: 2,
  __u16: 2,
  u32: 4,
  s32: 4,
  int: 4,
  unsigned: 4,
  'unsigned int': 4,
  uint32_t: 4,
  int32_t: 4,
  __u32: 4,
  u64: 8,
  s64: 8,
  long: 8,
  'unsigned long': 8,
  'long long': 8,
  'unsigned long long': 8,
  size_t: 8,
  uint64_t: 8,
  int64_t: 8,
  __u64: 8,
  pte_t: 8,
  pmd_t: 8,
  pud_t: 8,
  pgd_t: 8,
};

function sizeOf(type: string): Size {
  const wanted = type.trim().replace(/\s+/g, ' ');
  // A pointer to a pointer.
  if (wanted.endsWith('*')) return 8;
  const size = TYPES[wanted];
  if (size === undefined) {
    throw new CommandError(
      `${wanted === '' ? 'an empty type' : wanted} is no type that is known here: u8, u16, u32 and u64 are`,
    );
  }
  return size;
}

/** True when nothing stands behind the first operand: `*p + 8` is not the place that its author means. */
function isOperand(text: string): boolean {
  let depth = 0;
  for (const char of text) {
    if (char === '(') depth += 1;
    else if (char === ')') depth -= 1;
    else if (depth === 0 && /[-+*&|^~<>\s]/.test(char)) return false;
  }
  return true;
}

/** Takes a place apart. Throws a CommandError for a type that is not known. */
export function parsePlace(text: string): MemoryPlace {
  const trimmed = text.trim();
  const cast = /^\*\s*\(\s*([A-Za-z_][\w\s]*\**)\s*\*\s*\)\s*(.+)$/s.exec(trimmed);
  const braces = /^\{([^}]*)\}\s*(.+)$/s.exec(trimmed);
  const plain = /^\*\s*(.+)$/s.exec(trimmed);
  const [size, address] =
    cast !== null
      ? [sizeOf(cast[1] ?? ''), cast[2] ?? '']
      : braces !== null
        ? [sizeOf(braces[1] ?? ''), braces[2] ?? '']
        : plain !== null
          ? [8 as const, plain[1] ?? '']
          : [null, trimmed];
  if (size !== null && !isOperand(address)) {
    throw new CommandError(`put what is added to the address in parentheses: *(u64 *)(${address})`);
  }
  return { address, size };
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
