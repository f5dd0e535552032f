/**
 * Kernel configuration that changes behaviour, as explicit data. Defaults are those of a distribution
 * kernel built from the modelled tree.
 */
export interface KernelConfig {
  /** CONFIG_KFENCE: off means the stage does not exist. */
  readonly KFENCE: boolean;
  /** CONFIG_BPF_SYSCALL: off leaves the stub of bpf_arena_handle_page_fault(), which is always false. */
  readonly BPF_SYSCALL: boolean;
  readonly VMAP_STACK: boolean;
  /** x86: which unwinder is built in. With `frame_pointer`, arch_bpf_stack_walk() visits nothing. */
  readonly UNWINDER: 'orc' | 'frame_pointer';
  /** CONFIG_MITIGATION_PAGE_TABLE_ISOLATION with PTI active: kernel entries lose the global bit. */
  readonly PTI: boolean;
  /** arm64: nG in kernel mappings (arm64_use_ng_mappings). */
  readonly KPTI: boolean;
  /** arm64: without it ptep_try_set() is the generic stub that never stores. */
  readonly ARM64_CONTPTE: boolean;
  /** arm64: hardware PAN; x86: SMAP. Feature of the CPU and used by the kernel. */
  readonly PAN: boolean;
  readonly SMAP: boolean;
  readonly SMEP: boolean;
  /** arm64: hardware update of the access flag (TCR_EL1.HA) and of the dirty state (HD). */
  readonly HA: boolean;
  readonly HD: boolean;
  readonly SMP: boolean;
  readonly panic_on_oops: boolean;
  /** utsname release and the first word of version, as the CPU line prints them. */
  readonly release: string;
  readonly version: string;
  /** The preemption model as the CPU line prints it. */
  readonly preempt: string;
}

export const DEFAULT_CONFIG: KernelConfig = {
  KFENCE: true,
  BPF_SYSCALL: true,
  VMAP_STACK: true,
  UNWINDER: 'orc',
  PTI: false,
  KPTI: false,
  ARM64_CONTPTE: true,
  PAN: true,
  SMAP: true,
  SMEP: true,
  HA: false,
  HD: false,
  SMP: true,
  panic_on_oops: false,
  release: '7.1.0-rc5',
  version: '#1',
  preempt: 'PREEMPT(full)',
};
