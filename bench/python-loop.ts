/** The same bare loop through the Python binding that the engine's own wheel carries. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { WHEEL_NAME } from '../scripts/installed.js';
import { packageRoot } from '../scripts/setup-engine.js';
import { readWheel } from '../scripts/wheel.js';

/** The script is not compiled: it stays where its source is. */
const SCRIPT = join('bench', 'miss_restart.py');

/** The binding, unpacked for one run of the benchmarks. */
export class PythonLoop {
  private constructor(
    readonly folder: string,
    readonly engineFolder: string,
  ) {}

  /**
   * Unpacks the binding from the wheel that set-up keeps beside the library.
   * @param library the engine's library
   * @returns null when there is no wheel (the library came by KFAULT_UNICORN)
   */
  static async unpack(library: string): Promise<PythonLoop | null> {
    const engineFolder = dirname(library);
    let wheel: Buffer;
    try {
      wheel = await readFile(join(engineFolder, WHEEL_NAME));
    } catch {
      return null;
    }
    const folder = await mkdtemp(join(tmpdir(), 'kfault-bench-'));
    for (const member of readWheel(wheel)) {
      if (!member.path.endsWith('.py')) continue;
      const path = join(folder, member.path);
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, member.bytes());
    }
    return new PythonLoop(folder, engineFolder);
  }

  /** Nanoseconds per round. */
  async measure(): Promise<number> {
    const python = process.env.PYTHON ?? 'python3';
    const env = { ...process.env, PYTHONPATH: this.folder, LIBUNICORN_PATH: this.engineFolder };
    const { stdout } = await promisify(execFile)(python, [join(packageRoot(), SCRIPT)], { env });
    return Number(stdout);
  }

  async remove(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}
