/** From a loaded fixture to a machine that is ready for the first step. */
import type { Arch, ExtableSpec } from '../../arch/arch.js';
import { arm64 } from '../../arch/arm64/index.js';
import type { KernelConfig } from '../../arch/kernel-config.js';
import { x86 } from '../../arch/x86/index.js';
import { System } from '../../boot/system.js';
import type { bpf_line_info } from '../../bpf/program.js';
import type { Engine } from '../../emu/cpu.js';
import { EventLog } from '../../emu/events.js';
import { RamError } from '../../emu/ram.js';
import { MachineRefusal } from '../../kernel/machine-refusal.js';
import { PageAllocatorError } from '../../mm/page_alloc.js';
import { slabFunctionNames } from '../../mm/slab.js';
import { needsBpfFunctions } from '../format/bpf-names.js';
import type { Fixture } from '../format/load.js';
import type { DataData, ExtableData } from '../format/schema.js';
import { kfenceOptions, SystemKfence } from '../machine/kfence-machine.js';
import { SystemMachine } from '../machine/system-machine.js';
import { assembleText, type Image, layOutText, type TextLayout, textKind } from './assemble-text.js';
import { bpfProgramNames, loadBpfPrograms } from './bpf-programs.js';
import { buildArenas } from './build-arenas.js';
import { DataPages, isRefusal } from './data-pages.js';
import { registerAll, trampolineNames } from './struct-ops.js';

const ARCHES: Readonly<Record<'x86-64' | 'arm64', Arch>> = { 'x86-64': x86, arm64 };

/** Where user code goes that does not say. */
const USER_TEXT = 0x40_0000n;

export interface Built {
  readonly machine: SystemMachine;
  readonly images: readonly Image[];
}

/**
 * Boots a machine and puts everything into it that a fixture declares. Throws FixtureError and
 * FixtureErrors for what the kernel or the assembler refuses.
 */
export async function buildMachine(fixture: Fixture, engine: Engine): Promise<Built> {
  const machine = boot(fixture, engine);
  try {
    const builder = new Builder(fixture, machine);
    const images = await builder.build();
    return { machine, images };
  } catch (error) {
    machine.close();
    throw asRefusal(fixture, error);
  }
}

function boot(fixture: Fixture, engine: Engine): SystemMachine {
  const { data } = fixture;
  const log = new EventLog();
  try {
    const system = System.boot({
      arch: ARCHES[data.arch],
      engine,
      sink: log,
      config: configOf(data),
      ramBytes: data.ram,
      cpus: data.cpus,
      task: given(data.task ?? {}),
      limits: given(data.limits ?? {}),
      kfence: data.kfence === undefined ? null : kfenceOptions(data.kfence),
    });
    system.bpf.variant = data.config?.arena ?? 'v4';
    system.bpf.jit_supports_arena = data.config?.jit_supports_arena ?? true;
    system.kernel.clock.advance(Math.round((data.clock ?? 0) * 1_000_000));
    return new SystemMachine(system, log, data.kfence === undefined ? null : new SystemKfence(system));
  } catch (error) {
    throw asRefusal(fixture, error);
  }
}

function configOf({ config }: Fixture['data']): Partial<KernelConfig> {
  const { granule: _, arena: _variant, jit_supports_arena: _jit, ...options } = config ?? {};
  return given(options);
}

/** What no place of the fixture is to blame for alone: the whole of it does not fit into the machine. */
function asRefusal(fixture: Fixture, error: unknown): unknown {
  if (error instanceof RamError || error instanceof PageAllocatorError) return noRam(fixture, error.message);
  if (error instanceof MachineRefusal) return fixture.source.error({ line: 1, column: 1 }, error.message);
  return error;
}

function noRam({ source, data }: Fixture, message: string): Error {
  const hint = 'An arena needs about 9 MiB of ram for its page tables.';
  return data.ram === undefined
    ? source.error({ line: 1, column: 1 }, message, `${hint} Set the key ram.`)
    : source.at(['ram'], message, hint);
}

/** The keys of an object that have a value. */
function given<T extends object>(object: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}

class Builder {
  readonly #pages: DataPages;
  readonly #kernelEntries: ExtableSpec[] = [];

  constructor(
    readonly fixture: Fixture,
    readonly machine: SystemMachine,
  ) {
    this.#pages = new DataPages(machine.system);
  }

  async build(): Promise<Image[]> {
    const { data } = this.fixture;
    buildArenas(this.fixture, this.machine);
    this.#kfence();
    data.data?.forEach((each, i) => {
      this.#data(each, i);
    });
    const images = await this.#text();
    data.data?.forEach((each, i) => {
      this.#words(each, i);
    });
    data.ptes?.forEach((pte) => {
      const va = pte.va.value(this.machine.scope);
      if (
        !this.machine.writeEntry(pte.cpu ?? 0, va, pte.level ?? null, pte.value.value(this.machine.scope))
      ) {
        const wanted = pte.level === undefined ? 'entry' : `entry at level ${pte.level}`;
        throw pte.va.error(`there is no ${wanted}: the tables end above it`);
      }
    });
    const { kthread, borrows_mm, mmap_lock } = data.task ?? {};
    if (mmap_lock === 'held') this.machine.system.userMm().contended = true;
    if (kthread === true) this.machine.system.becomeKthread(borrows_mm === true);
    return images;
  }

  /** Caches, and functions of the allocators, are known by name. */
  #kfence(): void {
    const { kfence, system } = this.machine;
    if (kfence === null) return;
    for (const name of slabFunctionNames) {
      this.machine.symbols.set(name, system.kernel.kallsyms.kallsyms_lookup_name(name));
    }
    for (const [name, cache] of Object.entries(this.fixture.data.caches ?? {})) {
      this.machine.addSymbol(name, kfence.create(name, cache), 1);
    }
  }

  #data(data: DataData, index: number): void {
    const { machine } = this;
    const size = data.size ?? Math.max(data.bytes?.length ?? 0, 8 * (data.words?.length ?? 0));
    const at = data.at?.value(machine.scope);
    try {
      const { where = 'vmalloc', prot = 'rw', symbol } = data;
      const populate = data.populate ?? (data.fault === undefined || hasContent(data));
      const address =
        where === 'user'
          ? this.#pages.loadUser({ ...data, prot, populate }, size, symbol, at)
          : this.#pages.load(where, prot, size, symbol, at);
      machine.addSymbol(data.symbol, address, size);
      if (data.bytes !== undefined) machine.writeMemory(0, address, data.bytes);
    } catch (error) {
      // Where data cannot go is the fixture's mistake; the machine says why.
      if (!isRefusal(error)) throw error;
      throw this.fixture.source.at(['data', index, ...(data.at === undefined ? [] : ['at'])], error.message);
    }
  }

  /** Words may name functions and labels, which have addresses only now. */
  #words(data: DataData, index: number): void {
    const { machine } = this;
    const address = machine.symbols.get(data.symbol);
    if (data.words === undefined || address === undefined) return;
    const words = BigUint64Array.from(data.words, (word) => word.value(machine.scope));
    if (!machine.writeMemory(0, address, new Uint8Array(words.buffer))) {
      throw this.fixture.source.at(['data', index], 'this data is not mapped any more');
    }
  }

  async #text(): Promise<Image[]> {
    const { fixture, machine } = this;
    const { system } = machine;
    const at = new Map<number, bigint>();
    fixture.data.text?.forEach((text, i) => {
      if (text.at !== undefined) at.set(i, text.at.value(machine.scope));
    });
    this.#bpfFunctions();
    const layout = await layOutText(fixture, {
      base: { kernel: system.textBase('kernel'), bpf: system.textBase('bpf'), user: USER_TEXT },
      at,
      endOf: (i, codeEnd) => {
        const text = fixture.data.text?.[i];
        const entries = text?.program === undefined ? 0 : (text.extable ?? []).length;
        return behindTable(codeEnd, entries * machine.arch.extableEntrySize);
      },
      symbols: machine.symbols,
      unplaced: [...bpfProgramNames(fixture.data), ...trampolineNames(fixture.data)],
    });
    this.#bpfPrograms(layout);
    const images = await assembleText(fixture, layout, machine.symbols);
    for (const image of images) {
      machine.addSymbol(image.text.symbol, image.start, image.assembled.bytes.length);
      machine.labels.set(image.text.symbol, image.assembled.labels);
    }
    // A subprogram needs its main program.
    const isSub = (image: Image): boolean =>
      fixture.data.programs?.[image.text.program ?? '']?.subprogram_of !== undefined;
    for (const image of images.filter((each) => !isSub(each))) this.#load(image);
    for (const image of images.filter(isSub)) this.#load(image);
    this.machine.system.loadKernelExtable(this.#kernelEntries);
    return images;
  }

  /** Functions that programs call are known by name; where nobody needs them they take no memory. */
  #bpfFunctions(): void {
    const { callables } = this.machine.system;
    for (const name of callables.names) this.machine.symbols.set(name, callables.addresses.get(name) ?? 0n);
    if (needsBpfFunctions(this.fixture.data)) callables.place();
  }

  /** Programs in BPF text call kernel text and are called from it: they are loaded when all of that has its place. */
  #bpfPrograms({ starts, end }: TextLayout): void {
    const { fixture, machine } = this;
    if (bpfProgramNames(fixture.data).length === 0) return;
    const functions = new Map<string, bigint>();
    fixture.data.text?.forEach((text, i) => {
      if (textKind(text) === 'kernel') functions.set(text.symbol, starts[i] ?? 0n);
    });
    machine.system.text.reserve('bpf', end.bpf);
    loadBpfPrograms(fixture, machine, functions);
    registerAll(fixture, machine);
  }

  #load(image: Image): void {
    const { fixture, machine } = this;
    const { text, start, kind } = image;
    const code = image.assembled.bytes;
    const name = text.symbol;
    const extable = (text.extable ?? []).map((entry, i) => this.#extable(image, entry, i));
    switch (kind) {
      case 'user':
        this.#userText(image);
        return;
      case 'kernel':
        machine.system.loadText({ name, start, code });
        this.#kernelEntries.push(...extable);
        return;
      case 'bpf': {
        const program = text.program ?? '';
        const spec = fixture.data.programs?.[program];
        const prog = machine.system.loadProgram({
          name: program,
          start,
          code,
          tag: spec?.tag,
          arena: spec?.arena === undefined ? null : (machine.maps.get(spec.arena)?.arena ?? null),
          main: spec?.subprogram_of === undefined ? null : (machine.programs.get(spec.subprogram_of) ?? null),
          linfo: this.#lines(image),
          extable,
        });
        machine.programs.set(program, prog);
      }
    }
  }

  #userText({ text, index, start, assembled }: Image): void {
    const { bytes } = assembled;
    try {
      this.#pages.loadUser({ prot: 'rx', populate: true }, bytes.length, text.symbol, start);
      this.machine.writeMemory(0, start, bytes);
      this.machine.processes.shareText(start, bytes.length);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      throw this.fixture.source.at(['text', index, ...(text.at === undefined ? [] : ['at'])], error.message);
    }
  }

  #lines({ text, start }: Image): bpf_line_info[] | null {
    const lines = this.fixture.data.programs?.[text.program ?? '']?.lines;
    if (lines === undefined) return null;
    const scope = this.machine.scope.within(text.symbol);
    return lines
      .map(({ at, file, line, text: source }) => ({
        offset: Number(at.value(scope) - start),
        file,
        line,
        text: source,
      }))
      .sort((a, b) => a.offset - b.offset);
  }

  #extable(image: Image, entry: ExtableData, i: number): ExtableSpec {
    const { assembled, index, start, text } = image;
    const scope = this.machine.scope.within(text.symbol);
    const insn = entry.insn.value(scope);
    const line = assembled.lines.find((each) => start + BigInt(each.offset) === insn);
    if (line === undefined) throw entry.insn.error('no instruction of this function begins here');
    if (entry.type !== 'BPF' && entry.fixup === undefined) {
      throw this.fixture.source.at(
        ['text', index, 'extable', i],
        'an entry of this type needs a fixup: the label to go on at',
      );
    }
    return {
      insn,
      fixup: entry.fixup?.value(scope) ?? 0n,
      type: entry.type,
      length: line.bytes.length,
      clear: entry.clear ?? null,
      arena: entry.arena ?? null,
      data: entry.data ?? {},
    };
  }
}

/** True when the fixture says what its first bytes are. */
function hasContent({ bytes, words }: DataData): boolean {
  return bytes !== undefined || words !== undefined;
}

/** First address behind an image's exception table, which follows the code and lies within one page. */
function behindTable(codeEnd: bigint, bytes: number): bigint {
  if (bytes === 0) return codeEnd;
  const start = (codeEnd + 3n) & ~3n;
  const last = start + BigInt(bytes) - 1n;
  const place = start >> 12n === last >> 12n ? start : (last >> 12n) << 12n;
  return place + BigInt(bytes);
}
