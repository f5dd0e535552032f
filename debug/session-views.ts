/** The views of a session: each reads the machine as it stands. */
import type { AccessType, Event } from '../emu/events.js';
import type { FixtureResult } from '../vector/run/result.js';
import type { SessionViews } from './api.js';
import type { Inspector } from './inspect.js';
import { arenaPages, kfencePool } from './inspect-arena.js';
import {
  codeLines,
  consoleText,
  fixtureStepViews,
  kernelRanges,
  programStreams,
  userMappings,
} from './inspect-kernel.js';
import { pathView } from './inspect-path.js';
import { evaluateText, symbolViews } from './names.js';
import type { MachineRun } from './run.js';
import type {
  ArenaPagesView,
  CodeLineView,
  FrameView,
  InstructionView,
  KfencePoolView,
  PathView,
  RangeView,
  RegisterView,
  StepView,
  StreamView,
  SymbolView,
  VmaView,
  WalkView,
} from './views.js';

export abstract class ViewedSession implements SessionViews {
  abstract readonly run: MachineRun;
  abstract readonly inspector: Inspector;
  protected abstract readonly breakAddresses: readonly bigint[];

  get arch(): 'x86-64' | 'arm64' {
    return this.run.machine.arch.name;
  }
  get cpu(): number {
    return this.run.cpu;
  }
  get cpus(): number {
    return this.run.machine.system.cpus.length;
  }
  get pc(): bigint {
    return this.run.pcOf(this.cpu);
  }
  get sp(): bigint {
    return this.run.spOf(this.cpu);
  }
  get task(): { readonly comm: string; readonly pid: number; readonly mode: 'kernel' | 'user' } {
    const { comm, pid } = this.inspector.here.current;
    return { comm, pid, mode: this.inspector.userMode ? 'user' : 'kernel' };
  }
  registers(cpu: number = this.cpu): readonly RegisterView[] {
    return this.inspector.registers(cpu);
  }
  register(name: string, cpu: number = this.cpu): bigint {
    return this.inspector.register(name, cpu);
  }
  readMemory(va: bigint, length: number): Uint8Array | null {
    return this.run.machine.readMemory(this.cpu, va, length);
  }
  readMapped(va: bigint, length: number): Uint8Array {
    return this.inspector.readMapped(va, length);
  }
  readPhysical(pa: number, length: number): Uint8Array | null {
    const { ram } = this.run.machine.system;
    return ram.contains(pa, length) ? ram.bytes.slice(pa - ram.base, pa - ram.base + length) : null;
  }
  get ram(): { readonly base: number; readonly size: number } {
    const { base, size } = this.run.machine.system.ram;
    return { base, size };
  }
  disassemble(address: bigint, count: number, before = 0): readonly InstructionView[] {
    return this.inspector.disassemble(address, count, before, this.breakAddresses);
  }
  codeLines(): readonly CodeLineView[] {
    return codeLines(this.run);
  }
  callStack(): readonly FrameView[] {
    return this.inspector.callStack(this.path().stack);
  }
  walk(va: bigint, access: AccessType = 'read', user: boolean = this.inspector.userMode): WalkView {
    return this.inspector.walk(va, access, user);
  }
  path(): PathView {
    return pathView(this.run, (address) => this.nameOf(address));
  }
  vmas(): readonly VmaView[] {
    return userMappings(this.run);
  }
  kernelLayout(): readonly RangeView[] {
    return kernelRanges(this.run.machine);
  }
  arenas(): readonly ArenaPagesView[] {
    return arenaPages(this.run.machine);
  }
  kfence(): KfencePoolView | null {
    return kfencePool(this.run.machine);
  }
  consoleLines(): readonly string[] {
    return consoleText(this.run);
  }
  streams(): readonly StreamView[] {
    return programStreams(this.run.machine);
  }
  fixtureSteps(): readonly StepView[] {
    return fixtureStepViews(this.run);
  }
  currentStep(): StepView | null {
    return this.fixtureSteps().findLast(({ state }) => state === 'running') ?? null;
  }
  get events(): readonly Event[] {
    return this.run.machine.events;
  }
  get result(): FixtureResult | null {
    return this.run.result;
  }
  nameOf(address: bigint): string | null {
    return this.run.machine.nameOf(address);
  }
  symbols(): readonly SymbolView[] {
    return symbolViews(this.run);
  }
  evaluate(expression: string): bigint {
    return evaluateText(expression, this.run);
  }
}
