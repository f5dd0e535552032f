/**
 * The BPF side of the services that architecture code calls (arch/kernel.ts), as
 * include/linux/bpf_defs.h declares them: with CONFIG_BPF_SYSCALL the real functions, without it stubs.
 */
import type { Kernel } from '../arch/kernel.js';
import type { KernelConfig } from '../arch/kernel-config.js';
import { bpf_arena_handle_page_fault, bpf_arena_handle_page_fault_hinted } from './arena/arena_fault.js';
import type { BpfEnv } from './env.js';
import { bpf_prog_report_arena_violation } from './stream/report.js';

export type BpfHooks = Pick<
  Kernel,
  'bpf_arena_handle_page_fault' | 'bpf_prog_report_arena_violation' | 'is_bpf_text_address'
>;

/** Ready to be spread into the kernel of a machine. */
export function bpfHooks(env: BpfEnv, config: KernelConfig): BpfHooks {
  const { programs } = env;
  const is_bpf_text_address = (address: bigint) => programs.is_bpf_text_address(address);
  if (!config.BPF_SYSCALL) {
    return {
      bpf_arena_handle_page_fault: (here) =>
        here.trace.decide('bpf_arena_handle_page_fault', 'IS_ENABLED(CONFIG_BPF_SYSCALL)', false),
      bpf_prog_report_arena_violation: () => [],
      is_bpf_text_address,
    };
  }
  return {
    bpf_arena_handle_page_fault: (here, addr, is_write, fault_ip, ret_ip) =>
      env.variant === 'L2'
        ? bpf_arena_handle_page_fault_hinted(here, env, addr, is_write, fault_ip, ret_ip ?? 0n)
        : bpf_arena_handle_page_fault(here, env, addr, is_write, fault_ip),
    bpf_prog_report_arena_violation: (here, write, addr, fault_ip) =>
      bpf_prog_report_arena_violation(here, env, write, addr, fault_ip),
    is_bpf_text_address,
  };
}
