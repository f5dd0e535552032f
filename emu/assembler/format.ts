/** Writes the bytes into assembly text, as `kfault fmt` does. */

import type { Isa } from '../disassembler.js';
import type { Assembled } from './assemble.js';
import { bytesText, parseLine, type SourceLine } from './source.js';

/**
 * The lines of a function with bytes in front of its instructions, in one column, and labels on lines of
 * their own. Comments stay. Formatting the result again changes nothing.
 * @param lines what was assembled, with line numbers that are all different
 */
export function formatWithBytes(isa: Isa, lines: readonly SourceLine[], assembled: Assembled): string[] {
  const bytes = new Map(
    assembled.lines
      .filter((line) => line.instruction)
      .map((line) => [line.line, bytesText(isa, line.bytes)] as const),
  );
  const width = Math.max(0, ...Array.from(bytes.values(), (text) => text.length));
  const column = bytes.size === 0 ? 0 : width + GAP;
  return lines.flatMap((line) => {
    const { labels, text, comment } = parseLine(isa, line);
    const formatted = labels.map((label) => `${label}:`);
    if (text !== '') {
      const code = `${(bytes.get(line.line) ?? '').padEnd(column)}${text}`;
      formatted.push(comment === '' ? code : `${code}  ${comment}`);
    } else if (comment !== '') {
      const label = formatted.pop();
      formatted.push(label === undefined ? comment : `${label}  ${comment}`);
    } else if (formatted.length === 0) {
      formatted.push('');
    }
    return formatted;
  });
}

/** Blanks between bytes and text. */
const GAP = 2;
