/** For tests: a package root in a temporary folder, with programs in place of Python and of the check. */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { EnginePin } from './engine-pin.js';
import { sha256 } from './installed.js';
import { SAMPLE_LIBRARY, SAMPLE_WHEEL } from './sample-wheel.js';
import type { SetupOptions } from './setup-engine.js';

const WHEEL_NAME = 'unicorn-2.1.4-cp37-abi3-sample.whl';

/** The pin of the sample wheel. */
export const SAMPLE_PIN: EnginePin = {
  pipPlatform: 'sample_platform',
  wheel: WHEEL_NAME,
  wheelSize: SAMPLE_WHEEL.length,
  wheelSha256: sha256(SAMPLE_WHEEL),
  member: 'unicorn/lib/libunicorn.so.2',
  librarySize: SAMPLE_LIBRARY.length,
  librarySha256: sha256(Buffer.from(SAMPLE_LIBRARY)),
};

/** Shell commands for the two calls that matter; `$target` is pip's download folder. */
export interface FakePrograms {
  /** Body of `python3 -m pip --version`. Default: succeeds. */
  readonly pipVersion?: string;
  /** Body of `python3 -m pip download …`. Default: delivers the sample wheel. */
  readonly download?: string;
  /** Body of the library check; `$1` is the library. Default: reports 2.1.4. */
  readonly check?: string;
}

export class Testbed {
  readonly root = mkdtempSync(join(tmpdir(), 'kfault-setup-'));
  readonly engineDir = join(this.root, '.engine');
  readonly folder = join(this.engineDir, 'unicorn-2.1.4');
  readonly enginePath = join(this.folder, 'libunicorn.so.2');
  /** A line for each download that was begun. */
  readonly downloads = join(this.root, 'downloads.log');
  readonly lines: string[] = [];

  /** Ready to be given to setupEngine. */
  options(programs: FakePrograms = {}): SetupOptions {
    const bin = mkdtempSync(join(this.root, 'bin-'));
    const wheel = join(bin, WHEEL_NAME);
    writeFileSync(wheel, SAMPLE_WHEEL);
    writeScript(
      join(bin, 'python3'),
      `case "$*" in
      --version) echo Python 3.11.7 ;;
      "-m pip --version") ${programs.pipVersion ?? 'echo pip 23.2.1'} ;;
      "-m pip download "*)
        echo "$*" >> '${this.downloads}'
        for target; do :; done
        ${programs.download ?? `cp '${wheel}' "$target"`} ;;
      *) echo "unexpected: $*"; exit 99 ;;
      esac`,
    );
    const check = join(bin, 'check');
    writeScript(check, programs.check ?? `echo '{"usable":true,"version":"2.1.4"}'`);
    return {
      root: this.root,
      platform: 'sample',
      pins: { sample: SAMPLE_PIN },
      env: { PATH: `${bin}:/usr/bin:/bin` },
      checkCommand: ['/bin/sh', check],
      log: (line) => this.lines.push(line),
    };
  }

  /** Names in `.engine`. */
  engineNames(): string[] {
    return readdirSync(this.engineDir).sort();
  }

  /** A folder with nothing in it, to be the whole PATH. */
  emptyPath(): string {
    const path = join(this.root, 'empty');
    mkdirSync(path, { recursive: true });
    return path;
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

function writeScript(path: string, body: string): void {
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
}
