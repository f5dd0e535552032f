/** Fixtures for tests: between them they have every expectation there is, on both architectures. */

export const ARCHES = ['x86-64', 'arm64'] as const;
type Arch = (typeof ARCHES)[number];

/** Code that runs and how it ends, KFENCE, texts. */
const X86 = `
name: everything at once
arch: x86-64
ram: 16MiB
limits: { refaults: 4 }
config: { PKE: true }
kfence: {}
caches: { c: { size: 32 } }
data: [{ symbol: secret, where: user, size: 4KiB, pkey: 1 }]
arenas: { a: { max_entries: 16, map_extra: 0x7f7d26200000 } }
programs: { prog: { arena: a } }
text:
  - symbol: main
    program: prog
    asm: |
      push rbp
      mov rbp, rsp
      call store
      leave
      ret
  - symbol: store
    asm: |
      push rbp
      mov rbp, rsp
      here:
      mov qword ptr [rdi], rsi
      pop rbp
      ret
  - symbol: bad
    asm: |
      mov rax, qword ptr [rdi]
      ret
  - symbol: halt
    asm: |
      hlt
  - symbol: user_load
    section: user
    asm: |
      mov rax, qword ptr [rdi]
steps:
  - call: main
    registers: { rdi: a.page(3) + 0x10, rsi: 0x4141 }
    expect:
      outcome: returned
      faults:
        - address: a.page(3) + 0x10
          error_code: X86_PF_WRITE
          access: write
          exception: "#PF"
          pc: store.here
          path: [exc_page_fault, kfence_handle_page_fault, bpf_arena_handle_page_fault]
          not: [die]
          decisions:
            - { test: "user_mode(regs)", value: false }
          resolved_by: scratch
          stream: |
            ERROR: Arena WRITE access at unmapped address 0x7f7d26203000
            ...
      registers: { rsi: 0x4141 }
      memory:
        - { at: a.page(3) + 0x10, u8: 0x41 }
        - { at: a.page(3) + 0x10, u16: 0x4141 }
        - { at: a.page(3) + 0x10, u32: 0x4141 }
        - { at: a.page(3) + 0x10, u64: 0x4141 }
        - { at: a.page(3) + 0x10, bytes: 41 41 00 }
      ptes:
        - { va: a.page(3), value: scratch(a) }
        - { va: a.page(4), value: none }
        - { va: store, value: page }
      arenas: { a: { pages: 0, scratched: 1, free: 16 } }
      taint: Not tainted
      console: []
      streams:
        prog:
          stdout: []
          stderr: |
            ERROR: Arena WRITE access at unmapped address 0x7f7d26203000
            ...
          dropped: 0
`;

const ARM64 = X86.replace('x86-64', 'arm64')
  .replace('config: { PKE: true }\n', '')
  .replace(', pkey: 1 }', ' }')
  .replace(/push rbp\n\s*mov rbp, rsp/g, 'stp x29, x30, [sp, #-16]!\n      mov x29, sp')
  .replace('call store\n      leave', 'blr x10\n      ldp x29, x30, [sp], #16')
  .replace('mov qword ptr [rdi], rsi\n      pop rbp', 'str x1, [x0]\n      ldp x29, x30, [sp], #16')
  .replaceAll('mov rax, qword ptr [rdi]', 'ldr x0, [x0]')
  .replace('hlt', 'wfi')
  .replace('rdi: a.page(3) + 0x10, rsi: 0x4141', 'x0: a.page(3) + 0x10, x1: 0x4141, x10: store')
  .replace('error_code: X86_PF_WRITE', 'esr: 0x96000047')
  .replace('"#PF"', 'Data Abort')
  .replace('exc_page_fault', 'do_mem_abort')
  .replace('rsi: 0x4141', 'x1: 0x4141');

/** What is said differently on the two sides. */
interface Words {
  /** First argument, and the second. */
  readonly argument: string;
  readonly value: string;
  /** Signal of an oops that kills the task. */
  readonly signal: string;
  readonly nullTitle: string;
  /** Distance of a CPU that waits for interrupts from the instruction, and what is said of it. */
  readonly halted: string;
  readonly why: string;
  readonly decision: string;
}

const WORDS: Readonly<Record<Arch, Words>> = {
  'x86-64': {
    argument: 'rdi',
    value: 'rsi',
    signal: 'SIGKILL',
    nullTitle: 'BUG: kernel NULL pointer dereference, address: 0000000000000000',
    halted: 'halt + 1',
    why: 'hlt: no interrupt will ever come',
    decision: '{ fn: page_fault_oops, test: "user_mode(regs)", value: false }',
  },
  arm64: {
    argument: 'x0',
    value: 'x1',
    signal: 'SIGSEGV',
    nullTitle: 'Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000',
    halted: 'halt',
    why: 'wfi',
    decision: '{ fn: do_bad_area, test: "user_mode(regs)", value: false }',
  },
};

/** A step that only one of them has: protection keys. */
const KEYS = {
  'x86-64': `  - user: user_load
    registers: { rdi: secret }
    raise: { exception: PF, error_code: X86_PF_PROT | X86_PF_USER | X86_PF_PK, address: secret }
    expect:
      outcome: { kind: signal, signo: SIGSEGV, code: SEGV_PKUERR, address: secret, pkey: 1 }
`,
  arm64: '',
} as const;

/** The same ending for both: other kinds of steps, and the other ways in which a run can end. */
const TAIL = (arch: Arch, { argument, value, signal, nullTitle, halted, why }: Words): string => `
  - call: main
    registers: { ${argument}: a.page(3), ${value}: 0, x10: store }
    expect: { faults: [] }
  - kfunc: bpf_arena_alloc_pages
    args: { map: a, addr: a.upage(5), page_cnt: 1 }
    expect: { ret: a.upage(5) }
  - read: { at: a.page(3) + 0x10, size: 2 }
    expect: { value: 0x4141 }
  - stream_read: { program: prog, length: 12 }
    expect: { ret: 12, text: "ERROR: Arena" }
  - check: { arenas: { a: { pages: 1 } } }
  - slab: kmem_cache_alloc
    args: { cache: c }
    allocations: [{ slot: 72, side: left }]
    expect:
      ret: kfence.slot(72)
      kfence:
        enabled: true
        allocated: 1
        allocs: 1
        frees: 0
        zombies: 0
        bugs: 0
        incompatible: 0
        capacity: 0
        covered: 0
        free: 254
        objects: { "72": { state: allocated, addr: kfence.object(72), unprotected_page: 0 } }
  - debugfs: kfence/stats
    expect:
      text: |
        enabled: 1
        ...
  - kfence: { sample_interval: 0 }
    expect: { ret: 0, console: "kfence: disabled" }
  - name: an entry that is neither none nor present is left alone, and the hook says retry
    pte: { va: a.page(9), value: 2 }
  - call: main
    registers: { ${argument}: a.page(9), x10: store }
    expect:
      outcome: { kind: livelock, address: a.page(9), pc: store.here, turns: 4 }
  - user: user_load
    registers: { ${argument}: 8 }
    expect:
      outcome: { kind: signal, signo: SIGSEGV, code: SEGV_MAPERR, address: 8 }
${KEYS[arch]}  - call: halt
    expect:
      outcome: { kind: stopped, pc: ${halted}, why: "${why}" }
  - call: bad
    registers: { ${argument}: 0x0 }
    expect:
      outcome: { kind: oops, title: "${nullTitle}", signo: ${signal} }
      faults: [{ resolved_by: oops }]
      console: |
        ${nullTitle}
        ...
expect:
  arenas: { a: { pages: 1, scratched: 1, free: 15 } }
`;

function runs(arch: Arch): string {
  const words = WORDS[arch];
  const body = (arch === 'arm64' ? ARM64 : X86).replace(
    '{ test: "user_mode(regs)", value: false }',
    words.decision,
  );
  const tail = TAIL(arch, words);
  return `${body}${arch === 'arm64' ? tail : tail.replaceAll(', x10: store', '')}`;
}

/** Arenas in their states, and programs in BPF text: one is run, one is refused. */
const ARENAS = `
name: arenas and programs
arch: x86-64
ram: 32MiB
arenas:
  a: { max_entries: 16, map_extra: 0x7f7d26200000 }
  late: { max_entries: 16, when: step }
  big: { max_entries: 0x100001, expect: -E2BIG }
programs:
  prog:
    arena: a
    bpf: |
      r1 = a.page(3) ll
      call store
      r0 = -2
      exit
  refused:
    bpf: |
      r0 = r5
      exit
    expect: { errno: -EACCES, log: "R5 !read_ok" }
text:
  - symbol: store
    asm: |
      push rbp
      mov rbp, rsp
      mov qword ptr [rdi], rdi
      pop rbp
      ret
  - symbol: user_store
    section: user
    asm: |
      mov qword ptr [rdi], rdi
      ret
steps:
  - test_run: prog
    expect:
      returns: 0xfffffffe
      path: [kfence_handle_page_fault, bpf_arena_handle_page_fault]
      not: [die]
      decisions:
        - { fn: kfence_handle_page_fault, test: "!is_kfence_address((void *)addr)", value: true }
      calls: { bpf_arena_handle_page_fault: 1 }
      tlb_flushes: []
      pages_taken: 0
      pages_freed: 0
  - mmap: { arena: a, addr: a.user }
    expect:
      ret: a.user
      arenas: { a: { mappings: 1, user_vm_start: a.user, user_vm_end: a.user + 16 * PAGE_SIZE } }
  - kfunc: bpf_arena_alloc_pages
    args: { map: a, addr: a.upage(5), page_cnt: 2 }
    expect: { ret: a.upage(5), pages_taken: 2 }
  - user: user_store
    registers: { rdi: a.upage(5) }
    expect:
      frames: [{ at: a.page(5), refs: 2, mapped: 1, owner: bpf arena }]
      same_page: [[a.page(5) + 8, a.upage(5) + 8]]
      in_use: { bpf arena: 2 }
  - kfunc: bpf_arena_free_pages_non_sleepable
    args: { map: a, ptr: a.upage(5), page_cnt: 2 }
    expect:
      arenas: { a: { ranges: 0-4 7-15, deferred: 5-6, queued: irq_work } }
  - kernel: run_deferred
    expect:
      tlb_flushes: [a.page(5), a.page(6), a.upage(5)]
      pages_freed: 2
      arenas: { a: { ranges: 0-15, deferred: none, queued: none } }
  - create: late
    expect: { ret: 0, arena_areas: 2 }
  - destroy: late
    expect: { arenas: { late: { exists: false } } }
expect:
  arenas: { a: { exists: true } }
`;

function arenas(arch: Arch): string {
  if (arch === 'x86-64') return ARENAS;
  return ARENAS.replace('x86-64', arch)
    .replace('push rbp\n      mov rbp, rsp', 'stp x29, x30, [sp, #-16]!\n      mov x29, sp')
    .replace('pop rbp', 'ldp x29, x30, [sp], #16')
    .replaceAll('mov qword ptr [rdi], rdi', 'str x0, [x0]')
    .replace('rdi: ', 'x0: ');
}

/** The fixtures of an architecture, by name. They have no bytes in front of their instructions. */
export function fixturesFor(arch: Arch): Readonly<Record<string, string>> {
  return { runs: runs(arch), arenas: arenas(arch) };
}
