/** `kfault fmt`: writes the bytes in front of the instructions of a fixture, and changes nothing else. */
import { BPF_FUNCTIONS } from '../../boot/bpf-functions.js';
import { formatWithBytes } from '../../emu/assembler/format.js';
import { parseLine } from '../../emu/assembler/source.js';
import type { Image } from '../build/assemble-text.js';
import { bpfProgramNames } from '../build/bpf-programs.js';
import { trampolineNames } from '../build/struct-ops.js';
import type { Fixture } from './load.js';
import { labelsOf } from './names.js';

/** The text of a fixture with bytes in its asm blocks. */
export function formatFixture({ source, data }: Fixture, images: readonly Image[]): string {
  const lines = [...source.lines];
  // From the last block to the first: the numbers of lines before it stay right.
  for (const image of [...images].reverse()) {
    const path = ['text', image.index, 'asm'];
    if (source.blockStyle(path) !== 'literal') {
      throw source.at(
        path,
        'bytes go in front of the lines of a block (`|`)',
        'Write asm: | and the code below it.',
      );
    }
    const { asm } = image.text;
    const own = (asm.endsWith('\n') ? asm.replace(/\n+$/, '') : asm).split('\n');
    const first = source.blockLine(path, 0) - 1;
    const indent = /^ */.exec(lines.slice(first).find((line) => line.trim() !== '') ?? '')?.[0] ?? '';
    const formatted = formatWithBytes(
      data.arch,
      own.map((text, i) => ({ text, line: i })),
      image.assembled,
    );
    lines.splice(first, own.length, ...formatted.map((line) => (line === '' ? '' : `${indent}${line}`)));
  }
  return lines.join(source.text.includes('\r\n') ? '\r\n' : '\n');
}

/**
 * The fixture without the bytes of instructions that name a function, a label or data: those bytes hold
 * distances, which are stale once something has moved. The assembler makes them anew from the text.
 */
export function withoutDistances({ source, data }: Fixture): Fixture {
  const symbols = [
    ...[...(data.text ?? []), ...(data.data ?? [])].map((each) => each.symbol),
    ...bpfProgramNames(data),
    ...trampolineNames(data),
    ...BPF_FUNCTIONS,
  ];
  const text = data.text?.map((each) => {
    const names = new Set([...symbols, ...labelsOf(data.arch, each)]);
    const asm = each.asm.split('\n').map((line, i) => {
      const { labels, bytes, text, comment } = parseLine(data.arch, { text: line, line: i });
      const words = text.match(/[A-Za-z_.$][\w.$]*|\d+[bf]\b/g)?.slice(1) ?? [];
      const distant = words.some((word) => names.has(word) || /^\d+[bf]$/.test(word));
      if (bytes === null || !distant) return line;
      return `${labels.map((label) => `${label}: `).join('')}${text}  ${comment}`;
    });
    return { ...each, asm: asm.join('\n') };
  });
  return { source, data: { ...data, text } };
}
