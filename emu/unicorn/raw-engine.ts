/**
 * One bare Unicorn engine with a virtual TLB: opening in the order that works, hooks, registers, saved
 * contexts, and giving everything back. What it means is decided above.
 */
import { EngineError } from '../cpu.js';
import {
  type Address,
  addressOf,
  type Bindings,
  type Callback,
  NativeBuffer,
  register,
  unregister,
} from './bindings.js';
import {
  UC_ARCH_ARM64,
  UC_ARCH_X86,
  UC_CPU_ARM64_MAX,
  UC_CPU_X86_BROADWELL,
  UC_CTL_CPU_MODEL,
  UC_CTL_TB_FLUSH,
  UC_CTL_TCG_BUFFER_SIZE,
  UC_CTL_TLB_FLUSH,
  UC_CTL_TLB_TYPE,
  UC_CTL_UC_PAGE_SIZE,
  UC_ERR_OK,
  UC_HOOK_CODE,
  UC_HOOK_INSN,
  UC_HOOK_INTR,
  UC_HOOK_MEM_READ,
  UC_HOOK_MEM_WRITE,
  UC_HOOK_TLB_FILL,
  UC_MEM_WRITE,
  UC_MODE_64,
  UC_MODE_ARM,
  UC_PROT_ALL,
  type UC_TLB_CPU,
  UC_TLB_VIRTUAL,
} from './constants.js';

export type Isa = 'x86-64' | 'arm64';

/** Virtual bytes for translated code; the library's default is 1 GiB for each engine. */
const TCG_BUFFER = 32 << 20;

/** How much of the engine's own structure may be looked at; the structure is larger. */
export const ENGINE_WINDOW = 2048;

/** Registers and privilege of an engine, in the library's own form. */
export type SavedContext = NativeBuffer;

/** Where an engine differs from those that run guest code of machines. */
export interface EngineOptions {
  /** The library's number of the CPU model. */
  readonly model?: number;
  /** Whose translations: UC_TLB_VIRTUAL asks a hook, UC_TLB_CPU walks tables. */
  readonly tlb?: typeof UC_TLB_VIRTUAL | typeof UC_TLB_CPU;
}

export class RawEngine {
  readonly handle: Address;
  private readonly scratch = new NativeBuffer(64);
  private readonly value = new BigUint64Array(this.scratch.bytes.buffer);
  /** `value` in halves: a number is made of them without a bigint's detour. */
  private readonly low = new Uint32Array(this.scratch.bytes.buffer);
  private readonly high = new Int32Array(this.scratch.bytes.buffer);
  private readonly callbacks: bigint[] = [];
  /** Mapped buffers: the library keeps their address, so they must not be collected. */
  private readonly mapped: Uint8Array[] = [];
  private open = true;

  /** Opens an engine whose memory is `regions`. Throws an EngineError when the library refuses. */
  constructor(
    readonly bindings: Bindings,
    isa: Isa,
    regions: readonly { readonly pa: number; readonly bytes: Uint8Array }[],
    options: EngineOptions = {},
  ) {
    const b = bindings;
    const { model = isa === 'x86-64' ? UC_CPU_X86_BROADWELL : UC_CPU_ARM64_MAX, tlb = UC_TLB_VIRTUAL } =
      options;
    const opened =
      isa === 'x86-64'
        ? b.uc_open(UC_ARCH_X86, UC_MODE_64, this.scratch.address)
        : b.uc_open(UC_ARCH_ARM64, UC_MODE_ARM, this.scratch.address);
    this.check(opened, 'opening an engine');
    this.handle = Number(this.scratch.view.getBigUint64(0, true));
    try {
      // Model and page size are only taken before anything initialises the engine.
      this.check(b.uc_ctl(this.handle, UC_CTL_CPU_MODEL, 'int', model), 'CPU model');
      if (isa === 'arm64') {
        this.check(b.uc_ctl(this.handle, UC_CTL_UC_PAGE_SIZE, 'uint32_t', 4096), 'page size');
      }
      this.check(b.uc_ctl(this.handle, UC_CTL_TCG_BUFFER_SIZE, 'uint32_t', TCG_BUFFER), 'code buffer');
      for (const { pa, bytes } of regions) {
        const rc = b.uc_mem_map_ptr(this.handle, pa, bytes.length, UC_PROT_ALL, addressOf(bytes));
        this.check(rc, `mapping ${bytes.length} bytes of memory at physical 0x${pa.toString(16)}`);
        this.mapped.push(bytes);
      }
      this.check(b.uc_ctl(this.handle, UC_CTL_TLB_TYPE, 'int', tlb), 'kind of TLB');
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Throws an EngineError unless `rc` is UC_ERR_OK. */
  check(rc: number, what: string): void {
    if (rc !== UC_ERR_OK) this.fail(rc, what);
  }

  private fail(rc: number, what: string): never {
    throw new EngineError(`${what}: ${this.bindings.uc_strerror(rc)} (${rc})`);
  }

  /** Installs a hook for the engine's lifetime. `insn` is for 'syscall' and 'sys' hooks. */
  hook(callback: Callback, insn = 0): void {
    const pointer = register(callback);
    this.callbacks.push(pointer);
    this.addHook(callback.kind, pointer, 1, 0, insn);
  }

  /** Calls `fn` with every instruction executed in begin..end until the function returned is called. */
  hookCode(fn: (address: number | bigint, size: number) => void, begin: bigint, end: bigint): () => void {
    return this.removable({ kind: 'code', fn: (_uc, address, size) => fn(address, size) }, begin, end);
  }

  /** The same with every access of instructions to physical memory in begin..end, whether or not it succeeds. */
  hookAccess(fn: (pa: number, size: number, write: boolean) => void, begin: number, end: number): () => void {
    const access: Callback = {
      kind: 'access',
      fn: (_uc, type, pa, size) => fn(Number(pa), size, type === UC_MEM_WRITE),
    };
    return this.removable(access, begin, end);
  }

  /** Adds a hook for a range of addresses; returns what removes it. */
  private removable(callback: Callback, begin: bigint | number, end: bigint | number): () => void {
    const pointer = register(callback);
    this.callbacks.push(pointer);
    const hook = this.addHook(callback.kind, pointer, begin, end, 0);
    return () => {
      this.check(this.bindings.uc_hook_del(this.handle, hook), 'removing a hook');
      this.callbacks.splice(this.callbacks.indexOf(pointer), 1);
      unregister(pointer);
    };
  }

  private addHook(
    kind: Callback['kind'],
    pointer: bigint,
    begin: bigint | number,
    end: bigint | number,
    insn: number,
  ): bigint {
    const type = {
      fill: UC_HOOK_TLB_FILL,
      interrupt: UC_HOOK_INTR,
      syscall: UC_HOOK_INSN,
      sys: UC_HOOK_INSN,
      code: UC_HOOK_CODE,
      access: UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE,
    }[kind];
    const extra: (string | number)[] = type === UC_HOOK_INSN ? ['int', insn] : [];
    const { handle, scratch } = this;
    const rc = this.bindings.uc_hook_add(handle, scratch.address, type, pointer, null, begin, end, ...extra);
    this.check(rc, `${kind} hook`);
    return scratch.view.getBigUint64(0, true);
  }

  /** Reads a register of at most 64 bits, zero-extended. */
  read(id: number): bigint {
    const { value } = this;
    value[0] = 0n;
    const rc = this.bindings.uc_reg_read(this.handle, id, this.scratch.address);
    if (rc !== UC_ERR_OK) this.fail(rc, `reading register ${id}`);
    return value[0];
  }

  write(id: number, value: bigint): void {
    this.value[0] = value;
    const rc = this.bindings.uc_reg_write(this.handle, id, this.scratch.address);
    if (rc !== UC_ERR_OK) this.fail(rc, `writing register ${id}`);
  }

  /** Reads a register whose value is a structure, into `buffer`. */
  readStructure(id: number, buffer: NativeBuffer): void {
    const rc = this.bindings.uc_reg_read(this.handle, id, buffer.address);
    if (rc !== UC_ERR_OK) this.fail(rc, `reading register ${id}`);
  }

  writeStructure(id: number, buffer: NativeBuffer): void {
    const rc = this.bindings.uc_reg_write(this.handle, id, buffer.address);
    if (rc !== UC_ERR_OK) this.fail(rc, `writing register ${id}`);
  }

  /**
   * A place for a context. The library makes one only to fill in its head: in memory of our own the
   * bytes can be read and changed.
   */
  allocateContext(): SavedContext {
    const { bindings: b, scratch } = this;
    this.check(b.uc_context_alloc(this.handle, scratch.address), 'allocating a context');
    const made = Number(scratch.view.getBigUint64(0, true));
    const context = new NativeBuffer(b.uc_context_size(this.handle));
    b.memcpy(context.address, made, context.bytes.length);
    b.uc_context_free(made);
    return context;
  }

  /** Copies a part of the engine's own structure. */
  peek(offset: number, into: NativeBuffer): void {
    this.bindings.memcpy(into.address, this.handle + offset, into.bytes.length);
  }

  /** A copy of as much of the engine's own structure as may be looked at. */
  peekAll(): Uint8Array {
    const copy = new NativeBuffer(ENGINE_WINDOW);
    this.peek(0, copy);
    return copy.bytes;
  }

  saveContext(context: SavedContext): void {
    this.check(this.bindings.uc_context_save(this.handle, context.address), 'saving a context');
  }

  restoreContext(context: SavedContext): void {
    this.check(this.bindings.uc_context_restore(this.handle, context.address), 'restoring a context');
  }

  /** Runs until something stops it; returns the library's result. */
  start(pc: bigint, until: bigint | number, count: number): number {
    return this.bindings.uc_emu_start(this.handle, this.signedNumber(pc), until, 0, count);
  }

  /** An address as a signed number where that is exact: koffi passes numbers faster than bigints. */
  private signedNumber(address: bigint): bigint | number {
    this.value[0] = address;
    const high = this.high[1] ?? 0;
    if (high >= 0x200000 || high < -0x200000) return address;
    return high * 0x100000000 + (this.low[0] ?? 0);
  }

  /** Stops the run; for callbacks. */
  stop(): void {
    this.bindings.uc_emu_stop(this.handle);
  }

  flushTlb(): void {
    this.check(this.bindings.uc_ctl(this.handle, UC_CTL_TLB_FLUSH), 'flushing the TLB');
  }

  flushCode(): void {
    this.check(this.bindings.uc_ctl(this.handle, UC_CTL_TB_FLUSH), 'flushing translated code');
  }

  /** Frees the engine and its callbacks. Idempotent. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    this.bindings.uc_close(this.handle);
    for (const pointer of this.callbacks) unregister(pointer);
    this.callbacks.length = 0;
    this.mapped.length = 0;
  }
}
