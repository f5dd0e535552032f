/**
 * `npm run strain`: makes, runs and closes 10,000 machines in one process, on engines that are reused and on
 * fresh ones, and watches what the process holds. Ends with status 1 when that grows.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Arch } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { x86 } from '../arch/x86/index.js';
import { System } from '../boot/system.js';
import type { Engine } from '../emu/cpu.js';
import { NO_EVENTS } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { registeredCallbacks } from '../emu/unicorn/bindings.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { ensureEngine } from './setup-engine.js';

/** Loads what its first argument points to, and returns: the stack of the kernel, or nothing at all. */
const LOAD: Readonly<Record<Arch['name'], { readonly code: string; readonly pointer: string }>> = {
  // mov rax, [rdi]; ret
  'x86-64': { code: '488b07c3', pointer: 'rdi' },
  // ldr x0, [x0]; ret
  arm64: { code: '000040f9c0035fd6', pointer: 'x0' },
};

/** What a process holds that a machine could leave behind. */
export interface Holdings {
  readonly callbacks: number;
  /** Open files; 0 where the system does not tell. */
  readonly files: number;
  /** Mapped areas of memory; 0 where the system does not tell. */
  readonly areas: number;
  /** Resident memory, bytes. */
  readonly resident: number;
}

/** Boots a machine, lets it return once and oops once, and closes it. Throws when one of them does not happen. */
export function liveOnce(engine: Engine, arch: Arch): void {
  const system = System.boot({ arch, engine, sink: NO_EVENTS });
  try {
    const start = system.textBase('kernel');
    const { code, pointer } = LOAD[arch.name];
    system.loadText({ name: 'load', start, code: Buffer.from(code, 'hex') });
    for (const [address, outcome] of [
      [system.here().current.stack, 'returned'],
      [0x10n, 'oops'],
    ] as const) {
      const { kind } = drain(system.call(0, start, new Map([[pointer, address]])));
      if (kind !== outcome) throw new Error(`${arch.name}: the run ended as ${kind}, not as ${outcome}`);
    }
  } finally {
    system.close();
  }
}

/** What this process holds now. Garbage is collected first where the process may do that. */
export async function holdings(): Promise<Holdings> {
  // Views of native memory are freed by the event loop.
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const linux = process.platform === 'linux';
  return {
    callbacks: registeredCallbacks(),
    files: linux ? readdirSync('/proc/self/fd').length : 0,
    areas: linux ? readFileSync('/proc/self/maps', 'utf8').split('\n').length : 0,
    resident: process.memoryUsage().rss,
  };
}

const MIB = 2 ** 20;
/** What may come and go with the garbage collector and with code that is compiled late. */
const SLACK = { resident: 48 * MIB, areas: 200 };

/** What has grown between two looks, in words. */
export function growth(before: Holdings, after: Holdings): string[] {
  const grown: string[] = [];
  if (after.callbacks !== before.callbacks)
    grown.push(`callbacks: ${before.callbacks}, then ${after.callbacks}`);
  if (after.files !== before.files) grown.push(`open files: ${before.files}, then ${after.files}`);
  if (after.areas - before.areas > SLACK.areas)
    grown.push(`mapped areas: ${before.areas}, then ${after.areas}`);
  if (after.resident - before.resident > SLACK.resident) {
    grown.push(
      `memory: ${(before.resident / MIB).toFixed(0)} MiB, then ${(after.resident / MIB).toFixed(0)}`,
    );
  }
  return grown;
}

async function strain(engine: Engine, count: number, name: string): Promise<boolean> {
  const arches = [x86, arm64];
  let before: Holdings | null = null;
  const begin = performance.now();
  for (let i = 0; i < count; i++) {
    const arch = arches[i % 2] ?? x86;
    liveOnce(engine, arch);
    // Koffi gives views back from the event loop.
    if (i % 16 === 15) await new Promise((resolve) => setImmediate(resolve));
    if (i + 1 === Math.ceil(count / 5)) before = await holdings();
  }
  const perMachine = (performance.now() - begin) / count;
  const after = await holdings();
  const grown = before === null ? [] : growth(before, after);
  process.stdout.write(
    `${name}: ${count} machines, ${perMachine.toFixed(2)} ms each; callbacks ${after.callbacks}, files ${after.files}, ` +
      `areas ${before?.areas} then ${after.areas}, memory ${((before?.resident ?? 0) / MIB).toFixed(0)} then ${(after.resident / MIB).toFixed(0)} MiB\n`,
  );
  for (const line of grown) process.stdout.write(`  grows: ${line}\n`);
  return grown.length === 0;
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { count: { type: 'string', default: '10000' } } });
  if (!/^[1-9][0-9]{0,6}$/.test(values.count)) {
    process.stderr.write(`strain: --count ${values.count}: a number of machines from 1 to 9999999\n`);
    return 2;
  }
  const count = Number(values.count);
  const { library } = await ensureEngine({ log: (line) => process.stderr.write(`${line}\n`) });
  const reusing = new NativeEngine(library, { reuse: true });
  const reused = await strain(reusing, count, 'on reused engines');
  reusing.close();
  const fresh = await strain(new NativeEngine(library), count, 'on fresh engines');
  return reused && fresh ? 0 : 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main();
