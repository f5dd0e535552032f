/**
 * The command line: commands, options, help, and what happens when something goes wrong. Each command's code is
 * loaded when it is asked for: loading is most of what a short run costs.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { LibraryError } from '../emu/unicorn/library.js';
import { SetupError } from '../scripts/setup-error.js';
import type { DapOptions } from './dap-command.js';
import { debugArguments } from './debug-arguments.js';
import type { DebugOptions, DebugScript } from './debug-command.js';
import type { ExplainOptions } from './explain-command.js';
import type { FmtOptions } from './fmt-command.js';
import type { GdbserverOptions } from './gdbserver-command.js';
import { type Io, PASSED, UNUSABLE, UsageError } from './io.js';
import type { RunOptions } from './run-command.js';

/** A fixture that is there, so that what stands in the help can be tried as it stands. */
const SAMPLE = 'fixtures/x86/kernel-read-of-unallocated-page.yaml';
const OOPS_SAMPLE = 'fixtures/x86/oops-on-a-null-pointer.yaml';
const EXIT_HELP = 'Exit status: 0 passed, 1 a fixture failed, 2 bad input or set-up.';

/** Runs the command line `args` (without node and script); returns the exit status. Never throws. */
export async function main(args: readonly string[], io: Io): Promise<number> {
  let status = PASSED;
  const program = createProgram(io, (code) => {
    status = code;
  });
  try {
    const [first, ...rest] = args;
    await program.parseAsync(first === 'debug' ? [first, ...debugArguments(rest)] : [...args], {
      from: 'user',
    });
    return status;
  } catch (error) {
    return failure(error, io);
  }
}

function createProgram(io: Io, done: (status: number) => void): Command {
  const program = new Command('kfault')
    .description('A laboratory for Linux page faults on x86-64 and arm64.')
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.out(text), writeErr: (text) => io.err(text) })
    .showHelpAfterError('Try: kfault --help')
    .addHelpText(
      'after',
      `\n${EXIT_HELP}\n\nExamples:\n  npx kfault run fixtures\n  npx kfault explain ${SAMPLE}`,
    );

  program
    .command('run')
    .description('run fixtures and check what they expect')
    .argument('[paths...]', 'fixture files, or folders of them (default: fixtures)')
    .addOption(new Option('--arch <arch>', 'only fixtures of one architecture').choices(['x86-64', 'arm64']))
    .option('-t, --filter <regex>', 'only fixtures whose name or file matches, in any case')
    .option('--json', 'print the results as JSON')
    .option('--fail-fast', 'stop behind the first fixture that does not pass')
    .option('--timing', 'print how long each fixture took')
    .addHelpText(
      'after',
      `\n${EXIT_HELP}\n\nExamples:\n  npx kfault run fixtures/arm64\n  npx kfault run --arch x86-64 -t "upper guard"\n  npx kfault run --json > results.json`,
    )
    .action(async (paths: string[], options: RunOptions) => {
      const { runCommand } = await import('./run-command.js');
      done(await runCommand(paths, options, io));
    });

  program
    .command('explain')
    .description('tell the story of each fault of a fixture')
    .argument('<file>', 'fixture file')
    .addOption(new Option('--step <n>', 'only this step, counted from 1').argParser(stepNumber))
    .option('--console', 'print the kernel log instead, as a console prints it')
    .option('--levels', 'with --console: <level> in front of each line')
    .option('--time', 'with --console: seconds since boot in front of each line')
    .option('--caller', 'with --console: the task or CPU that printed, as CONFIG_PRINTK_CALLER does')
    .addHelpText(
      'after',
      `\nExamples:\n  npx kfault explain ${SAMPLE} --step 1\n` +
        `  npx kfault explain ${OOPS_SAMPLE} --console --time | diff - dmesg.txt`,
    )
    .action(async (file: string, options: ExplainOptions) => {
      const { explainCommand } = await import('./explain-command.js');
      done(await explainCommand(file, options, io));
    });

  const scripts: DebugScript[] = [];
  const script = (kind: DebugScript['kind']) => (text: string) => scripts.push({ kind, text });
  program
    .command('debug')
    .description('run a fixture in a debugger: instructions, decisions of the kernel, and back again')
    .argument('<file>', 'fixture file')
    .addOption(
      new Option('-x, --command <file>', 'do the commands of a file first').argParser(script('file')),
    )
    .addOption(new Option('--ex <command>', 'do a command first (also -ex)').argParser(script('command')))
    .option('--batch', 'end behind these; exit status 1 if the fixture has failed, 2 if a command went wrong')
    .option('-q, --quiet', 'say nothing at the beginning')
    .addHelpText(
      'after',
      `\nCommands come from the keyboard or from a pipe; \`help\` lists them (docs/debugger.md).\n\nExamples:\n  npx kfault debug ${SAMPLE}\n` +
        `  npx kfault debug ${SAMPLE} --batch -ex "catch fault" -ex run -ex walk -ex path`,
    )
    .action(async (file: string, { batch, quiet }: Omit<DebugOptions, 'scripts'>) => {
      const { debugCommand } = await import('./debug-command.js');
      done(await debugCommand(file, { scripts, batch: batch === true, quiet: quiet === true }, io));
    });

  program
    .command('gdbserver')
    .description('let gdb debug the run of a fixture, over its remote protocol')
    .argument('<file>', 'fixture file')
    .addOption(
      new Option('--port <number>', 'port to wait at, 0 for any that is free (default: 1234)').argParser(
        portNumber,
      ),
    )
    .option(
      '--listen <address>',
      'address to wait at (default: 127.0.0.1, which only this computer can reach)',
    )
    .addHelpText(
      'after',
      `\nWhoever reaches the port can read and change everything in the machine (docs/gdb.md).\n\nExample:\n` +
        `  npx kfault gdbserver ${SAMPLE} --port 1234\n  gdb -ex 'target remote :1234'`,
    )
    .action(async (file: string, options: GdbserverOptions) => {
      const { gdbserverCommand } = await import('./gdbserver-command.js');
      done(await gdbserverCommand(file, options, io));
    });

  program
    .command('dap')
    .description('let an editor debug runs of fixtures, over the Debug Adapter Protocol')
    .addOption(
      new Option(
        '--port <number>',
        'wait at a port of this computer instead of standard input, 0 for any that is free',
      ).argParser(portNumber),
    )
    .addHelpText(
      'after',
      '\nThe editor starts it and says which fixture is to be debugged (docs/dap.md).\n\nExample:\n  npx kfault dap --port 4711',
    )
    .action(async (options: DapOptions) => {
      const { dapCommand } = await import('./dap-command.js');
      done(await dapCommand(options, io));
    });

  program
    .command('fmt')
    .description('write the bytes of instructions into fixtures, in front of their text')
    .argument('<paths...>', 'fixture files, or folders of them')
    .option('--check', 'change nothing; exit status 1 if a file would change')
    .addHelpText('after', '\nExample:\n  npx kfault fmt my-fixtures')
    .action(async (paths: string[], options: FmtOptions) => {
      const { fmtCommand } = await import('./fmt-command.js');
      done(await fmtCommand(paths, options, io));
    });

  program
    .command('schema')
    .description('print the JSON Schema of fixtures (docs/fixture.schema.json)')
    .action(async () => {
      const { schemaCommand } = await import('./schema-command.js');
      done(schemaCommand(io));
    });

  program
    .command('setup')
    .description('fetch and check the engine (Unicorn)')
    .action(async () => {
      const { setupEngine } = await import('../scripts/setup-engine.js');
      const { library } = await setupEngine({ log: (line) => io.out(`${line}\n`) });
      io.out(`engine: ${library}\n`);
      done(PASSED);
    });

  return program;
}

function stepNumber(text: string): number {
  if (!/^[1-9][0-9]{0,5}$/.test(text)) throw new InvalidArgumentError('a step is a number from 1.');
  return Number(text);
}

function portNumber(text: string): number {
  if (!/^[0-9]{1,5}$/.test(text) || Number(text) > 65_535) {
    throw new InvalidArgumentError('a port is a number from 0 to 65535.');
  }
  return Number(text);
}

function version(): string {
  // Beside the sources or one folder above the compiled files.
  for (const path of ['../package.json', '../../package.json']) {
    try {
      const parsed: unknown = JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'));
      if (typeof parsed === 'object' && parsed !== null && 'version' in parsed) return String(parsed.version);
    } catch {
      // Not here: the other place has it.
    }
  }
  return 'unknown';
}

/** One message for whatever went wrong, and the exit status. */
function failure(error: unknown, io: Io): number {
  if (error instanceof CommanderError) {
    // Commander has printed its own message; asking for help or version is no mistake.
    return error.exitCode === 0 ? PASSED : UNUSABLE;
  }
  if (error instanceof UsageError || error instanceof SetupError || error instanceof LibraryError) {
    io.err(`kfault: ${error.message}\n`);
    return UNUSABLE;
  }
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  io.err(`kfault: internal error: ${message.split('\n', 1)[0]} (KFAULT_DEBUG=1 shows where)\n`);
  if (io.env.KFAULT_DEBUG === '1' && error instanceof Error) io.err(`${error.stack}\n`);
  return UNUSABLE;
}
