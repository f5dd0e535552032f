/** For tests: a command in a pseudo-terminal that is typed at, and what its screen shows. */
import { spawnSync } from 'node:child_process';
import xterm, { type IBufferCell, type Terminal } from '@xterm/headless';

/**
 * Plays keys into a pseudo-terminal: [[what is typed, the pattern that is waited for], …], or [[columns, rows], pattern]
 * to resize it. Prints what came after each of them, as JSON, and the exit status.
 */
const DRIVER = `
import base64, fcntl, json, os, pty, re, select, struct, sys, termios, time
argv, size, keys = json.loads(sys.argv[1])
def resize(fd, size):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', size[1], size[0], 0, 0))
pid, fd = pty.fork()
if pid == 0:
    resize(1, size)
    os.execv(argv[0], argv)
chunks = []
def wait(pattern):
    out, end = b'', time.time() + 30
    while pattern is None or not re.search(pattern.encode(), out):
        if time.time() > end or not select.select([fd], [], [], end - time.time())[0]:
            raise SystemExit('no ' + repr(pattern) + ' in ' + repr(out))
        try:
            data = os.read(fd, 65536)
        except OSError:
            data = b''
        if data == b'':
            if pattern is not None:
                raise SystemExit('ended before ' + repr(pattern) + ' in ' + repr(out))
            break
        out += data
    chunks.append(base64.b64encode(out).decode())
for text, pattern in keys:
    if isinstance(text, list):
        resize(fd, text)
    else:
        os.write(fd, text.encode())
    wait(pattern)
print(json.dumps([chunks, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]))
`;

/** Columns and rows. */
export type Size = readonly [columns: number, rows: number];

/** What is done at the keyboard, and the regular expression that is waited for; null: the end of the command. */
export type Key = readonly [typed: string | Size, until: string | null];

export interface Played {
  /** What came after each key. */
  readonly chunks: readonly Uint8Array[];
  readonly status: number;
}

/** Runs a command and types at it. Throws when what is waited for does not come. */
export function play(
  argv: readonly string[],
  size: Size,
  keys: readonly Key[],
  env: NodeJS.ProcessEnv,
): Played {
  const python = process.env.PYTHON ?? 'python3';
  const { stdout, stderr, status } = spawnSync(python, ['-c', DRIVER, JSON.stringify([argv, size, keys])], {
    encoding: 'utf8',
    env,
  });
  if (status !== 0) throw new Error(stderr);
  const [chunks, ended] = JSON.parse(stdout) as [string[], number];
  return { chunks: chunks.map((chunk) => Buffer.from(chunk, 'base64')), status: ended };
}

/** A terminal's screen. */
export class Screen {
  readonly #terminal: Terminal;

  constructor([cols, rows]: Size) {
    this.#terminal = new xterm.Terminal({ cols, rows, allowProposedApi: true });
  }

  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve) => this.#terminal.write(bytes, resolve));
  }

  resize([cols, rows]: Size): void {
    this.#terminal.resize(cols, rows);
  }

  /** The rows that are seen, without blanks at their ends and blank rows below. */
  get rows(): string[] {
    const { active } = this.#terminal.buffer;
    const rows = Array.from({ length: this.#terminal.rows }, (_, y) => {
      return (
        active
          .getLine(active.viewportY + y)
          ?.translateToString(true)
          .trimEnd() ?? ''
      );
    });
    while (rows.at(-1) === '') rows.pop();
    return rows;
  }

  /** Where the cursor stands, counted from 0. */
  get cursor(): readonly [column: number, row: number] {
    const { active } = this.#terminal.buffer;
    return [active.cursorX, active.cursorY];
  }

  /** Under each row that begins with `text` how its characters look: a letter each, see LETTERS. */
  looks(text: string): string[] {
    const { active } = this.#terminal.buffer;
    const y = this.rows.findIndex((row) => row.startsWith(text));
    const line = active.getLine(active.viewportY + y);
    if (y < 0 || line === undefined) throw new Error(`no row begins with ${text}`);
    const row = line.translateToString(true).trimEnd();
    const letters = [...row].map((_, x) => {
      const cell = line.getCell(x);
      return cell === undefined ? '?' : letterOf(cell);
    });
    return [row, letters.join('')];
  }
}

/** Colours of the standard palette. */
const LETTERS: Readonly<Record<number, string>> = { 1: 'r', 2: 'g', 3: 'y', 6: 'c' };

/** `.` plain, `r g y c` colours, capitals where it is bold, `b` bold and `d` dim without a colour. */
function letterOf(cell: IBufferCell): string {
  const colour = cell.isFgPalette() ? (LETTERS[cell.getFgColor()] ?? '?') : null;
  if (colour !== null) return cell.isBold() ? colour.toUpperCase() : colour;
  return cell.isBold() ? 'b' : cell.isDim() ? 'd' : '.';
}
