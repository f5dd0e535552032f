/** A CPU for tests of kfuncs: fakeCpu() with a MiB of ram, flat at a kernel address, and a part for users. */
import type { ThisCpu } from '../arch/arch.js';
import { DEFAULT_CONFIG } from '../arch/kernel-config.js';
import { x86 } from '../arch/x86/index.js';
import { Ram } from '../emu/ram.js';
import { Memory } from '../mm/memory.js';
import { BpfEnv } from './env.js';
import { type FakeCpu, fakeCpu } from './fake-cpu.js';
import type { BpfProgramSpec, bpf_prog } from './program.js';

/** Kernel address of the first byte of ram. */
export const FLAT = 0xffff_8880_0000_0000n;
/** The first page that users see: at this user address, and at the same offset from FLAT. */
export const USER = 0x8_0000n;
const SIZE = 1 << 20;

export interface FlatCpu {
  readonly cpu: FakeCpu;
  readonly here: ThisCpu;
  readonly env: BpfEnv;
  /** Calls of local_irq_save (`off`) and local_irq_restore (its flags), in order. */
  readonly irqs: (string | bigint)[];
  /** Puts bytes at an offset of ram: their kernel address. */
  put(offset: number, bytes: Uint8Array | string | readonly bigint[]): bigint;
  /** A program at the top of the stack. */
  program(name: string, spec?: Partial<BpfProgramSpec>): bpf_prog;
}

/** @param userPages pages from USER on that users may read and write */
export function flatCpu(id = 0, userPages = 1): FlatCpu {
  const ram = new Ram(0, SIZE);
  const userEnd = USER + BigInt(userPages * 4096);
  const irqs: (string | bigint)[] = [];
  const peek = (va: bigint): number => (va >= FLAT && va < FLAT + BigInt(SIZE) ? Number(va - FLAT) : -1);
  const mmu = {
    unpin: () => undefined,
    peek,
    translate: (va: bigint, _access: string, user: boolean) => {
      const pa = user && va >= USER && va < userEnd ? Number(va) : user ? -1 : peek(va);
      return { ok: pa >= 0, pa };
    },
  } as unknown as ThisCpu['mmu'];
  const cpu = fakeCpu(
    { ram, mmu, cpu: { id, flushTlbPage: () => undefined } as unknown as ThisCpu['cpu'] },
    {
      layout: x86.layout,
      local_irq_save: () => {
        irqs.push('off');
        return 0x200n;
      },
      local_irq_restore: (_here, flags) => {
        irqs.push(flags);
      },
    },
  );
  const kernel = cpu.here.kernel as { -readonly [K in keyof ThisCpu['kernel']]: ThisCpu['kernel'][K] };
  kernel.hashed_pointer = (address) => (address === 0n ? '0'.repeat(16) : '00000000deadbeef');
  kernel.sprint_backtrace = (address) => cpu.kallsyms.sprint_backtrace(address);
  const memory = new Memory(new Ram(x86.layout.physBase, SIZE), x86.pgtable(DEFAULT_CONFIG), x86.layout);
  const env = new BpfEnv({ memory, kallsyms_lookup_name: cpu.lookup });
  let programs = 0;
  return {
    cpu,
    here: cpu.here,
    env,
    irqs,
    put(offset, content) {
      if (content instanceof Uint8Array) ram.write(offset, content);
      else if (typeof content === 'string') ram.write(offset, new TextEncoder().encode(`${content}\0`));
      else for (const [i, word] of content.entries()) ram.writeU64(offset + i * 8, BigInt.asUintN(64, word));
      return FLAT + BigInt(offset);
    },
    program(name, spec = {}) {
      const start = 0xffff_ffff_c000_0000n + BigInt(programs * 0x1000);
      programs += 1;
      const prog = env.programs.load({ name, start, code: new Uint8Array(256), ...spec });
      cpu.stack = [cpu.in('my_kfunc', 0x12n), prog.bpf_func + 0x2an, cpu.in('bpf_test_run', 0x1b0n)];
      return prog;
    },
  };
}
