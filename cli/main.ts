/**
 * The process: its streams and its exit status. SIGINT keeps its default, which ends the process even while
 * guest code runs; nothing is left behind half done.
 */
import { UNUSABLE } from './io.js';
import { main } from './program.js';

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    // Whoever read has gone, as `head` does: nobody is left to tell anything.
    if (error.code === 'EPIPE') process.exit(process.exitCode ?? 0);
    // A full disk, as a rule. Standard error may be no better off.
    if (stream !== process.stderr) {
      process.stderr.write(`kfault: the output cannot be written (${error.code ?? error.message})\n`);
    }
    process.exit(UNUSABLE);
  });
}

process.exitCode = await main(process.argv.slice(2), {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  isTty: process.stdout.isTTY === true,
  columns: process.stdout.isTTY === true ? process.stdout.columns || null : null,
  env: process.env,
});
