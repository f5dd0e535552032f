/** A fixture as small as one that shows something: a load that faults and is fixed up. */
import type { ArchName } from './guest-code.js';

export const SMALL_FIXTURE: Readonly<Record<ArchName, string>> = {
  'x86-64': `name: a load from nowhere is fixed up
arch: x86-64
text:
  - symbol: load
    asm: |
      access:
      48 8b 07              mov rax, qword ptr [rdi]
      c3                    ret
      fixup:
      48 c7 c0 f2 ff ff ff  mov rax, -14
      c3                    ret
    extable:
      - { insn: access, type: DEFAULT, fixup: fixup }
steps:
  - call: load
    registers: { rdi: 0xffffc90001234000 }
    expect:
      outcome: returned
      faults:
        - { address: 0xffffc90001234000, error_code: 0, resolved_by: fixup }
      registers: { rax: 0xfffffffffffffff2 }
`,
  arm64: `name: a load from nowhere is fixed up
arch: arm64
text:
  - symbol: load
    asm: |
      access:
      f9400001  ldr x1, [x0]
      fixup:
      d65f03c0  ret
    extable:
      - { insn: access, type: KACCESS_ERR_ZERO, fixup: fixup, data: { err: x0, zero: x1 } }
steps:
  - call: load
    registers: { x0: 0xffff800123456000 }
    expect:
      outcome: returned
      faults:
        - { address: 0xffff800123456000, resolved_by: fixup }
      registers: { x0: 0xfffffffffffffff2, x1: 0 }
`,
};
