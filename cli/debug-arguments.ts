/** How gdb's users spell the options of `kfault debug`. Apart from the command, which loads a debugger. */

/** gdb's options of one dash and several letters, which commander does not know. */
const SPELLINGS: Readonly<Record<string, string>> = {
  '-ex': '--ex',
  '-batch': '--batch',
  '-quiet': '--quiet',
  '-command': '--command',
};

/** The arguments of `kfault debug` with gdb's spellings of options. */
export function debugArguments(args: readonly string[]): string[] {
  return args.map((arg) => SPELLINGS[arg] ?? arg);
}
