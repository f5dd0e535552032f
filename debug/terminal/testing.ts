/** For tests: a shell on a session, and what it says. */
import type { DebugSession } from '../api.js';
import { palette } from './lines.js';
import { Shell } from './shell.js';

export interface Said {
  readonly shell: Shell;
  /** The lines that commands print, one after the other; errors behind `! `. */
  say(...commands: readonly string[]): Promise<string[]>;
}

/** A shell without colours. */
export function shellOn(session: DebugSession, columns: number | null = null): Said {
  let lines: string[] = [];
  const add = (text: string, mark: string): void => {
    lines.push(
      ...text
        .replace(/\n$/, '')
        .split('\n')
        .map((row) => `${mark}${row}`),
    );
  };
  const shell = new Shell(session, {
    out: (text) => (text === '' ? undefined : add(text, '')),
    err: (text) => add(text, '! '),
    columns: () => columns,
    palette: palette(false),
  });
  return {
    shell,
    say: async (...commands) => {
      lines = [];
      for (const command of commands) await shell.execute(command, null, true);
      return lines;
    },
  };
}
