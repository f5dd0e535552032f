/** What the tests of the native CPU share: a ram, pages by hand, and a log of what the engine asked. */
import {
  ACCESS_FETCH,
  ACCESS_READ,
  ACCESS_WRITE,
  type AccessCode,
  type Cpu,
  PERM_EXEC,
  PERM_READ,
  PERM_WRITE,
  type TlbFiller,
} from '../cpu.js';
import { Ram } from '../ram.js';
import type { NativeEngine } from './native-engine.js';

export const RAM_BASE = 0x100000;
export const RWX = PERM_READ | PERM_WRITE | PERM_EXEC;
/** Kernel-like addresses: code, data, stack, and where guest code returns to. */
export const CODE = 0xffffffff81000000n;
export const DATA = 0xffffc90000010000n;
export const STACK = 0xffffc90000040000n;
export const SENTINEL = 0xffffffffff5fd008n;

const key = (va: bigint): number | bigint => {
  const page = BigInt.asIntN(64, va & ~0xfffn);
  return Number.isSafeInteger(Number(page)) ? Number(page) : page;
};

/** Pages mapped by hand. */
export class TestPages implements TlbFiller {
  pa = 0;
  /** `r`, `w` or `x` and the page in hex, in the order asked. */
  readonly asked: string[] = [];
  private readonly pages = new Map<number | bigint, { readonly pa: number; readonly rights: number }>();

  map(va: bigint, pa: number, rights = RWX): void {
    this.pages.set(key(va), { pa, rights });
  }

  unmap(va: bigint): void {
    this.pages.delete(key(va));
  }

  fill(va: number | bigint, access: AccessCode): number {
    this.asked.push(`${kind(access)} ${BigInt.asUintN(64, BigInt(va)).toString(16)}`);
    const page = this.pages.get(va);
    if (page === undefined) return 0;
    this.pa = page.pa;
    return page.rights;
  }

  /** What was asked since the last call. */
  takeAsked(): string[] {
    return this.asked.splice(0);
  }
}

function kind(access: AccessCode): string {
  switch (access) {
    case ACCESS_READ:
      return 'r';
    case ACCESS_WRITE:
      return 'w';
    case ACCESS_FETCH:
      return 'x';
  }
}

export interface TestMachine {
  readonly ram: Ram;
  readonly pages: TestPages;
  readonly cpu: Cpu;
  /** Puts code at CODE and drops what the engine translated before. */
  load(bytes: readonly number[], at?: bigint): void;
}

/** 1 MiB of ram; 16 pages from CODE, DATA and STACK each are mapped, DATA only its first page. */
export function testMachine(
  engine: NativeEngine,
  isa: 'x86-64' | 'arm64',
  shared?: Pick<TestMachine, 'ram'>,
): TestMachine {
  const ram = shared?.ram ?? new Ram(RAM_BASE, 1 << 20);
  const pages = new TestPages();
  for (let page = 0; page < 16; page++) pages.map(CODE + BigInt(page * 4096), RAM_BASE + page * 4096);
  pages.map(DATA, RAM_BASE + 0x20000);
  for (let page = 0; page < 4; page++)
    pages.map(STACK + BigInt(page * 4096), RAM_BASE + 0x30000 + page * 4096);
  const cpu = engine.createCpu(isa, ram, { id: 0, filler: pages, sentinel: SENTINEL });
  return {
    ram,
    pages,
    cpu,
    load(bytes, at = CODE) {
      ram.write(RAM_BASE + Number(at - CODE), Uint8Array.from(bytes));
      cpu.flushCode();
    },
  };
}

/** Little-endian bytes of 32-bit instructions. */
export function words(...instructions: readonly number[]): number[] {
  return instructions.flatMap((word) => [
    word & 0xff,
    (word >>> 8) & 0xff,
    (word >>> 16) & 0xff,
    word >>> 24,
  ]);
}
