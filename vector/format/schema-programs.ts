/** What a fixture says about BPF programs: from native code or from BPF instructions, and how they are run. */
import { z } from 'zod';
import { expressionOf, name } from './schema-values.js';

/** What the verifier knows about 8 bytes of a program's context: PTR_TO_* in words. */
export const ARG_KINDS = ['scalar', 'btf_id', 'trusted', 'mem', 'rdonly_untrusted_mem'] as const;

const lines = z
  .array(
    z.strictObject({
      at: expressionOf('Label in its code from which the line counts.'),
      file: z.string().describe('Source file; folders are not printed.'),
      line: z.int().min(0).max(4_194_303).describe('Line number.'),
      text: z.string().describe('The source line.'),
    }),
  )
  .optional()
  .describe('Native code: source lines for stack dumps. BPF text has its own (`; text @ file:line`).');

export const program = z
  .strictObject({
    arena: z.string().optional().describe('The arena it uses.'),
    tag: z
      .string()
      .regex(/^[0-9a-f]{16}$/, { error: 'a tag is 16 lower-case hexadecimal digits' })
      .optional()
      .describe(
        'Tag in its symbol, bpf_prog_<tag>_<name>. If left out: of native code a hash of the image, of BPF text the ' +
          "kernel's.",
      ),
    subprogram_of: z.string().optional().describe('The main program that it belongs to.'),
    lines,
    bpf: z
      .string()
      .optional()
      .describe(
        "BPF instructions, one per line, in the syntax of LLVM's assembler and of the verifier's log: `r1 = 5`, `r2 = " +
          '*(u32 *)(r1 + 8)`, `r1 = map[a]`, `call bpf_arena_alloc_pages`, `exit`. The program is verified, compiled and ' +
          'loaded; its name is the address of its image.',
      ),
    sleepable: z
      .boolean()
      .optional()
      .describe(
        'BPF text: false for a program that cannot sleep (SEC("socket") and the like); true if left out.',
      ),
    args: z
      .array(z.enum(ARG_KINDS))
      .max(16)
      .optional()
      .describe(
        'BPF text: what the verifier knows of each 8 bytes of the context that R1 points to; scalar if left out.',
      ),
    expect: z
      .strictObject({
        errno: expressionOf('The errno of BPF_PROG_LOAD, e.g. -EINVAL.').optional(),
        log: z.string().min(1).optional().describe("Text that is in the verifier's message."),
      })
      .optional()
      .describe('BPF text: the verifier refuses the program.'),
  })
  .describe('A BPF program.');

export const structOps = z
  .strictObject({
    type: name.describe('Name of the struct, as in the symbols bpf__<type>_<member>.'),
    members: z
      .record(name, z.string())
      .describe('Members in the order of the struct, and the program of each.'),
    args: z
      .record(name, z.int().min(0).max(12))
      .optional()
      .describe('Number of arguments of a member; 1 if left out.'),
    returns: z.array(name).optional().describe('Members that return a value; none if left out.'),
  })
  .describe('A struct_ops map that is registered: a trampoline for each member.');

export const testRunShape = {
  test_run: z.string().describe('Name of the program.'),
  ctx: expressionOf(
    'Address of the context in kernel memory, which R1 gets; 0 (no context) if left out.',
  ).optional(),
};

export type ProgramData = z.output<typeof program>;
export type StructOpsData = z.output<typeof structOps>;
