/**
 * A disagreement as a fixture of kfault: the same walk in a machine with a kernel, with what kfault answers.
 * A machine has its kernel's tables around those of the question, and a CPU that is not the oracle's; what
 * that changes is said in the description.
 */
import type { ArchName, Case } from './case.js';

/** A question in the terms of a machine. */
export interface Scene {
  /** Entry of the root table for the address; null when none is looked at. */
  readonly pgd: bigint | null;
  /** An address that the entry stands for. */
  readonly slot: bigint;
  /** Entries of the tables below, by physical address in the machine. */
  readonly entries: ReadonlyMap<number, bigint>;
  readonly registers: Readonly<Record<string, bigint>>;
  /** In user mode. */
  readonly user: boolean;
  /** Physical address in the machine that a fetch leads to, where code has to be to return from. */
  readonly landing: number | null;
  /** The function that makes the access. */
  readonly code: string;
  /** What kfault answers: the lines of one expected fault; null when it translates. */
  readonly fault: readonly string[] | null;
  /** What is different from the question. */
  readonly notes: readonly string[];
}

export interface SceneFunction {
  readonly symbol: string;
  readonly user: boolean;
  readonly asm: readonly string[];
}

export interface Stage {
  readonly arch: ArchName;
  readonly functions: readonly SceneFunction[];
  /** Where the direct map shows physical address 0. */
  readonly directMap: bigint;
  /** An instruction that returns, bytes in hexadecimal. */
  readonly ret: string;
}

const PAGE = 4096;
const hex = (value: bigint | number): string => `0x${value.toString(16)}`;

/**
 * The text of a fixture.
 * @param outcomes how the run of each scene ends, e.g. `oops`
 */
export function fixtureText(
  stage: Stage,
  title: string,
  scenes: readonly Scene[],
  outcomes: readonly string[],
): string {
  const pages = new Set(scenes.flatMap(({ entries }) => [...entries.keys()].map((pa) => pa - (pa % PAGE))));
  const used = new Set(scenes.map(({ code }) => code));
  // A task has tables of its own for the low half once there is user code.
  const needed = stage.functions.filter(({ symbol }) => used.has(symbol));
  const functions = needed.some(({ user }) => user)
    ? needed
    : [...needed, ...stage.functions.filter(({ user }) => user).slice(0, 1)];
  const notes = [...new Set(scenes.flatMap((scene) => scene.notes))];
  const lines = [`name: ${JSON.stringify(title)}`];
  if (notes.length > 0) lines.push('description: >-', ...notes.map((note) => `  ${note}`));
  // An access that the kernel takes for spurious is made again and again: twice is enough.
  lines.push(`arch: ${stage.arch}`, 'limits: { refaults: 2 }', 'text:');
  for (const { symbol, user, asm } of functions) {
    lines.push(`  - symbol: ${symbol}`, ...(user ? ['    section: user'] : []), '    asm: |');
    lines.push(...asm.map((line) => `      ${line}`));
  }
  if (pages.size > 0) lines.push('data:');
  for (const pa of [...pages].sort((a, b) => a - b)) {
    const at = hex(stage.directMap + BigInt(pa));
    lines.push(`  - { symbol: table_${pa.toString(16)}, where: linear, at: ${at}, size: 4KiB }`);
  }
  lines.push('steps:');
  let stored: ReadonlyMap<number, bigint> = new Map();
  scenes.forEach((scene, index) => {
    lines.push(...setUp(stage, scene, stored, index > 0), ...access(scene, outcomes[index] ?? 'returned'));
    stored = scene.entries;
  });
  return `${lines.join('\n')}\n`;
}

/** Stores what is different from the scene before, and forgets translations. */
function setUp(
  { directMap, ret }: Stage,
  { entries, slot, pgd, landing }: Scene,
  stored: ReadonlyMap<number, bigint>,
  flush: boolean,
): string[] {
  const lines: string[] = [];
  // A and D may have been set: everything is stored again.
  const all = new Map<number, bigint>([...[...stored.keys()].map((pa) => [pa, 0n] as const), ...entries]);
  for (const [pa, value] of all) {
    lines.push(`  - write: { at: ${hex(directMap + BigInt(pa))}, u64: ${hex(value)} }`);
  }
  if (landing !== null) lines.push(`  - write: { at: ${hex(directMap + BigInt(landing))}, bytes: ${ret} }`);
  if (pgd !== null) lines.push(`  - pte: { va: ${hex(slot)}, level: pgd, value: ${hex(pgd)} }`);
  if (flush) lines.push('  - tlb: { flush: all }');
  return lines;
}

function access({ user, code, registers, fault }: Scene, outcome: string): string[] {
  const values = Object.entries(registers).map(([name, value]) => `${name}: ${hex(value)}`);
  const once = fault?.map((line, i) => `        ${i === 0 ? '- ' : '  '}${line}`) ?? [];
  return [
    `  - ${user ? 'user' : 'call'}: ${code}`,
    `    registers: { ${values.join(', ')} }`,
    '    expect:',
    `      outcome: ${outcome}`,
    ...(fault === null ? ['      faults: []'] : ['      faults:', ...once]),
    ...(outcome === 'livelock' ? once : []),
  ];
}

/** A question in words and numbers, for those that no fixture can express. */
export function rawText(question: Case): string {
  const { entries, ...rest } = question;
  const fields = Object.entries(rest).map(
    ([name, value]) =>
      `${name}: ${typeof value === 'bigint' || typeof value === 'number' ? hex(value) : String(value)}`,
  );
  const words = [...entries].map(([pa, value]) => `${hex(pa)}: ${hex(value)}`);
  return `{ ${fields.join(', ')}, entries: { ${words.join(', ')} } }`;
}
