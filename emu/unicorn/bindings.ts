/**
 * The foreign functions of the Unicorn library. Addresses are plain numbers here: user-space pointers
 * fit 53 bits on every platform that has a library, and koffi passes a number twice as fast as a
 * pointer object. Callback types are anonymous, because koffi keeps named types for the whole process.
 */
import koffi from 'koffi';

/** A host address. */
export type Address = number;

export interface Bindings {
  readonly uc_open: (arch: number, mode: number, out: Address) => number;
  readonly uc_close: (uc: Address) => number;
  readonly uc_strerror: (code: number) => string;
  readonly uc_ctl: (uc: Address, control: number, ...typesAndValues: (string | number)[]) => number;
  readonly uc_mem_map_ptr: (uc: Address, pa: number, size: number, perms: number, host: Address) => number;
  readonly uc_emu_start: (
    uc: Address,
    begin: bigint | number,
    until: bigint | number,
    timeout: number,
    count: number,
  ) => number;
  readonly uc_emu_stop: (uc: Address) => number;
  readonly uc_hook_add: (
    uc: Address,
    out: Address,
    type: number,
    callback: bigint,
    user: null,
    begin: bigint | number,
    end: bigint | number,
    ...insn: (string | number)[]
  ) => number;
  readonly uc_hook_del: (uc: Address, hook: bigint) => number;
  readonly uc_reg_read: (uc: Address, id: number, value: Address) => number;
  readonly uc_reg_write: (uc: Address, id: number, value: Address) => number;
  readonly uc_reg_read_batch: (uc: Address, ids: Address, values: Address, count: number) => number;
  readonly uc_reg_write_batch: (uc: Address, ids: Address, values: Address, count: number) => number;
  readonly uc_context_alloc: (uc: Address, out: Address) => number;
  readonly uc_context_free: (context: Address) => number;
  readonly uc_context_size: (uc: Address) => number;
  readonly uc_context_save: (uc: Address, context: Address) => number;
  readonly uc_context_restore: (uc: Address, context: Address) => number;
  /** The C library's, for reading the engine's structures. */
  readonly memcpy: (to: Address, from: Address, size: number) => void;
  readonly pipe: (ends: Address) => number;
  readonly read: (file: number, to: Address, size: number) => number;
  readonly write: (file: number, from: Address, size: number) => number;
  readonly close: (file: number) => number;
  readonly madvise: (address: Address, size: number, advice: number) => number;
}

/** A loaded library. Its version is known before anything else of it is used. */
export interface LoadedLibrary {
  /** The version's parts, a byte each: major, minor, patch, extra. */
  readonly packedVersion: number;
  /** Declares the functions. Throws koffi's error when one of them is not there. */
  bind(): Bindings;
}

/** Loads the library at `path`. Throws koffi's error when that fails or it is not Unicorn. */
export function load(path: string): LoadedLibrary {
  const library = koffi.load(path);
  const uc_version: (major: null, minor: null) => number = library.func('uint uc_version(void*, void*)');
  return { packedVersion: uc_version(null, null), bind: () => bind(library) };
}

function bind(library: ReturnType<typeof koffi.load>): Bindings {
  const declare = (prototype: string): unknown => library.func(prototype);
  return {
    uc_open: declare('int uc_open(int, int, uintptr_t)'),
    uc_close: declare('int uc_close(uintptr_t)'),
    uc_strerror: declare('const char* uc_strerror(int)'),
    uc_ctl: declare('int uc_ctl(uintptr_t, int, ...)'),
    uc_mem_map_ptr: declare('int uc_mem_map_ptr(uintptr_t, uint64_t, uint64_t, uint32_t, uintptr_t)'),
    uc_emu_start: declare('int uc_emu_start(uintptr_t, uint64_t, uint64_t, uint64_t, size_t)'),
    uc_emu_stop: declare('int uc_emu_stop(uintptr_t)'),
    uc_hook_add: declare('int uc_hook_add(uintptr_t, uintptr_t, int, void*, void*, uint64_t, uint64_t, ...)'),
    uc_hook_del: declare('int uc_hook_del(uintptr_t, size_t)'),
    uc_reg_read: declare('int uc_reg_read(uintptr_t, int, uintptr_t)'),
    uc_reg_write: declare('int uc_reg_write(uintptr_t, int, uintptr_t)'),
    uc_reg_read_batch: declare('int uc_reg_read_batch(uintptr_t, uintptr_t, uintptr_t, int)'),
    uc_reg_write_batch: declare('int uc_reg_write_batch(uintptr_t, uintptr_t, uintptr_t, int)'),
    uc_context_alloc: declare('int uc_context_alloc(uintptr_t, uintptr_t)'),
    uc_context_free: declare('int uc_context_free(uintptr_t)'),
    uc_context_size: declare('size_t uc_context_size(uintptr_t)'),
    uc_context_save: declare('int uc_context_save(uintptr_t, uintptr_t)'),
    uc_context_restore: declare('int uc_context_restore(uintptr_t, uintptr_t)'),
    memcpy: declare('void memcpy(uintptr_t, uintptr_t, size_t)'),
    pipe: declare('int pipe(uintptr_t)'),
    read: declare('int64_t read(int, uintptr_t, size_t)'),
    write: declare('int64_t write(int, uintptr_t, size_t)'),
    close: declare('int close(int)'),
    madvise: declare('int madvise(uintptr_t, size_t, int)'),
  } as Bindings;
}

/**
 * Called for a translation: page address, kind of access, address of the result. True: it is filled in.
 * The hot callback: each argument has to be made for it, so it does without the last, and of the first it
 * is only given what costs nothing, the lowest byte.
 */
export type FillCallback = (uc: number, va: number | bigint, type: number, result: number) => boolean;
/** Called for an exception or interrupt. */
export type InterruptCallback = (uc: number, number: number, user: number) => void;
/** Called for syscall and sysenter. */
export type SyscallCallback = (uc: number, user: number) => void;
/** Called for an arm64 SYS instruction with its register and encoding. Nonzero: it is not executed. */
export type SysCallback = (uc: number, register: number, encoding: number, user: number) => number;
/** Called before an instruction. */
export type CodeCallback = (uc: number, address: number | bigint, size: number, user: number) => void;

/** Called with an access to memory: UC_MEM_*, physical address, size in bytes. */
export type AccessCallback = (uc: number, type: number, pa: number | bigint, size: number) => void;

export type Callback =
  | { readonly kind: 'fill'; readonly fn: FillCallback }
  | { readonly kind: 'interrupt'; readonly fn: InterruptCallback }
  | { readonly kind: 'syscall'; readonly fn: SyscallCallback }
  | { readonly kind: 'sys'; readonly fn: SysCallback }
  | { readonly kind: 'code'; readonly fn: CodeCallback }
  | { readonly kind: 'access'; readonly fn: AccessCallback };

const CALLBACK_TYPES = {
  fill: koffi.pointer(koffi.proto('bool (int8_t, uint64_t, int, uintptr_t)')),
  interrupt: koffi.pointer(koffi.proto('void (uintptr_t, uint32_t, uintptr_t)')),
  syscall: koffi.pointer(koffi.proto('void (uintptr_t, uintptr_t)')),
  sys: koffi.pointer(koffi.proto('uint32_t (uintptr_t, int, uintptr_t, uintptr_t)')),
  code: koffi.pointer(koffi.proto('void (uintptr_t, uint64_t, uint32_t, uintptr_t)')),
  access: koffi.pointer(koffi.proto('void (uintptr_t, int, uint64_t, int, int64_t, uintptr_t)')),
} as const;

/** Makes a native function pointer of a callback; koffi has 8192 of them. Give it back with `unregister`. */
export function register(callback: Callback): bigint {
  return koffi.register(callback.fn, CALLBACK_TYPES[callback.kind]);
}

/** Native function pointers in use in this process. */
export function registeredCallbacks(): number {
  return Number(koffi.stats().callbacks);
}

export function unregister(pointer: bigint): void {
  koffi.unregister(pointer);
}

/** Memory that native code may keep the address of: it does not move while `bytes` is referenced. */
export class NativeBuffer {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly address: Address;

  constructor(size: number) {
    const buffer = new ArrayBuffer(size);
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    this.address = addressOf(this.bytes);
  }
}

/** Host address of a typed array's memory. Valid while the array is referenced. */
export function addressOf(array: Uint8Array): Address {
  return Number(koffi.address(array));
}

/** Host memory as an ArrayBuffer. Not to be touched after the memory is freed. */
function memoryAt(address: Address, size: number): ArrayBuffer {
  return koffi.view(BigInt(address), size);
}

/**
 * Memory at a few addresses that are seen again and again: results on the native stack, and structures of
 * engines, which the allocator puts where the last one was. Making a view is slow (about 2 µs) and its end
 * waits for the event loop, so each is made once for the whole process.
 */
export class NativeSlots {
  private readonly slots = new Map<Address, Uint32Array>();
  private lastAddress = 0;
  private last: Uint32Array = new Uint32Array(0);

  /** @param size bytes of each */
  constructor(private readonly size: number) {}

  at(address: Address): Uint32Array {
    return address === this.lastAddress ? this.last : this.find(address);
  }

  private find(address: Address): Uint32Array {
    let slot = this.slots.get(address);
    if (slot === undefined) {
      slot = new Uint32Array(memoryAt(address, this.size));
      this.slots.set(address, slot);
    }
    this.lastAddress = address;
    this.last = slot;
    return slot;
  }
}
