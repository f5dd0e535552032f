/** All commands. */
import { type Command, CommandTable } from '../command.js';
import { breakpoints } from './breakpoints.js';
import { data } from './data.js';
import { running } from './running.js';
import { support } from './support.js';
import { views } from './views.js';

/** A table of all commands. */
export function allCommands(): CommandTable {
  const commands: readonly Command[] = [
    ...running,
    ...breakpoints,
    ...data,
    ...views,
    ...support(() => table),
  ];
  const table = new CommandTable(commands);
  return table;
}
