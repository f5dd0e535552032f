/**
 * The vsyscall page as a fault sees it: port of arch/x86/entry/vsyscall/vsyscall_64.c, bpf-next merge
 * 8496d9020ff3.
 *
 * Left out: seccomp, and of the three system calls the two that tell the time
 * of day, which is not modelled.
 */
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_INFO, KERN_WARNING, SEGV_MAPERR, SIGSEGV, TaskDead } from '../kernel.js';
import { warnOnOnce } from './fault-oops.js';
import { machineOf } from './machine.js';
import { VSYSCALL_ADDR, X86_TRAP_PF } from './processor.js';
import { __ratelimit } from './ratelimit.js';
import type { X86PtRegs } from './regs.js';
import { access_ok, get_user, put_user } from './uaccess.js';
import { X86_PF_INSTR, X86_PF_USER, X86_PF_WRITE } from './walk.js';

const VSYSCALL_END = VSYSCALL_ADDR + 0x1000n;

/** Where it warns, as %pS says it. */
const WARN_SITE = 'emulate_vsyscall_pf+0x1fb/0x2f0';

/** What hangs on a call: its name and what it may write to, by argument. */
interface VsyscallSpec {
  readonly name: string;
  readonly writes: readonly { readonly arg: 'di' | 'si'; readonly size: number }[];
}

/** By number, which is bits 10 and 11 of the address. */
const VSYSCALLS: readonly VsyscallSpec[] = [
  {
    name: 'gettimeofday',
    writes: [
      { arg: 'di', size: 16 },
      { arg: 'si', size: 8 },
    ],
  },
  { name: 'time', writes: [{ arg: 'di', size: 8 }] },
  {
    name: 'getcpu',
    writes: [
      { arg: 'di', size: 4 },
      { arg: 'si', size: 4 },
    ],
  },
];

export function is_vsyscall_vaddr(vaddr: bigint): boolean {
  return vaddr >= VSYSCALL_ADDR && vaddr < VSYSCALL_END;
}

function warn_bad_vsyscall(here: ThisCpu, level: number, regs: X86PtRegs, message: string): void {
  if (here.kernel.config.show_unhandled_signals === false) return;
  if (!__ratelimit(here, 'warn_bad_vsyscall', 'warn_bad_vsyscall')) return;
  const { comm, pid } = here.current;
  const hex = (value: bigint): string => value.toString(16);
  const text =
    `${comm}[${pid}] ${message} ip:${hex(regs.ip)} cs:${hex(regs.cs)} sp:${hex(regs.sp)}` +
    ` ax:${hex(regs.ax)} si:${hex(regs.si)} di:${hex(regs.di)}`;
  here.kernel.printk(here, level, text);
}

/** Null for an address that is not the start of one of the calls. */
function addr_to_vsyscall_nr(addr: bigint): number | null {
  if ((addr & ~0xc00n) !== VSYSCALL_ADDR) return null;
  const nr = Number((addr & 0xc00n) >> 10n);
  return nr < VSYSCALLS.length ? nr : null;
}

/** write_ok_or_segv(): a pointer into the kernel is a fault at what it points to. */
function checkWrites(here: ThisCpu, regs: X86PtRegs, { writes }: VsyscallSpec): void {
  for (const { arg, size } of writes) {
    const ptr = regs[arg];
    if (access_ok(ptr, size)) continue;
    const thread = machineOf(here).thread(here.current);
    thread.error_code = X86_PF_USER | X86_PF_WRITE;
    thread.cr2 = ptr;
    thread.trap_nr = X86_TRAP_PF;
    warn_bad_vsyscall(here, KERN_INFO, regs, 'vsyscall fault (exploit attempt?)');
    here.kernel.force_sig_fault(here, SIGSEGV, SEGV_MAPERR, ptr);
  }
}

/** getcpu(cpu, node): false for -EFAULT. */
function* getcpu(here: ThisCpu, regs: X86PtRegs): Path<boolean> {
  const { di, si } = regs;
  if (di !== 0n && !(yield* put_user(here, regs, di, 4, BigInt(here.cpu.id)))) return false;
  return si === 0n || (yield* put_user(here, regs, si, 4, 0n));
}

export const emulate_vsyscall_pf = port(
  'emulate_vsyscall_pf',
  ['error_code', 'regs', 'address'],
  function* (here: ThisCpu, error_code: number, regs: X86PtRegs, address: bigint): Path<boolean> {
    const { trace, kernel } = here;
    const fn = 'emulate_vsyscall_pf';
    const userRead = (error_code & (X86_PF_WRITE | X86_PF_USER)) === X86_PF_USER;
    const test = '(error_code & (X86_PF_WRITE | X86_PF_USER)) != X86_PF_USER';
    if (yield* trace.decide(fn, test, !userRead)) return false;
    if (yield* trace.decide(fn, 'address != regs->ip', address !== regs.ip)) {
      const denies = kernel.config.vsyscall !== 'emulate';
      if (yield* trace.decide(fn, 'vsyscall_mode != EMULATE', denies)) {
        const text =
          'vsyscall read attempt denied -- look up the vsyscall kernel parameter if you need a workaround';
        warn_bad_vsyscall(here, KERN_INFO, regs, text);
      }
      return false;
    }
    // This CPU has NX, and so tells fetches.
    const noFetch = (error_code & X86_PF_INSTR) === 0;
    const site = 'arch/x86/entry/vsyscall/vsyscall_64.c:139';
    yield* warnOnOnce(here, fn, '!(error_code & X86_PF_INSTR)', noFetch, site, WARN_SITE);
    return yield* __emulate_vsyscall(here, regs, address);
  },
);

/** True when it is dealt with; user code goes on at its caller. */
const __emulate_vsyscall = port(
  '__emulate_vsyscall',
  ['regs', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, address: bigint): Path<boolean> {
    const { trace, kernel } = here;
    const fn = '__emulate_vsyscall';
    if (yield* trace.decide(fn, 'vsyscall_mode == NONE', kernel.config.vsyscall === 'none')) {
      warn_bad_vsyscall(here, KERN_INFO, regs, 'vsyscall attempted with vsyscall=none');
      return false;
    }
    const nr = addr_to_vsyscall_nr(address);
    const spec = nr === null ? undefined : VSYSCALLS[nr];
    yield* trace.decide(fn, 'vsyscall_nr < 0', spec === undefined);
    if (spec === undefined) {
      const text =
        'misaligned vsyscall (exploit attempt or buggy program) -- look up the vsyscall kernel parameter if you need a workaround';
      warn_bad_vsyscall(here, KERN_WARNING, regs, text);
      return here.kernel.force_sig(here, SIGSEGV);
    }
    const caller = yield* get_user(here, regs, regs.sp, 8);
    yield* trace.decide(fn, 'get_user(caller, (unsigned long __user *)regs->sp) != 0', caller === null);
    if (caller === null) {
      warn_bad_vsyscall(here, KERN_WARNING, regs, 'vsyscall with bad stack (exploit attempt?)');
      return here.kernel.force_sig(here, SIGSEGV);
    }
    yield* trace.decide(fn, 'vsyscall_nr', spec.name);
    checkWrites(here, regs, spec);
    if (spec.name !== 'getcpu') {
      const why = `vsyscall ${spec.name}(): the time of day is not modelled`;
      throw new TaskDead({ kind: 'stopped', why, pc: regs.ip });
    }
    const done = yield* getcpu(here, regs);
    if (yield* trace.decide(fn, 'ret == -EFAULT', !done)) {
      warn_bad_vsyscall(here, KERN_INFO, regs, 'vsyscall fault (exploit attempt?)');
      return here.kernel.force_sig(here, SIGSEGV);
    }
    regs.ax = 0n;
    regs.ip = caller;
    regs.sp += 8n;
    return true;
  },
);
