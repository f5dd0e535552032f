/** The command line of the access matrix. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { type Filter, parseFilter } from '../arch/x86/access-matrix.js';

export interface MatrixCommand {
  readonly maxphyaddr: number;
  readonly pku: boolean;
  readonly smep: boolean;
  readonly levels: 4 | 5;
  readonly filter: Filter;
  /** Number of the first combination. */
  readonly from: number;
  /** Numbers looked at, at the most. */
  readonly count: number;
  readonly jobs: number;
}

const MOST_JOBS = 64;

/** Throws commander's CommanderError, after a message to `err` or the help to `out`. */
export function parseOptions(
  args: readonly string[],
  cpus: number,
  output: { out: (text: string) => void; err: (text: string) => void },
): MatrixCommand {
  const command = new Command('npm run access-matrix --')
    .description(
      'Runs every combination of x86/access.c of kvm-unit-tests: real instructions on an engine, with the page ' +
        'faults, error codes and table words that its model expects.',
    )
    .option('--maxphyaddr <n>', 'physical address bits of the CPU', number('width', 36, 52), 46)
    .option('--no-pku', 'a CPU without protection keys')
    .option('--smep', 'also with CR4.SMEP set, which the program leaves out', false)
    .addOption(new Option('--levels <n>', 'levels of paging').choices(['4', '5']).default('4'))
    .option(
      '--filter <flags>',
      'only combinations with these flags; ! in front: without (user,!pte.p,write)',
      filter,
    )
    .option('--from <n>', 'number of the first combination', number('number', 0, 2 ** 31), 0)
    .option('--count <n>', 'how many numbers, at the most', number('count', 1, 2 ** 31), 2 ** 31)
    .option('--jobs <n>', 'processes at once', number('number of processes', 1, MOST_JOBS), cpus)
    .exitOverride()
    .configureOutput({ writeOut: output.out, writeErr: output.err })
    .showHelpAfterError('Try: npm run access-matrix -- --help')
    .parse([...args], { from: 'user' });
  const options = command.opts<
    Omit<MatrixCommand, 'levels' | 'filter'> & { levels: string; filter?: Filter }
  >();
  return { ...options, levels: options.levels === '5' ? 5 : 4, filter: options.filter ?? parseFilter('') };
}

function number(name: string, least: number, most: number): (text: string) => number {
  return (text) => {
    const value = /^[0-9]{1,12}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= least && value <= most)) {
      throw new InvalidArgumentError(`A ${name} is a whole number from ${least} to ${most}.`);
    }
    return value;
  };
}

function filter(text: string): Filter {
  try {
    return parseFilter(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}
