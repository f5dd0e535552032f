/** The walk of an address as a picture: from the register down, one box for each level that was read. */
import { hex, hex16 } from '../../../emu/address.js';
import type { WalkView } from '../../views.js';
import { bad, dim, good, hanging, type Line, line, name, strong } from '../lines.js';

/** What an architecture tells about a level: the words behind the entry. */
interface LevelText {
  readonly title: string;
  readonly what: readonly string[];
}

const LEVEL = /^((?:PGD|P4D|PUD|PMD|PTE)\[\d+\])\s+(.*) = ([0-9a-f]{16})\s\s(.*)$/;

/** Lines of `kfault explain` taken apart: a line for each level and further ones, then what it came to. */
function parts(lines: readonly string[]): {
  readonly levels: readonly LevelText[];
  readonly verdict: readonly string[];
} {
  const levels: { title: string; what: string[] }[] = [];
  const verdict: string[] = [];
  for (const text of lines) {
    const match = LEVEL.exec(text);
    if (match !== null) levels.push({ title: match[1] ?? '', what: [match[4] ?? ''] });
    else if (verdict.length === 0 && text.startsWith(' '.repeat(9))) levels.at(-1)?.what.push(text.trim());
    else verdict.push(text.trim());
  }
  return { levels, verdict };
}

/** The register that the walk of an address begins at. */
function rootRegister(arch: 'x86-64' | 'arm64', va: bigint): string {
  if (arch === 'x86-64') return 'CR3';
  return ((va >> 55n) & 1n) === 1n ? 'TTBR1_EL1' : 'TTBR0_EL1';
}

/** Bits of the address that choose an entry of each level, with 4 KiB pages. */
const SHIFTS: Readonly<Record<string, bigint>> = { pgd: 39n, p4d: 39n, pud: 30n, pmd: 21n, pte: 12n };

export function walkLines(
  walk: WalkView,
  arch: 'x86-64' | 'arm64',
  nameOf: (address: bigint) => string | null,
): Line[] {
  const { va, levels, ok, pa } = walk;
  const described = parts(walk.lines);
  const symbol = nameOf(va);
  const who = walk.user ? 'user' : 'kernel';
  const out: Line[] = [
    hanging(
      2,
      strong(hex16(va)),
      symbol === null ? '' : '  ',
      name(symbol ?? ''),
      dim(`  ${walk.access} with ${who} rights`),
    ),
  ];
  const [root] = levels;
  if (root !== undefined) {
    out.push(
      hanging(2, dim(`${rootRegister(arch, va)} -> table ${hex(root.entryPa - (root.entryPa % 4096))}`)),
    );
  }
  levels.forEach(({ level, entryPa, entry }, i) => {
    const shift = SHIFTS[level] ?? 12n;
    const text = described.levels[i];
    const failed = !ok && i === levels.length - 1;
    out.push(line(dim(' |')), line(dim(' v')));
    out.push(
      hanging(
        4,
        strong(text?.title ?? level.toUpperCase()),
        dim(`  bits ${shift + 8n}:${shift}, at ${hex(entryPa)}`),
      ),
    );
    out.push(hanging(6, dim(' |  '), failed ? bad(hex16(entry)) : hex16(entry)));
    for (const what of text?.what ?? []) {
      if (what !== '') out.push(hanging(6, dim(' |  '), failed ? bad(what) : what));
    }
  });
  if (ok && pa !== null) {
    const owner = walk.owner === null ? '' : `, ${walk.owner}`;
    out.push(line(dim(' |')), line(dim(' v')));
    out.push(hanging(4, good(`physical ${hex(pa)}`), `  ${walk.rights}${owner}`));
    return out;
  }
  out.push(line(dim(' x')));
  out.push(...described.verdict.map((text) => hanging(2, bad(text))));
  if (walk.owner !== null)
    out.push(hanging(2, dim(`for software the entry still has a page: ${walk.owner}`)));
  return out;
}

/** `pte`: the entry at which a walk ends. */
export function entryLines(walk: WalkView, nameOf: (address: bigint) => string | null): Line[] {
  const entry = walk.levels.at(-1);
  const text = parts(walk.lines).levels[walk.levels.length - 1];
  if (entry === undefined)
    return [hanging(2, bad(`${hex16(walk.va)}: ${walk.verdict}, before any table was read`))];
  const symbol = nameOf(walk.va);
  return [
    hanging(
      4,
      strong(text?.title ?? entry.level.toUpperCase()),
      ` of ${hex16(walk.va)}`,
      symbol === null ? '' : name(` <${symbol}>`),
      dim(` at ${hex(entry.entryPa)} = `),
      hex16(entry.entry),
    ),
    ...(text?.what ?? []).filter((what) => what !== '').map((what) => hanging(4, `  ${what}`)),
  ];
}
