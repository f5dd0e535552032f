/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 4: the kernel's own access to arena
 * memory that nobody allocated. The fault path asks here after the exception tables and KFENCE.
 *
 * Left out: the later return-address hint (a fourth argument upstream).
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { u64 } from '../emu/address.js';
import { type Path, port } from '../emu/path.js';
import { apply_to_page_range } from '../mm/pgtable_walk.js';
import { apply_range_set_scratch_cb } from './arena_ptes.js';
import type { BpfEnv } from './env.js';
import { __bpf_prog_report_arena_violation } from './report.js';

const PAGE_MASK = 0xffff_ffff_ffff_f000n;

/**
 * Backs the page of `addr` with the scratch page of the arena of the innermost BPF program on the stack,
 * and reports to that program. Allocates nothing, locks nothing.
 * @returns true when the instruction is to be tried again; that does not mean that anything was installed
 */
export const bpf_arena_handle_page_fault = port(
  'bpf_arena_handle_page_fault',
  ['env', 'addr', 'is_write', 'fault_ip'],
  function* (here: ThisCpu, env: BpfEnv, addr: bigint, is_write: boolean, fault_ip: bigint): Path<boolean> {
    const { trace } = here;
    const fn = 'bpf_arena_handle_page_fault';
    const page_addr = u64(addr & PAGE_MASK);

    const prog = env.programs.bpf_prog_find_from_stack(here);
    yield* trace.decide(fn, 'bpf_prog_find_from_stack()', prog === null ? null : prog.aux.name);
    if (prog === null) return false;

    const { arena } = prog.aux;
    yield* trace.decide(fn, 'prog->aux->arena', arena === null ? null : arena.map.name);
    if (arena === null) return false;

    const outside = page_addr < arena.kern_vm_start || page_addr >= arena.recovery_end;
    if (yield* trace.decide(fn, 'page_addr < kbase || page_addr >= kbase + SZ_4G + GUARD_SZ / 2', outside)) {
      return false;
    }

    const { memory } = env;
    yield* apply_to_page_range(
      here,
      memory,
      memory.init_mm,
      page_addr,
      PAGE_SIZE,
      apply_range_set_scratch_cb,
      arena.scratch,
    );
    const offset = u64(page_addr - arena.kern_vm_start);
    yield* __bpf_prog_report_arena_violation(here, env, prog, is_write, offset, fault_ip, 'kernel');
    return true;
  },
);
