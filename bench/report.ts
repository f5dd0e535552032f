/** The measurements as a table for people, and as one JSON object. */
import { type Figure, type Process, SECTIONS, type Split, type Unit } from './figures.js';
import type { Selection } from './selection.js';
import { ratios, type Summary, summary } from './statistics.js';

/** What one turn of one process says. */
export interface Measured {
  /** One for each of its figures; none when it cannot be measured here. */
  readonly values: readonly number[];
  /** Nanoseconds for each round in the fastest run of a subject. */
  readonly fastest: number | null;
}

/** All turns of a figure. */
export interface FigureTurns {
  readonly values: readonly number[];
  /** Of subjects, else empty. */
  readonly fastest: readonly number[];
}

/** By the figures' ids. */
export type Turns = ReadonlyMap<string, FigureTurns>;

/** What the numbers depend on besides kfault. */
export interface Surroundings {
  readonly node: string;
  readonly engine: string;
  readonly processor: string;
  readonly turns: number;
}

interface Row {
  readonly id: string;
  readonly section: string;
  readonly label: string;
  readonly unit: Unit;
  readonly value: Summary;
  /** Of the Python binding's time. */
  readonly ofPython: Summary | null;
}

function turnsOf(turns: Turns, id: string): FigureTurns {
  const found = turns.get(id);
  if (found === undefined) throw new Error(`nothing was measured for ${id}`);
  return found;
}

function figureRow(figure: Figure, turns: Turns): Row {
  const { id, section, label, unit, python } = figure;
  const { values } = turnsOf(turns, id);
  const others = python === undefined ? undefined : turns.get(python);
  const ofPython = others === undefined ? null : summary(ratios(values, others.values));
  return { id, section, label, unit, value: summary(values), ofPython };
}

/**
 * A part of a split fault: the difference of two stages. It is taken of their fastest runs, because what
 * disturbs a run makes it slower, never faster, and would be a multiple of the smaller parts. The parts add
 * up to the whole exactly.
 */
export interface PartRow {
  readonly label: string;
  readonly ns: number;
  /** The stage in which the part comes in: the fastest run of each turn. */
  readonly stage: Summary;
  /** Of the whole, nobody listening. */
  readonly share: number;
}

export function partRows({ parts, whole, beyond }: Split, turns: Turns): PartRow[] {
  const stages = [...parts, ['remainder', whole[1]] as const, beyond];
  const fastest = (id: string): Summary => summary(turnsOf(turns, id).fastest);
  const total = fastest(whole[1]);
  const rows = stages.map(([label, id], i): PartRow => {
    const stage = fastest(id);
    const before = stages[i - 1]?.[1];
    const ns = before === undefined ? stage.min : stage.min - fastest(before).min;
    return { label, ns, stage, share: ns / total.min };
  });
  rows.splice(-1, 0, { label: whole[0], ns: total.min, stage: total, share: 1 });
  return rows;
}

/** Three digits that count, and no fraction from 100 on. */
export function number(value: number): string {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

const DASH = '..';

function columns(label: string, value: string, range: string, ratio: string, width: number): string {
  return `${label.padEnd(width)}  ${value.padStart(12)}  ${range.padStart(17)}  ${ratio}`.trimEnd();
}

function rangeText({ min, max }: { readonly min: number; readonly max: number }): string {
  return `${number(min)}${DASH}${number(max)}`;
}

function rowsOf({ processes, shown }: Selection, turns: Turns): Row[] {
  const figures = processes.flatMap((process: Process): readonly Figure[] => process.figures);
  return figures.filter(({ id }) => shown.has(id) && turns.has(id)).map((figure) => figureRow(figure, turns));
}

/** The table, line by line. */
export function textReport(selection: Selection, turns: Turns, surroundings: Surroundings): string[] {
  const rows = rowsOf(selection, turns);
  const labels = [
    ...rows.map(({ label }) => label),
    ...selection.splits.flatMap(({ parts, whole, beyond }) =>
      [...parts, whole, beyond].map(([label]) => label),
    ),
  ];
  const width = Math.max(...labels.map((label) => label.length)) + 2;
  const { node, engine, processor, turns: count } = surroundings;
  const lines = [
    `${processor}; Node ${node}; Unicorn ${engine}; medians of ${count} ${count === 1 ? 'turn' : 'turns'}`,
  ];
  const heading = (name: string, value: string, range: string, last: string): void => {
    lines.push('', columns(name, value, range, last, width));
  };
  const sections = SECTIONS.filter((name) => rows.some((row) => row.section === name));
  for (const name of sections) {
    const inside = rows.filter((row) => row.section === name);
    const compared = inside.some(({ ofPython }) => ofPython !== null);
    heading(name, 'median', `min${DASH}max`, compared ? "of Python's (min..max)" : '');
    for (const { label, unit, value, ofPython } of inside) {
      const ratio = ofPython === null ? '' : `${ofPython.median.toFixed(2)} (${rangeOf(ofPython)})`;
      lines.push(
        columns(`  ${label}`, `${number(value.median)} ${unit.padEnd(3)}`, rangeText(value), ratio, width),
      );
    }
  }
  for (const split of selection.splits) {
    heading(split.section, 'fastest run', 'of its stage', 'share');
    for (const { label, ns, stage, share } of partRows(split, turns)) {
      lines.push(
        columns(`  ${label}`, `${number(ns)} ns `, rangeText(stage), `${(share * 100).toFixed(0)} %`, width),
      );
    }
  }
  return lines;
}

function rangeOf({ min, max }: Summary): string {
  return `${min.toFixed(2)}${DASH}${max.toFixed(2)}`;
}

/** The same, with each turn's value. */
export function jsonReport(selection: Selection, turns: Turns, surroundings: Surroundings): string {
  const figures = Object.fromEntries(
    rowsOf(selection, turns).map(({ id, section, label, unit, value, ofPython }) => [
      id,
      {
        section,
        label,
        unit,
        ...value,
        turns: turnsOf(turns, id).values,
        ...(ofPython === null ? {} : { ofPython }),
      },
    ]),
  );
  const parts = Object.fromEntries(selection.splits.map((split) => [split.section, partRows(split, turns)]));
  return JSON.stringify({ ...surroundings, figures, parts }, null, 2);
}
