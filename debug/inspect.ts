/** What the CPUs of a stopped machine show: registers, instructions, stack, walks. */
import type { ThisCpu } from '../arch/arch.js';
import { hex, u64 } from '../emu/address.js';
import { PERM_EXEC, PERM_READ, PERM_WRITE } from '../emu/cpu.js';
import {
  BAD_INSTRUCTION,
  type DisassembledInstruction,
  type Disassembler,
  instructionText,
} from '../emu/disassembler.js';
import type { AccessType, WalkEvent } from '../emu/events.js';
import { registerNamed } from './names.js';
import type { MachineRun } from './run.js';
import type { FrameView, InstructionView, PathCall, RegisterView, WalkView } from './views.js';

/** Longest instruction of either architecture, in bytes. */
const INSTRUCTION_MAX = 15;
/** Frames that a call stack has at the most: a stack may be bent into a circle. */
const FRAMES_MAX = 256;

/** Bytes of a function that are looked through for what it does with its return address. */
const BODY_MAX = 0x4000n;

/** Registers with what the machine translates and runs by. */
const SYSTEM =
  /^(cr\d|efer|[fgk]s_base|kernel_gs_base|gs_base|fs_base|dr\d|ttbr|tcr|sctlr|mair|far|esr|elr|spsr|vbar|tpidr|pstate|rflags|[cdefgs]s$)/;

export class Inspector {
  readonly #current: () => MachineRun;
  readonly #disassembler: Disassembler;
  /** Registers of each CPU at the stop before. */
  #before: ReadonlyMap<string, bigint>[] = [];

  constructor(current: () => MachineRun, disassembler: Disassembler) {
    this.#current = current;
    this.#disassembler = disassembler;
  }

  get #run(): MachineRun {
    return this.#current();
  }

  get here(): ThisCpu {
    return this.#run.machine.system.here(this.#run.cpu);
  }

  /** Registers are compared with what they are now from here on. */
  remember(): void {
    const run = this.#run;
    this.#before = run.machine.system.cpus.map(
      ({ cpu }) => new Map(cpu.registerNames.map((name) => [name, run.register(cpu.id, name)])),
    );
  }

  get userMode(): boolean {
    const { here } = this;
    return here.regs === null ? here.cpu.privilege() === 'user' : here.regs.user_mode;
  }

  registers(cpu: number): RegisterView[] {
    const run = this.#run;
    const { arch, machine } = { arch: run.machine.arch, machine: run.machine };
    const before = this.#before[cpu];
    const general = new Set([...arch.generalRegisters, arch.pcRegister, 'sp']);
    const names = machine.registerNames;
    const ordered = [
      ...arch.generalRegisters,
      ...names.filter((name) => general.has(name) && !arch.generalRegisters.includes(name)),
      ...names.filter((name) => !general.has(name)),
    ].filter((name) => names.includes(name));
    return ordered.map((name) => {
      const value = run.register(cpu, name);
      const group = general.has(name) ? 'general' : SYSTEM.test(name) ? 'system' : 'other';
      const old = before?.get(name);
      return {
        name,
        value,
        group,
        changed: old !== undefined && old !== value,
        symbol: machine.nameOf(value),
      };
    });
  }

  register(name: string, cpu: number): bigint {
    return registerNamed(this.#run, name, cpu);
  }

  readMapped(va: bigint, length: number): Uint8Array {
    const { machine, cpu } = this.#run;
    const parts: Uint8Array[] = [];
    for (let offset = 0; offset < length; ) {
      const at = u64(va + BigInt(offset));
      const part = Math.min(length - offset, 4096 - Number(at & 0xfffn));
      const bytes = machine.readMemory(cpu, at, part);
      if (bytes === null) break;
      parts.push(bytes);
      offset += part;
    }
    return Uint8Array.from(Buffer.concat(parts));
  }

  disassemble(
    address: bigint,
    count: number,
    before: number,
    breakpoints: readonly bigint[],
  ): InstructionView[] {
    const run = this.#run;
    const lead = before > 0 ? this.#instructionsBefore(address, before) : [];
    const from = this.#decode(address, count);
    const pc = run.place === 'start' || run.place === 'end' ? null : run.pcOf(run.cpu);
    const { machine } = run;
    return [...lead, ...from].map((instruction) => ({
      address: instruction.address,
      bytes: instruction.bytes,
      text: instructionText(instruction),
      symbol: machine.nameOf(instruction.address),
      current: instruction.address === pc,
      breakpoint: breakpoints.includes(instruction.address),
      bpf: machine.bpf.instructionAt(instruction.address),
    }));
  }

  #decode(address: bigint, count: number): DisassembledInstruction[] {
    if (count <= 0) return [];
    const { machine } = this.#run;
    const bytes = this.readMapped(address, count * INSTRUCTION_MAX);
    return this.#disassembler.disassemble(machine.arch.name, bytes, address, {
      count,
      symbolize: (target) => machine.nameOf(target),
    });
  }

  /** The last instructions that end at an address, within the function that it is in. */
  #instructionsBefore(address: bigint, count: number): DisassembledInstruction[] {
    const { machine } = this.#run;
    if (machine.arch.name === 'arm64') {
      const start = address - BigInt(count * 4);
      const first = this.#functionStart(address) ?? start;
      const from = first > start ? first : start;
      return from >= address ? [] : this.#decode(from, Number(address - from) / 4);
    }
    const start = this.#functionStart(address);
    if (start === null || start >= address || address - start > 0x10000n) return [];
    const bytes = this.readMapped(start, Number(address - start));
    const all = this.#disassembler.disassemble(machine.arch.name, bytes, start, {
      symbolize: (target) => machine.nameOf(target),
    });
    return all.slice(-count);
  }

  /** Start of the function of kernel or user text that an address is in. */
  #functionStart(address: bigint): bigint | null {
    const { machine } = this.#run;
    const known = machine.system.kernel.kallsyms.lookup(address);
    if (known !== null) return known.start;
    for (const [name, start] of machine.symbols) {
      if (address >= start && address < start + BigInt(machine.sizeOf(name))) return start;
    }
    return null;
  }

  /** Name of the function that an address is in, or the address. */
  functionAt(address: bigint): string {
    return (this.#run.machine.nameOf(address) ?? hex(address)).replace(/\+0x.*$/, '');
  }

  /** The next instruction in a line. */
  currentLine(): string | null {
    const run = this.#run;
    const [instruction] = this.disassemble(run.pcOf(run.cpu), 1, 0, []);
    if (instruction === undefined) return null;
    const name = instruction.symbol === null ? '' : ` <${instruction.symbol}>`;
    return `=> ${hex(instruction.address)}${name}: ${instruction.text}`;
  }

  #atPc(): DisassembledInstruction | null {
    const run = this.#run;
    return this.#decode(run.pcOf(run.cpu), 1)[0] ?? null;
  }

  /** Where the call at pc returns to, and with which stack pointer; null when there is none. */
  callAtPc(): { readonly to: bigint; readonly sp: bigint } | null {
    const run = this.#run;
    const instruction = this.#atPc();
    if (instruction === null || !isCall(instruction)) return null;
    return { to: u64(instruction.address + BigInt(instruction.bytes.length)), sp: run.spOf(run.cpu) };
  }

  returnsAtPc(): boolean {
    return /^ret/.test(this.#atPc()?.mnemonic ?? '');
  }

  /** Where calls may stand that return to an address. */
  callsBefore(address: bigint): bigint[] {
    const lengths = this.#run.machine.arch.name === 'arm64' ? [4] : [2, 3, 4, 5, 6, 7];
    return lengths.flatMap((length) => {
      const at = address - BigInt(length);
      const [instruction] = this.#decode(at, 1);
      return instruction !== undefined && instruction.bytes.length === length && isCall(instruction)
        ? [at]
        : [];
    });
  }

  /**
   * Where the function that runs returns to, and the stack pointer then at least; null for the outermost, and where the
   * unwinder does not know.
   */
  caller(): { readonly to: bigint; readonly sp: bigint } | null {
    const { sentinel } = this.here.cpu;
    const to = this.#codeFrames()[1]?.pc ?? null;
    if (to === null || to === sentinel) return null;
    const sp = this.#run.spOf(this.#run.cpu);
    return { to, sp: this.#linkRegister() === null ? sp + 1n : sp };
  }

  /** The return address of a function of arm64 that has not saved it, or has taken it back; null elsewhere. */
  #linkRegister(): bigint | null {
    const run = this.#run;
    if (run.machine.arch.name !== 'arm64') return null;
    const pc = run.pcOf(run.cpu);
    const start = this.#functionStart(pc);
    if (start === null || pc - start > BODY_MAX) return null;
    let saved = false;
    let before = false;
    for (const { mnemonic, operands } of this.#decode(start, Number(pc - start) / 4)) {
      const isPair = operands.startsWith('x29, x30,');
      if (mnemonic === 'stp' && isPair) saved = true;
      if (mnemonic === 'ldp' && isPair) {
        before = saved;
        saved = false;
      }
      // What stands behind a return is not come to from there.
      if (mnemonic === 'ret') saved = before;
    }
    return saved ? null : run.register(run.cpu, 'x30');
  }

  /** @param path open calls of ported functions, outermost first */
  callStack(path: readonly PathCall[]): FrameView[] {
    const { machine } = this.#run;
    const inPath = path.map(({ fn }) => ({ kind: 'path' as const, pc: null, sp: null, name: fn })).reverse();
    const code = this.#codeFrames().map(({ pc, sp }) => ({
      kind: 'code' as const,
      pc,
      sp,
      name: machine.nameOf(pc) ?? hex(pc),
    }));
    return [...inPath, ...code].map((frame, level) => ({ level, ...frame }));
  }

  #codeFrames(): { readonly pc: bigint; readonly sp: bigint | null }[] {
    const run = this.#run;
    const { here } = this;
    const { arch } = here;
    if (!run.hasCode(run.cpu)) return [];
    const top = { pc: run.pcOf(run.cpu), sp: run.spOf(run.cpu) };
    // Of user code the unwinder knows nothing.
    if (this.userMode) return [top];
    const own = here.regs === null;
    if (own) here.regs = arch.captureRegs(here);
    try {
      const frames: { pc: bigint; sp: bigint | null }[] = [top];
      // The kernel's unwinder goes by frame records alone.
      const link = this.#linkRegister();
      if (link !== null && link !== here.cpu.sentinel) frames.push({ pc: link, sp: null });
      const { length } = frames;
      arch.arch_bpf_stack_walk(here, (ip, sp) => {
        if (frames.length > length || ip !== top.pc) frames.push({ pc: ip, sp: sp === 0n ? null : sp });
        return frames.length < FRAMES_MAX;
      });
      return frames;
    } finally {
      if (own) {
        arch.releaseRegs(here);
        here.regs = null;
      }
    }
  }

  walk(va: bigint, access: AccessType, user: boolean): WalkView {
    const { here } = this;
    const { mmu, arch } = here;
    const address = u64(va);
    const { ok, pa, perms, levels, verdict, at } = mmu.translate(address, access, user);
    const event: WalkEvent = {
      type: 'walk',
      cpu: here.cpu.id,
      va: address,
      access,
      user,
      levels,
      verdict,
      at,
    };
    const rights = [
      (perms & PERM_READ) === 0 ? '' : 'r',
      (perms & PERM_WRITE) === 0 ? '' : 'w',
      (perms & PERM_EXEC) === 0 ? '' : 'x',
    ].join('');
    const described = arch.describeWalk(event);
    const lines = ok
      ? [
          // A level may have a second line; what stands behind the levels is about walks that fail.
          ...described.filter((text) => /^(?:P[G4UM]D|PTE)\[|^ {9}/.test(text)),
          `${user ? 'user' : 'supervisor'} ${access}: physical ${hex(BigInt(pa))}, ${rights}`,
        ]
      : described;
    const { pages } = this.#run.machine.system.memory;
    const found = ok ? pa : mmu.peek(address);
    return {
      va: address,
      access,
      user,
      ok,
      pa: ok ? pa : null,
      rights: ok ? rights : '',
      levels,
      verdict,
      at,
      lines,
      owner: found < 0 || !here.ram.contains(found) ? null : pages.ownerOf(found - (found % 4096)),
    };
  }
}

function isCall({ mnemonic }: DisassembledInstruction): boolean {
  return mnemonic !== BAD_INSTRUCTION && /^(call|bl|blr|blra.*)$/.test(mnemonic);
}
