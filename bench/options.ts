/** The command line of the benchmarks. */
import { Command, InvalidArgumentError } from 'commander';

export interface BenchOptions {
  readonly json: boolean;
  readonly only: RegExp | null;
  readonly turns: number;
}

const TURNS = 5;
const MOST_TURNS = 99;

/** Throws commander's CommanderError, after a message to `err` or the help to `out`. */
export function parseOptions(
  args: readonly string[],
  output: { out: (text: string) => void; err: (text: string) => void },
): BenchOptions {
  const command = new Command('npm run bench --')
    .description('Measures kfault. Each figure has a process of its own; the processes take turns.')
    .option('--json', 'print one JSON object instead of the table (npm run --silent bench -- --json)', false)
    .option('--only <pattern>', 'only figures whose id, label or section matches, in any case', pattern)
    .option('--turns <n>', 'how often everything is measured', turns, TURNS)
    .exitOverride()
    .configureOutput({ writeOut: output.out, writeErr: output.err })
    .showHelpAfterError('Try: npm run bench -- --help')
    .parse([...args], { from: 'user' });
  const { json, only, turns: count } = command.opts<{ json: boolean; only?: RegExp; turns: number }>();
  return { json, only: only ?? null, turns: count };
}

function pattern(text: string): RegExp {
  try {
    return new RegExp(text, 'i');
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

function turns(text: string): number {
  if (!/^[1-9][0-9]?$/.test(text)) throw new InvalidArgumentError(`It is a number from 1 to ${MOST_TURNS}.`);
  return Number(text);
}
