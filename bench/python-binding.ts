/** The Python binding that the engine's own wheel carries, for the same bare loops. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { WHEEL_NAME } from '../scripts/installed.js';
import { packageRoot } from '../scripts/setup-engine.js';
import { readWheel } from '../scripts/wheel.js';

/** The binding, unpacked for one run of the benchmarks. */
export class PythonBinding {
  private constructor(
    readonly folder: string,
    readonly engineFolder: string,
  ) {}

  /**
   * Unpacks the binding from the wheel that set-up keeps beside the library.
   * @param library the engine's library
   * @returns null when there is no wheel (the library came by KFAULT_UNICORN)
   */
  static async unpack(library: string): Promise<PythonBinding | null> {
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
    return new PythonBinding(folder, engineFolder);
  }

  /**
   * Runs a script of this folder, which measures for so many seconds; the number that it prints. Scripts
   * are not compiled: they stay where their source is.
   */
  async measure(script: string, args: readonly string[], seconds: number): Promise<number> {
    const python = process.env.PYTHON ?? 'python3';
    const env = { ...process.env, PYTHONPATH: this.folder, LIBUNICORN_PATH: this.engineFolder };
    const path = join(packageRoot(), 'bench', script);
    const { stdout } = await promisify(execFile)(python, [path, ...args, String(seconds)], { env });
    const value = Number(stdout);
    if (!(value > 0)) throw new Error(`${script} printed no number: ${stdout}`);
    return value;
  }

  async remove(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}
