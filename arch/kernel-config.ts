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
  /** x86: protection keys of user pages (CR4.PKE), a feature of the CPU and used by the kernel. */
  readonly PKE: boolean;
  /** arm64: CONFIG_ARM64_SW_TTBR0_PAN in use; only without hardware PAN. */
  readonly SW_TTBR0_PAN: boolean;
  /** arm64: FEAT_E0PD used by the kernel (TCR_EL1.E0PD1): EL0 cannot walk the kernel's half. */
  readonly E0PD: boolean;
  /** x86: CONFIG_X86_KERNEL_IBT: images of BPF programs begin with endbr64. */
  readonly IBT: boolean;
  /** x86: the CPU has BMI2: the JIT shifts by shlx and its kin. */
  readonly BMI2: boolean;
  /** x86: CONFIG_MITIGATION_RETHUNK in use: images of BPF programs return through __x86_return_thunk(). */
  readonly RETHUNK: boolean;
  /** x86: CONFIG_MITIGATION_SLS: int3 behind the returns of BPF programs. */
  readonly SLS: boolean;
  /** arm64: CONFIG_ARM64_BTI_KERNEL: images of BPF programs begin with bti. */
  readonly BTI: boolean;
  /** arm64: CONFIG_ARM64_PTR_AUTH_KERNEL: images of BPF programs sign their return addresses. */
  readonly PAC: boolean;
  /** arm64: FEAT_LSE; without it the verifier refuses atomics on arena memory. */
  readonly LSE: boolean;
  /**
   * Which exception-table entries the JIT gives to atomics on arena memory: all those of stores, as at the
   * merge modelled, or by what they do, as later.
   */
  readonly bpf_atomics: 'merge' | 'later';
  /** CONFIG_KASAN (generic), as far as reports of faults show it. */
  readonly KASAN: boolean;
  /** debug_pagealloc is on, as far as reports of faults show it. */
  readonly DEBUG_PAGEALLOC: boolean;
  /** CONFIG_MODULES: off means no line with modules. */
  readonly MODULES: boolean;
  readonly SMP: boolean;
  /** x86: the boot parameter vsyscall=. */
  readonly vsyscall: 'emulate' | 'xonly' | 'none';
  /** Boot parameter no_hash_pointers: %p prints the pointer. */
  readonly no_hash_pointers: boolean;
  /** Sysctl debug.exception-trace; null is the architecture's default (x86 on, arm64 off). */
  readonly show_unhandled_signals: boolean | null;
  readonly panic_on_oops: boolean;
  /** Sysctls kernel.panic_on_warn and kernel.warn_limit (0 is no limit). */
  readonly panic_on_warn: boolean;
  readonly warn_limit: number;
  /** Boot parameters init_on_alloc and init_on_free. */
  readonly init_on_alloc: boolean;
  readonly init_on_free: boolean;
  /** Sysctl kernel.panic in seconds; 0 stays in panic(). */
  readonly panic_timeout: number;
  /** Sysctl kernel.oops_limit; 0 is no limit. */
  readonly oops_limit: number;
  /** What the line with modules lists: name and taint letters, e.g. `OE`. */
  readonly modules: readonly { readonly name: string; readonly flags: string }[];
  /** Letters of the taint flags that are set at boot, e.g. `OE`. */
  readonly taint: string;
  /** What reports call the hardware; null is the architecture's default. */
  readonly hardware: string | null;
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
  PKE: false,
  SW_TTBR0_PAN: false,
  E0PD: false,
  IBT: true,
  BMI2: true,
  RETHUNK: false,
  SLS: false,
  BTI: true,
  PAC: true,
  LSE: true,
  bpf_atomics: 'merge',
  KASAN: false,
  DEBUG_PAGEALLOC: false,
  MODULES: true,
  SMP: true,
  vsyscall: 'xonly',
  no_hash_pointers: false,
  show_unhandled_signals: null,
  panic_on_oops: false,
  panic_on_warn: false,
  warn_limit: 0,
  init_on_alloc: false,
  init_on_free: false,
  panic_timeout: 0,
  oops_limit: 10000,
  modules: [],
  taint: '',
  hardware: null,
  release: '7.1.0-rc5',
  version: '#1',
  preempt: 'PREEMPT(full)',
};
