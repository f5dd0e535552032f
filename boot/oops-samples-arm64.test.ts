/**
 * Published oopses of arm64 kernels, again: tables, registers and code as they were, the instruction run, and
 * the whole console compared with what was published, line by line with levels. Not part of the facts, and so
 * those of this machine: the modules, the name of the hardware, the call trace, and what is behind the end of it.
 */
import { afterEach, describe, expect, test } from '@jest/globals';
import type { ThisCpu } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { KERN_ALERT, KERN_CRIT, KERN_DEFAULT, KERN_EMERG, KERN_INFO } from '../arch/kernel.js';
import type { KernelConfig } from '../arch/kernel-config.js';
import { EventLog } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { type Difference, type OopsSample, SAMPLES } from './published-oopses-arm64.js';
import { System } from './system.js';

const ADDRESS = 0x0000_ffff_ffff_f000n;
const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
const PAGE = 4096n;
const NOP = 0xd503_201f;

const engine = new NativeEngine();
const open: System[] = [];
afterEach(() => {
  for (const system of open.splice(0)) system.close();
});

const hex16 = (value: bigint): string => value.toString(16).padStart(16, '0');

/** What a CPU line says, in the form of any version. */
function cpuLine(line: string) {
  const match =
    /^CPU: (\d+) (?:UID: (\d+) )?PID: (\d+) Comm: (\S+) (Not tainted|Tainted: (?:G|P)[ A-Z]{16,19}) (\S+) (#\d+)(?: (\S+))?$/.exec(
      line,
    );
  if (match === null) throw new Error(`no CPU line: ${line}`);
  const [, cpu, uid, pid, comm, taint, release, version, preempt] = match;
  return {
    cpu: Number(cpu),
    uid: Number(uid ?? 0),
    pid: Number(pid),
    comm: comm ?? '',
    taint: taint ?? '',
    release: release ?? '',
    version: version ?? '',
    preempt: preempt ?? '',
  };
}

/** More CPUs than these a machine does not have: a larger number becomes the last one. */
const LAST_CPU = 7;

interface Machine {
  readonly system: System;
  readonly here: ThisCpu;
  readonly log: EventLog;
}

function boot(sample: OopsSample): Machine {
  const cpu = cpuLine(sample.lines.cpu);
  const id = Math.min(cpu.cpu, LAST_CPU);
  const letters = cpu.taint.startsWith('Tainted: ') ? cpu.taint.slice(9).replace(/[G ]/g, '') : '';
  const config: Partial<KernelConfig> = {
    release: cpu.release,
    version: cpu.version,
    preempt: cpu.preempt === '' ? 'PREEMPT' : cpu.preempt,
    taint: letters,
    PAN: (sample.pstate & (1n << 22n)) !== 0n,
  };
  const log = new EventLog();
  const system = System.boot({ arch: arm64, engine, sink: log, config, cpus: id + 1 });
  open.push(system);
  const here = system.here(id);
  Object.assign(here.current, { comm: cpu.comm, pid: cpu.pid, uid: cpu.uid });
  const count = /\[#(\d+)\]/.exec(sample.lines.error)?.[1] ?? '1';
  system.kernel.die_counter = Number(count) - 1;
  return { system, here, log };
}

/** A zeroed page for a table; its physical address. */
function page({ system }: Machine): number {
  const pa = system.memory.pages.takeFrame('sample');
  if (pa === null) throw new Error('the ram is full');
  return pa;
}

/** Builds the way to `va` with the attributes of the report's entries, and with tables of our own. */
function buildTables(machine: Machine, sample: OopsSample, root: number): void {
  const { ram } = machine.system;
  let table = root;
  sample.entries.forEach((entry, level) => {
    const at = table + Number((sample.far >> BigInt(39 - 9 * level)) & 511n) * 8;
    if (level === sample.entries.length - 1) {
      ram.writeU64(at, entry);
      return;
    }
    const old = ram.readU64(at);
    table = old === 0n ? page(machine) : Number(old & ADDRESS);
    ram.writeU64(at, (entry & ~ADDRESS) | BigInt(table));
  });
}

/** Maps a page of the kernel at any address. */
function mapKernel(machine: Machine, va: bigint): void {
  const { ram, memory } = machine.system;
  let table = memory.init_mm.pgd;
  for (let level = 0; level < 3; level++) {
    const at = table + Number((va >> BigInt(39 - 9 * level)) & 511n) * 8;
    if (ram.readU64(at) === 0n) ram.writeU64(at, 0x1000_0000_0000_0403n | BigInt(page(machine)));
    table = Number(ram.readU64(at) & ADDRESS);
  }
  ram.writeU64(table + Number((va >> 12n) & 511n) * 8, PAGE_KERNEL | BigInt(page(machine)));
}

/** `name+0x<offset>/0x<size>` */
function symbol(text: string): { name: string; offset: number; size: number } {
  const match = /^(\S+)\+0x([0-9a-f]+)\/0x([0-9a-f]+)$/.exec(text);
  if (match === null) throw new Error(`no symbol: ${text}`);
  return {
    name: match[1] ?? '',
    offset: Number.parseInt(match[2] ?? '', 16),
    size: Number.parseInt(match[3] ?? '', 16),
  };
}

/** Loads the function of pc with the report's words, and that of lr. Returns pc and lr. */
function loadCode({ system }: Machine, sample: OopsSample): { pc: bigint; lr: bigint } {
  const at = symbol(sample.pc);
  const back = symbol(sample.lr);
  // The words in front of a function's start are another function's.
  const before = system.textBase('kernel');
  const start = before + 16n;
  const words = new Uint32Array(4 + at.size / 4).fill(NOP);
  words.set(sample.code, at.offset / 4);
  const bytes = new Uint8Array(words.buffer);
  system.loadText({ name: 'before', start: before, code: bytes.slice(0, 16) });
  system.loadText({ name: at.name, start, code: bytes.slice(16) });
  const pc = start + BigInt(at.offset);
  if (back.name === at.name) return { pc, lr: start + BigInt(back.offset) };
  const caller = system.textBase('kernel');
  const code = new Uint8Array(new Uint32Array(Math.ceil(back.size / 4)).fill(NOP).buffer);
  system.loadText({ name: back.name, start: caller, code });
  return { pc, lr: caller + BigInt(back.offset) };
}

/** The stack that the report's sp is on becomes the task's. */
function moveStack(machine: Machine, sample: OopsSample): void {
  const { here } = machine;
  const stack = sample.sp & ~0x7fffn;
  const half = (sample.sp & 0x4000n) === 0n ? stack : stack + 0x4000n;
  for (let offset = 0n; offset < 0x4000n; offset += PAGE) mapKernel(machine, half + offset);
  here.current = { ...here.current, stack: half };
}

/** What other kernels print where: applied to our lines. Null: they have no such line. */
const DIFFERENCES: Readonly<Record<Difference, (line: string) => string | null>> = {
  /** Up to 5.18. */
  'ESR of 8 digits': (line) => line.replace(/^ {2}ESR = 0x0{8}/, '  ESR = 0x'),
  /** Up to 5.13. */
  'no FSC': (line) => (line.startsWith('  FSC = ') ? null : line),
  /** Up to 6.4. */
  'no ISS2': (line) =>
    line.startsWith('  GCS = ')
      ? null
      : line
          .replace(/^( {2}ISV = .*), ISS2 = 0x00000000$/, '$1')
          .replace(/^( {2}CM = .*), TnD = 0, TagAccess = 0$/, '$1'),
  /** Up to 6.0. */
  'error code of 8 digits': (line) => line.replace(/^(Internal error: .*): 0{8}/, '$1: '),
  /** Up to 6.14; the CPU line has no model, and no blank behind it. */
  'PREEMPT in the error line': (line) =>
    line.replace(/^(Internal error: .*\]) {2}SMP$/, '$1 PREEMPT SMP').replace(/^(CPU: .*) PREEMPT $/, '$1'),
  /** The same for a kernel without preemption. */
  'no PREEMPT in the error line': (line) =>
    line.replace(/^(Internal error: .*\]) {2}SMP$/, '$1 SMP').replace(/^(CPU: .*) PREEMPT $/, '$1'),
  /** Up to 6.10, which have no names of taints either. */
  'no UID': (line) => (/^Tainted: /.test(line) ? null : line.replace(/^(CPU: \d+) UID: \d+/, '$1')),
  /** 5.15 to 6.12. */
  '19 taint flags': (line) => line.replace(/^(CPU: .*Tainted: .{19}) /, '$1'),
  /** Up to 5.14. */
  'no DIT and SSBS': (line) => line.replace(/^(pstate: .*) -DIT -SSBS /, '$1 '),
};

interface Line {
  readonly level: number;
  /** A matcher for what is this machine's. */
  readonly text: unknown;
}

/** The report as it was published, and what it leaves out as this machine has it. */
function published(sample: OopsSample): Line[] {
  const { lines, pstate } = sample;
  const { decoded } = lines;
  const alert = (text: string): Line => ({ level: KERN_ALERT, text });
  const emerg = (text: unknown): Line => ({ level: KERN_EMERG, text });
  const plain = (text: string): Line => ({ level: KERN_DEFAULT, text });
  /** `  NAME = value, …`; no line without a first value. */
  const values = (...names: string[]): Line[] => {
    const known = names.filter((name) => name in decoded);
    return known[0] === undefined ? [] : [alert(`  ${known.map((n) => `${n} = ${decoded[n]}`).join(', ')}`)];
  };
  const esr = sample.differs.includes('ESR of 8 digits') ? hex16(sample.esr).slice(8) : hex16(sample.esr);
  const rows = Array.from({ length: 10 }, (_, row) =>
    [29, 28, 27]
      .map((n) => n - 3 * row)
      .map((n) => `x${String(n).padEnd(2)}: ${hex16(sample.x[n] ?? 0n)}`)
      .join(' '),
  );
  return [
    alert(`${lines.banner} at virtual address ${hex16(sample.far)}`),
    alert('Mem abort info:'),
    alert(`  ESR = 0x${esr}`),
    alert(`  EC = ${decoded.EC}, IL = 32 bits`),
    ...values('SET', 'FnV'),
    ...values('EA', 'S1PTW'),
    ...values('FSC'),
    alert('Data abort info:'),
    ...values('ISV', 'ISS', 'ISS2'),
    ...values('CM', 'WnR', 'TnD', 'TagAccess'),
    ...values('GCS', 'Overlay', 'DirtyBit', 'Xs'),
    ...(lines.pgtable === null ? [] : [alert(lines.pgtable)]),
    alert(lines.tables),
    emerg(lines.error),
    plain('Modules linked in:'),
    // The blank at the end is real where the model is; viewers strip it.
    plain(`${lines.cpu}${cpuLine(lines.cpu).preempt === '' ? '' : ' '}`),
    plain('Hardware name: linux,dummy-virt (DT)'),
    plain(`pstate: ${pstate.toString(16).padStart(8, '0')} (${lines.flags})`),
    plain(`pc : ${sample.pc}`),
    plain(`lr : ${sample.lr}`),
    plain(`sp : ${hex16(sample.sp)}`),
    ...rows.map(plain),
    plain('Call trace:'),
    plain(` ${sample.pc} (P)`),
    plain(` ${sample.lr}`),
    emerg(`Code: ${lines.code} `),
    plain('---[ end trace 0000000000000000 ]---'),
    ...end(sample),
  ];
}

/** How this machine goes on behind the report: the idle task and init take it with them. */
function end(sample: OopsSample): Line[] {
  const { cpu, pid, comm } = cpuLine(sample.lines.cpu);
  const note = { level: KERN_INFO, text: `note: ${comm}[${pid}] exited with irqs disabled` };
  const notes = pid !== 0 && (sample.pstate & (1n << 7n)) !== 0n ? [note] : [];
  if (pid > 1) return notes;
  const why = pid === 0 ? 'Attempted to kill the idle task!' : 'Attempted to kill init! exitcode=0x0000000b';
  const title = `Kernel panic - not syncing: ${why}`;
  return [
    ...notes,
    { level: KERN_EMERG, text: title },
    ...(cpu > 0 ? [{ level: KERN_CRIT, text: 'SMP: stopping secondary CPUs' }] : []),
    { level: KERN_EMERG, text: 'Kernel Offset: disabled' },
    { level: KERN_EMERG, text: expect.stringMatching(/^CPU features: 0x[0-9a-f,]+$/) },
    { level: KERN_EMERG, text: 'Memory Limit: none' },
    { level: KERN_EMERG, text: `---[ end ${title} ]---` },
  ];
}

/** Our lines with what is this machine's own put back: addresses of tables, the CPU's number, EL1 for EL2. */
function unplaced({ system }: Machine, sample: OopsSample, root: number): (line: string) => string {
  const changes: [string, string][] = [];
  const pgdp = /pgdp=.*/.exec(sample.lines.pgtable ?? '')?.[0];
  if (pgdp !== undefined) changes.push([`pgdp=${hex16(BigInt(root))}`, pgdp]);
  let table = root;
  sample.entries.slice(0, -1).forEach((entry, level) => {
    const own = system.ram.readU64(table + Number((sample.far >> BigInt(39 - 9 * level)) & 511n) * 8);
    changes.push([`=${hex16(own)}`, `=${hex16(entry)}`]);
    table = Number(own & ADDRESS);
  });
  const { cpu } = cpuLine(sample.lines.cpu);
  changes.push([`CPU: ${Math.min(cpu, LAST_CPU)} `, `CPU: ${cpu} `]);
  const pstate = (value: bigint): string => `pstate: ${value.toString(16).padStart(8, '0')} `;
  changes.push([pstate(atEl1(sample.pstate)), pstate(sample.pstate)]);
  return (line) => changes.reduce((text, [own, theirs]) => text.replaceAll(own, theirs), line);
}

/** It ran at EL2 with VHE where the mode says so: EL1 is what is modelled. */
function atEl1(pstate: bigint): bigint {
  return (pstate & ~0xfn) | 5n;
}

/** Our line as the kernel of the report would have printed it. */
function asOther(differs: readonly Difference[], line: string): string | null {
  let text: string | null = line;
  for (const difference of differs) text = text === null ? null : DIFFERENCES[difference](text);
  return text;
}

describe.each(SAMPLES.map((sample) => [sample.kernel, sample] as const))('%s', (_, sample) => {
  test('comes out as it was published', () => {
    const machine = boot(sample);
    const { system, here, log } = machine;
    const user = sample.lines.pgtable?.startsWith('user') === true;
    const root = user ? system.userMm().pgd : system.memory.init_mm.pgd;
    moveStack(machine, sample);
    buildTables(machine, sample, root);
    const { pc, lr } = loadCode(machine, sample);
    here.mmu.refresh();
    here.cpu.flushTlb();
    // A frame record whose caller has none: the trace is not part of the facts.
    const x29 = sample.x[29] ?? 0n;
    system.writeVirtual(here.cpu.id, x29 + 8n, new Uint8Array(new BigUint64Array([lr]).buffer));
    const registers = new Map<string, bigint>([
      ...sample.x.map((value, n) => [`x${n}`, value] as const),
      ['x30', lr],
      ['sp', sample.sp],
      ['pstate', atEl1(sample.pstate)],
    ]);
    log.events.length = 0;
    drain(system.call(here.cpu.id, pc, registers));

    const fault = log.events.find((event) => event.type === 'fault');
    expect(fault).toMatchObject({ pc, address: sample.far, code: sample.esr });
    const unplace = unplaced(machine, sample, root);
    const console: Line[] = log.events.flatMap((event) => {
      const text = event.type === 'console' ? asOther(sample.differs, unplace(event.text)) : null;
      return event.type === 'console' && text !== null ? [{ level: event.level, text }] : [];
    });
    expect(console).toEqual(published(sample));
  });
});
