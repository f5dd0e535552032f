/** The fixture format: one behaviour per file. The published JSON Schema is made from this. */
import { z } from 'zod';
import { arena } from './schema-arena.js';
import { stateExpect } from './schema-expect.js';
import { cache, kfence } from './schema-kfence.js';
import { program, structOps } from './schema-programs.js';
import { step } from './schema-steps.js';
import { expression, expressionOf, hexBytes, level, NAME, name, size } from './schema-values.js';

/** Page sizes of arm64. One of them is modelled. */
export const GRANULES = ['4KiB', '16KiB', '64KiB'] as const;

const config = z
  .strictObject({
    KFENCE: z.boolean().describe('CONFIG_KFENCE.'),
    BPF_SYSCALL: z
      .boolean()
      .describe('CONFIG_BPF_SYSCALL; off leaves the stub of bpf_arena_handle_page_fault().'),
    VMAP_STACK: z.boolean().describe('CONFIG_VMAP_STACK.'),
    UNWINDER: z.enum(['orc', 'frame_pointer']).describe('x86-64: CONFIG_UNWINDER_*.'),
    PTI: z.boolean().describe('x86-64: page-table isolation is on.'),
    KPTI: z.boolean().describe('arm64: kernel mappings are not global.'),
    ARM64_CONTPTE: z
      .boolean()
      .describe('arm64: CONFIG_ARM64_CONTPTE; off leaves the stub of ptep_try_set().'),
    PAN: z.boolean().describe('arm64: PAN.'),
    SMAP: z.boolean().describe('x86-64: SMAP.'),
    SMEP: z.boolean().describe('x86-64: SMEP.'),
    HA: z.boolean().describe('arm64: hardware sets the access flag.'),
    HD: z.boolean().describe('arm64: hardware manages the dirty state.'),
    PKE: z.boolean().describe('x86-64: protection keys of user pages.'),
    SW_TTBR0_PAN: z.boolean().describe('arm64: CONFIG_ARM64_SW_TTBR0_PAN in use; only without hardware PAN.'),
    E0PD: z.boolean().describe("arm64: EL0 cannot walk the kernel's half."),
    IBT: z
      .boolean()
      .describe('x86-64: CONFIG_X86_KERNEL_IBT: BPF images begin with endbr64. On if left out.'),
    BMI2: z.boolean().describe('x86-64: the JIT shifts by shlx and its kin. On if left out.'),
    RETHUNK: z.boolean().describe('x86-64: BPF images return through __x86_return_thunk().'),
    SLS: z.boolean().describe('x86-64: CONFIG_MITIGATION_SLS: int3 behind the returns of BPF images.'),
    BTI: z.boolean().describe('arm64: CONFIG_ARM64_BTI_KERNEL: BPF images begin with bti. On if left out.'),
    PAC: z.boolean().describe('arm64: CONFIG_ARM64_PTR_AUTH_KERNEL: paciasp in BPF images. On if left out.'),
    LSE: z.boolean().describe('arm64: FEAT_LSE, which atomics on arena memory need. On if left out.'),
    bpf_atomics: z
      .enum(['merge', 'later'])
      .describe(
        'Exception-table entries of atomics on arena memory: merge (if left out) makes all of them stores, later goes ' +
          'by what they do.',
      ),
    KASAN: z.boolean().describe('CONFIG_KASAN, as far as reports of faults show it.'),
    DEBUG_PAGEALLOC: z.boolean().describe('debug_pagealloc, as far as reports of faults show it.'),
    MODULES: z.boolean().describe('CONFIG_MODULES; off means no line with modules.'),
    SMP: z.boolean().describe('CONFIG_SMP.'),
    granule: z.enum(GRANULES).describe('arm64: size of a page. Only 4KiB is modelled.'),
    vsyscall: z.enum(['emulate', 'xonly', 'none']).describe('x86-64: boot parameter vsyscall=.'),
    no_hash_pointers: z.boolean().describe('Boot parameter no_hash_pointers.'),
    show_unhandled_signals: z
      .boolean()
      .describe(
        "Sysctl debug.exception-trace; the architecture's default if left out (x86-64 on, arm64 off).",
      ),
    panic_on_oops: z.boolean().describe('Sysctl kernel.panic_on_oops.'),
    panic_on_warn: z.boolean().describe('Sysctl kernel.panic_on_warn.'),
    warn_limit: z.int().min(0).max(1_000_000).describe('Sysctl kernel.warn_limit; 0 is no limit.'),
    init_on_alloc: z.boolean().describe('Boot parameter init_on_alloc.'),
    init_on_free: z.boolean().describe('Boot parameter init_on_free.'),
    panic_timeout: z.int().min(-1).max(1_000_000).describe('Sysctl kernel.panic, in seconds.'),
    oops_limit: z.int().min(0).max(1_000_000).describe('Sysctl kernel.oops_limit; 0 is no limit.'),
    modules: z
      .array(
        z.strictObject({
          name: z.string().min(1).max(56).describe('Name of the module.'),
          flags: z
            .string()
            .regex(/^[A-Z]*[+-]?$/, {
              error: 'flags are taint letters, then + or - for one that comes or goes',
            })
            .default('')
            .describe('Its taint letters, e.g. OE; none if left out.'),
        }),
      )
      .describe('Modules that the line with modules names, in this order.'),
    taint: z
      .string()
      .regex(/^[PFSRMBUDAWCIOELKXTNJ]*$/, { error: 'taint is letters of the flags, e.g. "OE"' })
      .describe('Taint flags that are set at boot.'),
    arena: z
      .enum(['v4', 'L1', 'L2'])
      .describe(
        'Which kernel/bpf/arena.c: v4 (if left out), L1 (later: an allocation replaces a scratch page), L2 (later: the ' +
          'return address of a leaf function is looked at, too).',
      ),
    jit_supports_arena: z.boolean().describe('bpf_jit_supports_arena(); true if left out.'),
    hardware: z
      .string()
      .describe(
        "What reports call the hardware; the architecture's default if left out, no such line if empty.",
      ),
    release: z.string().describe('utsname release.'),
    version: z.string().describe('First word of the utsname version.'),
    preempt: z.string().describe('Preemption model as the CPU line prints it.'),
  })
  .partial()
  .describe('Kernel configuration, where it differs from that of a distribution kernel.');

const limits = z
  .strictObject({
    instructions: z.int().min(1).max(1_000_000_000).describe('Instructions of one step.'),
    milliseconds: z.int().min(1).max(600_000).describe('Wall-clock time of one step.'),
    refaults: z.int().min(2).max(100_000).describe('Faults without progress before it is a livelock.'),
  })
  .partial()
  .describe('When code that does not end is stopped.');

const pid = z.int().min(0).max(4_194_304);
const task = z
  .strictObject({
    comm: z.string().max(15).describe('Name; the kernel keeps 15 characters.'),
    pid: z
      .union([pid, z.array(pid).min(1).max(8)], {
        error: 'a process id is wanted here, or a list of them, one for each CPU',
      })
      .describe("Process id; CPU 1's task has the next one. A list says it of each CPU."),
    uid: z.int().min(0).max(4_294_967_295).describe('Effective user id.'),
    kthread: z
      .boolean()
      .describe('It is a kernel thread: current->mm is NULL, although the fixture declares user memory.'),
    borrows_mm: z
      .boolean()
      .describe('A kernel thread that runs on the tables of the user address space: active_mm.'),
    signal_pending: z
      .enum(['none', 'signal', 'fatal'])
      .describe('A signal that waits for it; fatal: one that will kill it.'),
    mmap_lock: z
      .enum(['free', 'held'])
      .describe('held: somebody else holds the mmap lock for writing, until somebody waits for it.'),
  })
  .partial()
  .describe('The task that runs the code: current.');

const extable = z
  .strictObject({
    insn: expressionOf('Label of the instruction that may fault.'),
    type: z.string().describe('Type without its prefix EX_TYPE_: BPF, UACCESS, DEFAULT, KACCESS_ERR_ZERO, …'),
    fixup: expressionOf('Label to go on at; not used by BPF.').optional(),
    clear: z.string().optional().describe('BPF: register to clear, for a load. Left out for a store.'),
    arena: z
      .strictObject({
        register: z.string().describe('Register that holds the 32-bit arena address.'),
        offset: z.int().min(-32768).max(32767).describe('Offset of the instruction, 16 bits signed.'),
      })
      .optional()
      .describe('BPF: the access is to arena memory.'),
    data: z
      .record(z.string(), z.union([z.string(), z.int()]).transform(String))
      .optional()
      .describe('Other data of the type, e.g. { err: x0, zero: x1 } or { reg: rax, imm: -14 }.'),
  })
  .describe('An exception-table entry.');

const text = z
  .strictObject({
    symbol: name.describe('Name of the function.'),
    program: z.string().optional().describe('The BPF program whose image this is; kernel text if left out.'),
    section: z.enum(['kernel', 'user']).optional().describe('kernel if left out.'),
    at: expressionOf('section user: address, page aligned. Chosen if left out.').optional(),
    asm: z
      .string()
      .describe(
        'One instruction or label (`loop:`) per line; Intel syntax on x86-64. A line may carry its bytes in front, ' +
          'as objdump prints them: then the bytes count and the text is checked. `kfault fmt` writes them.',
      ),
    extable: z.array(extable).optional().describe('Exception-table entries of its instructions.'),
  })
  .describe('A function.');

/** Protections of data. */
export const PROTS = ['rw', 'ro', 'rx', 'rwx', 'r', 'none'] as const;

/** What handle_mm_fault() can be made to answer. */
export const FAULTS = ['sigbus', 'oom', 'sigsegv', 'hwpoison', 'retry', 'retry_major', 'completed'] as const;

const data = z
  .strictObject({
    symbol: name.describe('Name of its first byte.'),
    size: size.optional().describe('Bytes, e.g. 64 or 4KiB; as much as is given if left out.'),
    bytes: hexBytes.optional(),
    words: z.array(expression).optional().describe('64-bit words from the start.'),
    where: z
      .enum(['vmalloc', 'linear', 'user'])
      .optional()
      .describe('vmalloc area (if left out), direct map, or user memory.'),
    prot: z
      .enum(PROTS)
      .optional()
      .describe('rw if left out. none: PROT_NONE. none and r (the same as ro) are for user memory.'),
    at: expressionOf('Address, page aligned. Chosen if left out.').optional(),
    populate: z
      .boolean()
      .optional()
      .describe(
        'user: false maps the range as mmap() does, and its pages come with the first touch. true if left out, ' +
          'unless the key fault is there.',
      ),
    grows_down: z.boolean().optional().describe('user: a stack, which grows down to where it is touched.'),
    pkey: z.int().min(0).max(15).optional().describe('user, x86-64: protection key of its pages.'),
    fault: z
      .enum(FAULTS)
      .optional()
      .describe(
        'user: what handle_mm_fault() answers for it. retry, retry_major: once, and then as usual. completed: ' +
          'the page is mapped and the lock is gone.',
      ),
    write_locked: z
      .boolean()
      .optional()
      .describe('user: somebody writes to the mapping, so that its own lock cannot be had.'),
  })
  .describe('Pages with data in them.');

const pte = z
  .strictObject({
    va: expressionOf('Virtual address that the entry translates.'),
    level: level.optional(),
    value: expressionOf('The entry.'),
    cpu: z.int().min(0).max(7).optional().describe('CPU whose tables are meant; 0 if left out.'),
  })
  .describe('A page-table entry stored before the first step.');

const consoleFormat = z
  .strictObject({
    levels: z.boolean().describe('`<N>` in front of each line.'),
    time: z.boolean().describe('`[%5lu.%06lu]`, as with printk.time=1.'),
    caller: z.boolean().describe('`[%6s]`, as with CONFIG_PRINTK_CALLER=y.'),
  })
  .partial()
  .describe('How the lines of the kernel log are written in expectations. Without it: plain.');

export const fixture = z
  .strictObject({
    name: z
      .string()
      .min(1, { error: 'the name is empty' })
      .max(200)
      .describe('The behaviour, in one sentence.'),
    description: z.string().optional().describe('Anything else worth knowing.'),
    arch: z.enum(['x86-64', 'arm64']).describe('Architecture.'),
    ram: size.optional().describe('Size of the ram, e.g. 128MiB; enough for a few arenas if left out.'),
    cpus: z.int().min(1).max(8).optional().describe('CPUs; 1 if left out.'),
    config: config.optional(),
    limits: limits.optional(),
    task: task.optional(),
    console: consoleFormat.optional(),
    clock: z
      .number()
      .min(0)
      .optional()
      .describe(
        'Seconds since boot at the first step, e.g. 12.345678; 0 if left out. The clock stands still.',
      ),
    covers: z
      .array(
        z.string().regex(/^(x86|arm64|kfence|kfence-kunit|arena|race|sched-ext|selftest)\/[1-9][0-9]*$/, {
          error: 'a row is like x86/13: table and number',
        }),
      )
      .optional()
      .describe('Rows of the tables of cases in docs/coverage.md that this fixture shows.'),
    kfence: kfence.optional(),
    caches: z.record(name, cache).optional().describe('Caches of objects by name; they need the key kfence.'),
    arenas: z.record(name, arena).optional().describe('Arenas by name, created in this order.'),
    programs: z.record(name, program).optional().describe('BPF programs by name.'),
    struct_ops: z.record(name, structOps).optional().describe('struct_ops maps by name.'),
    text: z.array(text).optional().describe('Functions.'),
    data: z.array(data).optional().describe('Data.'),
    ptes: z.array(pte).optional().describe('Page-table entries stored before the first step.'),
    steps: z
      .array(step)
      .min(1, { error: 'a fixture has at least one step' })
      .describe('What happens, in order.'),
    expect: stateExpect
      .optional()
      .describe('What must hold at the end. Console and streams: of the whole run.'),
  })
  .describe('A kfault fixture: code, page tables and what the kernel makes of them.');

export type FixtureData = z.output<typeof fixture>;
export type { ProgramData } from './schema-programs.js';
export type TextData = z.output<typeof text>;
export type DataData = z.output<typeof data>;
export type ExtableData = z.output<typeof extable>;

export { NAME };

/** The JSON Schema (draft 2020-12) of a fixture, for editors. */
export function jsonSchema(): Record<string, unknown> {
  const schema = z.toJSONSchema(fixture, { io: 'input', target: 'draft-2020-12' });
  return { ...schema, title: 'kfault fixture' };
}
