/** The command line of the oracle. */
import { Command, InvalidArgumentError, Option } from 'commander';
import type { ArchName } from './case.js';

export interface OracleOptions {
  readonly seed: number;
  /** Cases of each architecture. */
  readonly count: number;
  readonly arches: readonly ArchName[];
  readonly json: boolean;
}

const ARCHES: readonly ArchName[] = ['x86-64', 'arm64'];
const COUNT = 25_000;
const MOST_CASES = 100_000_000;
const LARGEST_SEED = 0xffff_ffff;

/** What the command says of itself. */
export interface Wording {
  readonly name: string;
  readonly description: string;
  /** Cases, if nobody says how many. */
  readonly count: number;
  readonly counted: string;
}

const WALKS: Wording = {
  name: 'oracle',
  description: "Compares kfault's page-table walks with those of the engine's own MMU, on random tables.",
  count: COUNT,
  counted: 'cases of each architecture',
};

/** Throws commander's CommanderError, after a message to `err` or the help to `out`. */
export function parseOptions(
  args: readonly string[],
  output: { out: (text: string) => void; err: (text: string) => void },
  { name, description, count: usual, counted }: Wording = WALKS,
): OracleOptions {
  const command = new Command(`npm run ${name} --`)
    .description(description)
    .option(
      '--seed <n>',
      'which random cases; the same seed gives the same ones',
      number('seed', 0, LARGEST_SEED),
      1,
    )
    .option('--count <n>', counted, number('count', 1, MOST_CASES), usual)
    .addOption(new Option('--arch <name>', 'one architecture only').choices(ARCHES))
    .option('--json', `print one JSON object (npm run --silent ${name} -- --json)`, false)
    .exitOverride()
    .configureOutput({ writeOut: output.out, writeErr: output.err })
    .showHelpAfterError(`Try: npm run ${name} -- --help`)
    .parse([...args], { from: 'user' });
  const { seed, count, arch, json } = command.opts<{
    seed: number;
    count: number;
    arch?: ArchName;
    json: boolean;
  }>();
  return { seed, count, arches: arch === undefined ? ARCHES : [arch], json };
}

function number(name: string, least: number, most: number): (text: string) => number {
  return (text) => {
    const value = /^(0x[0-9a-f]+|[0-9]+)$/i.test(text) ? Number(text) : Number.NaN;
    if (!(value >= least && value <= most)) {
      throw new InvalidArgumentError(`A ${name} is a whole number from ${least} to ${most}.`);
    }
    return value;
  };
}
