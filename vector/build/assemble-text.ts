/** The functions of a fixture as machine code at their addresses. */
import { u64 } from '../../emu/address.js';
import { type Assembled, assemble, measure } from '../../emu/assembler/assemble.js';
import { AssemblerError } from '../../emu/assembler/source.js';
import { type FixtureError, FixtureErrors } from '../format/fixture-error.js';
import type { Fixture } from '../format/load.js';
import type { TextData } from '../format/schema.js';

/** Where functions go: kernel text, BPF images, user code. */
export type TextKind = 'kernel' | 'bpf' | 'user';

/** A function at its place. */
export interface Image {
  readonly text: TextData;
  /** Index in the fixture's `text`. */
  readonly index: number;
  readonly kind: TextKind;
  readonly start: bigint;
  readonly assembled: Assembled;
}

export interface TextPlan {
  /** First free address of each kind. */
  readonly base: Readonly<Record<TextKind, bigint>>;
  /** Address of user code that chose its own, by index. */
  readonly at: ReadonlyMap<number, bigint>;
  /** First address that is free behind the code of a function and what belongs to it. */
  readonly endOf: (index: number, codeEnd: bigint) => bigint;
  /** Addresses of data. */
  readonly symbols: ReadonlyMap<string, bigint>;
  /** Names whose addresses are not known yet: programs in BPF text. */
  readonly unplaced: readonly string[];
}

const TEXT_ALIGN = 16n;
const STALE = 'If something has moved and only the distance is wrong, `kfault fmt` mends the bytes.';
const PAGE = 4096n;

export function textKind(text: TextData): TextKind {
  if (text.program !== undefined) return 'bpf';
  return text.section ?? 'kernel';
}

/** Where all functions go. */
export interface TextLayout {
  /** Address by index in the fixture's `text`. */
  readonly starts: readonly bigint[];
  /** First address behind what went to the end of each kind. */
  readonly end: Readonly<Record<TextKind, bigint>>;
}

/**
 * The lengths of all functions, which give their addresses. Throws FixtureErrors with the first wrong line of each
 * function.
 */
export async function layOutText(fixture: Fixture, plan: TextPlan): Promise<TextLayout> {
  const texts = fixture.data.text ?? [];
  const errors: FixtureError[] = [];
  const unplaced = [...texts.map((t) => t.symbol), ...plan.unplaced];
  const known = new Map([...plan.symbols, ...unplaced.map((name): [string, bigint] => [name, 0n])]);

  const next: Record<TextKind, bigint> = { ...plan.base };
  const starts: bigint[] = [];
  for (const [i, text] of texts.entries()) {
    const kind = textKind(text);
    const start = plan.at.get(i) ?? next[kind];
    starts.push(start);
    const request = requestOf(fixture, text, start, known);
    const length = await collect(fixture, i, errors, () => measure(request));
    if (plan.at.has(i)) continue;
    const align = kind === 'user' ? PAGE : TEXT_ALIGN;
    const end = plan.endOf(i, start + BigInt(length ?? 0));
    next[kind] = u64((end + align - 1n) & ~(align - 1n));
  }
  if (errors.length > 0) throw new FixtureErrors(errors);
  return { starts, end: next };
}

/**
 * Assembles all functions at their addresses. Throws like layOutText().
 * @param others addresses of everything that the functions may name beside each other
 */
export async function assembleText(
  fixture: Fixture,
  { starts }: TextLayout,
  others: ReadonlyMap<string, bigint>,
): Promise<Image[]> {
  const texts = fixture.data.text ?? [];
  const errors: FixtureError[] = [];
  const symbols = new Map(others);
  texts.forEach((text, i) => {
    symbols.set(text.symbol, starts[i] ?? 0n);
  });
  const images: Image[] = [];
  for (const [index, text] of texts.entries()) {
    const start = starts[index] ?? 0n;
    const request = requestOf(fixture, text, start, symbols);
    const assembled = await collect(fixture, index, errors, () => assemble(request));
    if (assembled !== null) images.push({ text, index, kind: textKind(text), start, assembled });
  }
  if (errors.length > 0) throw new FixtureErrors(errors);
  return images;
}

function requestOf(fixture: Fixture, text: TextData, address: bigint, symbols: ReadonlyMap<string, bigint>) {
  return {
    isa: fixture.data.arch,
    address,
    lines: text.asm.split('\n').map((line, i) => ({ text: line, line: i })),
    symbols,
  };
}

async function collect<T>(
  { source }: Fixture,
  index: number,
  errors: FixtureError[],
  work: () => Promise<T>,
): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof AssemblerError)) throw error;
    const place = source.textPlace(['text', index, 'asm'], error.line);
    // The bytes of a call are right for one distance only.
    const stale = error.message.includes('which would be');
    errors.push(source.error(place, error.message, stale ? STALE : ''));
    return null;
  }
}
