/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 4: the kernel's own access to arena
 * memory that nobody allocated. The fault path asks here after the exception tables and KFENCE. The later
 * form with the return address as a hint is here too.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE } from '../../arch/kernel.js';
import { pageOf, u64 } from '../../emu/address.js';
import { type Delegate, type Path, port } from '../../emu/path.js';
import { apply_to_page_range } from '../../mm/pgtable_walk.js';
import type { BpfEnv } from '../env.js';
import { main_prog } from '../program.js';
import { __bpf_prog_report_arena_violation } from '../stream/report.js';
import { apply_range_set_scratch_cb } from './arena_ptes.js';

function* handle(
  here: ThisCpu,
  env: BpfEnv,
  addr: bigint,
  is_write: boolean,
  fault_ip: bigint,
  ret_ip?: bigint,
): Path<boolean> {
  const { trace } = here;
  const fn = 'bpf_arena_handle_page_fault';
  const page_addr = pageOf(addr);

  let prog = env.programs.bpf_prog_find_from_stack(here);
  yield* trace.decide(fn, 'bpf_prog_find_from_stack()', prog === null ? null : prog.aux.name);
  if (prog === null && ret_ip !== undefined) {
    // Programs live as long as their machine: the reference that is taken can always be had.
    const caller = ret_ip === 0n ? null : env.programs.bpf_prog_ksym_find(ret_ip);
    prog = caller === null ? null : main_prog(caller);
    yield* trace.decide(fn, 'ret_ip && bpf_prog_ksym_find(ret_ip)', prog === null ? null : prog.aux.name);
  }
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
}

/**
 * Backs the page of `addr` with the scratch page of the arena of the innermost BPF program on the stack,
 * and reports to that program. Allocates nothing, locks nothing.
 * @returns true when the instruction is to be tried again; that does not mean that anything was installed
 */
export const bpf_arena_handle_page_fault: (
  here: ThisCpu,
  env: BpfEnv,
  addr: bigint,
  is_write: boolean,
  fault_ip: bigint,
) => Delegate<boolean> = port('bpf_arena_handle_page_fault', ['env', 'addr', 'is_write', 'fault_ip'], handle);

/**
 * The same in a later kernel (L2): where the walk of the stack finds no program, the function that faulted
 * may be a leaf without a frame record, whose caller only the link register knows: `ret_ip`, 0n where
 * there is none.
 */
export const bpf_arena_handle_page_fault_hinted: (
  here: ThisCpu,
  env: BpfEnv,
  addr: bigint,
  is_write: boolean,
  fault_ip: bigint,
  ret_ip: bigint,
) => Delegate<boolean> = port(
  'bpf_arena_handle_page_fault',
  ['env', 'addr', 'is_write', 'fault_ip', 'ret_ip'],
  handle,
);
