/**
 * The code that makes the accesses: what ac_test_do_access() of x86/access.c executes. Each way has a stub:
 * invlpg, a first supervisor read if there are to be two accesses, an iretq to user mode if it is a user's,
 * the access, and a load from an address that never translates, which ends it.
 */

export type Kind = 'read' | 'write' | 'fetch';
type Who = 'kernel' | 'user';

export interface Stub {
  readonly start: bigint;
  /** The same without the invlpg. */
  readonly unflushed: bigint;
  /** The first of two accesses. */
  readonly first: bigint | null;
  /** Where the program goes on when that one faults. */
  readonly second: bigint;
  /** The access itself. */
  readonly access: bigint;
}

export interface ProgramPage {
  readonly va: bigint;
  readonly user: boolean;
  readonly bytes: Uint8Array;
}

export interface Program {
  readonly stubs: Readonly<Record<'once' | 'twice', Readonly<Record<Who, Readonly<Record<Kind, Stub>>>>>>;
  readonly pages: readonly ProgramPage[];
  readonly registers: Readonly<Record<string, bigint>>;
  /** The load from there ends a stub. */
  readonly end: bigint;
  /** What a write stores: four bytes, the first of which is a `ret`. */
  readonly stored: number;
  readonly sentinel: bigint;
}

const KERNEL_CODE = 0xffffffff81000000n;
const KERNEL_STACK = 0xffffffff81002000n;
const USER_CODE = 0x400000n;
const USER_STACK = 0x402000n;
const END = 0xffffffff81008000n;
const SENTINEL = 0xffffffff8100a000n;
const STORED = 0x5aa5c3c3;

/** Offsets in the kernel's page. */
const GDT_OFFSET = 0x800;
const FRAMES_OFFSET = 0x900;
const STACK_POINTER = 0x800n;

/** Flat descriptors at the kernel's selectors (arch/x86/include/asm/segment.h). */
const GDT = [
  ...[0n, 0n, 0x00af9b000000ffffn, 0x00cf93000000ffffn],
  ...[0x00cffb000000ffffn, 0x00cff3000000ffffn, 0x00affb000000ffffn],
];
const USER_CS = 0x33n;
const USER_DS = 0x2bn;

/** invlpg [rdi] */
const INVLPG = [0x0f, 0x01, 0x3f];
/** mov ebx, [rdi] */
const FIRST = [0x8b, 0x1f];
const ACCESS: Readonly<Record<Kind, readonly number[]>> = {
  // mov eax, [rdi]
  read: [0x8b, 0x07],
  // mov dword [rdi], imm32
  write: [0xc7, 0x07, ...littleEndian(STORED)],
  // call rdi
  fetch: [0xff, 0xd7],
};
/** mov ecx, [rsi] */
const LAST = [0x8b, 0x0e];
const IRETQ = [0x48, 0xcf];

function littleEndian(value: number): number[] {
  return [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
}

/** mov rsp, imm32 sign-extended */
function loadStack(va: bigint): number[] {
  return [0x48, 0xc7, 0xc4, ...littleEndian(Number(BigInt.asUintN(32, va)))];
}

class Page {
  readonly bytes = new Uint8Array(4096);
  #size = 0;
  constructor(readonly va: bigint) {}

  /** Puts code behind what is there; returns its address. */
  put(code: readonly number[]): bigint {
    const at = this.#size;
    this.bytes.set(code, at);
    this.#size += code.length;
    return this.va + BigInt(at);
  }

  words(offset: number, values: readonly bigint[]): void {
    const view = new DataView(this.bytes.buffer);
    for (const [i, value] of values.entries()) view.setBigUint64(offset + 8 * i, value, true);
  }
}

/** The address to be accessed is in rdi, which no stub changes. */
export function assembleAccesses(): Program {
  const kernel = new Page(KERNEL_CODE);
  const user = new Page(USER_CODE);
  kernel.words(GDT_OFFSET, GDT);
  let frames = FRAMES_OFFSET;

  const stub = (twice: boolean, who: Who, kind: Kind): Stub => {
    const start = kernel.put(INVLPG);
    const first = twice ? kernel.put(FIRST) : null;
    let access: bigint;
    let second: bigint;
    if (who === 'kernel') {
      second = kernel.put(loadStack(KERNEL_STACK + STACK_POINTER));
      access = kernel.put(ACCESS[kind]);
      kernel.put(LAST);
    } else {
      access = user.put(ACCESS[kind]);
      user.put(LAST);
      kernel.words(frames, [access, USER_CS, 2n, USER_STACK + STACK_POINTER, USER_DS]);
      second = kernel.put(loadStack(KERNEL_CODE + BigInt(frames)));
      kernel.put(IRETQ);
      frames += 40;
    }
    return { start, unflushed: start + BigInt(INVLPG.length), first, second, access };
  };
  const kinds = (twice: boolean, who: Who): Readonly<Record<Kind, Stub>> => ({
    read: stub(twice, who, 'read'),
    write: stub(twice, who, 'write'),
    fetch: stub(twice, who, 'fetch'),
  });
  const stubs = {
    once: { kernel: kinds(false, 'kernel'), user: kinds(false, 'user') },
    twice: { kernel: kinds(true, 'kernel'), user: kinds(true, 'user') },
  };
  return {
    stubs,
    pages: [
      { va: KERNEL_CODE, user: false, bytes: kernel.bytes },
      { va: KERNEL_STACK, user: false, bytes: new Uint8Array(4096) },
      { va: USER_CODE, user: true, bytes: user.bytes },
      { va: USER_STACK, user: true, bytes: new Uint8Array(4096) },
    ],
    registers: {
      rsi: END,
      gdtr_base: KERNEL_CODE + BigInt(GDT_OFFSET),
      gdtr_limit: BigInt(GDT.length * 8 - 1),
    },
    end: END,
    stored: STORED,
    sentinel: SENTINEL,
  };
}
