/** `kfault debug` in a real terminal: keys go in, and what the screen then shows is compared, row by row. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Key, type Played, play, Screen, type Size } from './terminal-testing.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'cli', 'kfault.mjs');
const folder = mkdtempSync(join(tmpdir(), 'kfault-terminal-'));

beforeAll(() => {
  if (!existsSync(join(root, 'dist', 'bundle-paths', 'main.js'))) {
    throw new Error('these tests run the compiled command: npm run build first');
  }
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

type Isa = 'x86-64' | 'arm64';

/** A program that writes to an arena page which nobody has allocated; then code that spins on one instruction. */
const FIXTURES: Readonly<Record<Isa, string>> = {
  'x86-64': `name: a page is scratched, and a loop spins
arch: x86-64
ram: 24MiB
limits: { instructions: 1000000000, milliseconds: 100000 }
arenas: { a: { max_entries: 64, map_extra: 0x7f7d26200000 } }
programs: { demo: { arena: a } }
text:
  - symbol: demo_main
    program: demo
    asm: |
      55        push rbp
      48 89 e5  mov rbp, rsp
      store: 89 37  mov dword ptr [rdi], esi
      c9        leave
      c3        ret
  - symbol: spin
    asm: |
      again: eb fe  jmp again
steps:
  - { call: demo_main, registers: { rdi: a.page(3), rsi: 0x1234 } }
  - { call: spin }
`,
  arm64: `name: a page is scratched, and a loop spins
arch: arm64
ram: 24MiB
limits: { instructions: 1000000000, milliseconds: 100000 }
arenas: { a: { max_entries: 64, map_extra: 0x7f7d26200000 } }
programs: { demo: { arena: a } }
text:
  - symbol: demo_main
    program: demo
    asm: |
      a9bf7bfd  stp x29, x30, [sp, #-16]!
      910003fd  mov x29, sp
      store: b9000001  str w1, [x0]
      a8c17bfd  ldp x29, x30, [sp], #16
      d65f03c0  ret
  - symbol: spin
    asm: |
      again: 14000000  b again
steps:
  - { call: demo_main, registers: { x0: a.page(3), x1: 0x1234 } }
  - { call: spin }
`,
};

const WIDE: Size = [80, 44];
const NARROW: Size = [40, 44];

/** The prompt below at least one line that was printed. */
const ANSWER = '\n[\\s\\S]*\\(kfault\\) \u001b\\[10G';
const UP = '\u001b[A';
const CTRL = { a: '\u0001', c: '\u0003', d: '\u0004', e: '\u0005' } as const;

/** Up to the end of the wide screen. */
const WIDE_KEYS: readonly Key[] = [
  ['', '\\(kfault\\) '],
  ['stepi\r', ANSWER],
  // An empty line does it again.
  ['\r', ANSWER],
  ['info prog', 'prog'],
  ['\t', 'ram '],
  ['\r', ANSWER],
  ['echo later\r', ANSWER],
  // The line before that one, from the history.
  [`${UP}${UP}`, 'info program'],
  ['\r', ANSWER],
  // Tab: what is the only one is ended with a blank, else a second Tab lists.
  ['cat\t', 'catch '],
  ['f\t', 'fault '],
  ['\r', ANSWER],
  ['c\r', ANSWER],
  ['x/4xg a.\t\t', 'map[\\s\\S]*\\(kfault\\) x/4xg a'],
  [CTRL.c, ANSWER],
  // Into the middle of the line, and to its end.
  ['tep', 'tep'],
  [`${CTRL.a}s${CTRL.e} 2`, '2'],
  ['\r', ANSWER],
  // Pasted: each line runs at its prompt.
  ['echo one\rfoo\recho three\r', `three\r${ANSWER}`],
];

/** From there on, in a narrow terminal. */
const NARROW_KEYS: readonly Key[] = [
  [NARROW, '\\(kfault\\) '],
  ['path\r', ANSWER],
  ['walk\r', ANSWER],
  ['bt\r', ANSWER],
  ['pte\r', ANSWER],
  ['ff\r', ANSWER],
  ['tcatch step 2\r', ANSWER],
  ['c\r', ANSWER],
  // Answered only when it has been interrupted: it spins.
  ['continue\r', 'continue'],
  [CTRL.c, ANSWER],
  ['frame\r', ANSWER],
  ['echo nothing', 'nothing'],
  [CTRL.c, ANSWER],
];

/** How it is ended, and the exit status. */
const ENDS: Readonly<Record<Isa, readonly [Key, number]>> = {
  'x86-64': [['quit 5\r', null], 5],
  arm64: [[CTRL.d, null], 0],
};

/** What is seen at the end of the wide part. */
const WIDE_SCREENS: Readonly<Record<Isa, string>> = {
  'x86-64': `
a page is scratched, and a loop spins (x86-64)
\`help\` says what there is to do; Ctrl-D ends it.
At the start: no step of the fixture has run.
Next: step 1, call demo_main (line 20)
(kfault) stepi
=> 0xffffffffc0000000 <bpf_prog_0bfdfcb6ef8d7d57_demo+0x0/0x8>: push rbp
(kfault)
=> 0xffffffffc0000001 <bpf_prog_0bfdfcb6ef8d7d57_demo+0x1/0x8>: mov rbp, rsp
(kfault) info program
Tick 3, behind 1 instruction, in guest code.
CPU 0 of 1, task kfault with pid 100, in kernel mode.
Step: step 1, call demo_main (line 20)
(kfault) echo later
later
(kfault) info program
Tick 3, behind 1 instruction, in guest code.
CPU 0 of 1, task kfault with pid 100, in kernel mode.
Step: step 1, call demo_main (line 20)
(kfault) catch fault
Catchpoint 1: any fault
(kfault) c
Catchpoint 1: #PF at 0xffffffffc0000004
  <bpf_prog_0bfdfcb6ef8d7d57_demo+0x4/0x8>: write of 0xffffc90026210000
  <a.page(3)>, code 0x2
in exc_page_fault
(kfault) x/4xg a.
a.page(     a.upage(    a.kern      a.kern_vm   a.user      a.user_end
a.guard     a.end       a.scratch   a.map

(kfault) x/4xg a.^C
(kfault) step 2
exc_page_fault: kvm_handle_async_pf(regs, (u32)address) → false
handle_page_fault: kmmio_fault(regs, address) → false
in handle_page_fault <- exc_page_fault
(kfault) echo one
one
(kfault) foo
Undefined command: "foo".  Try "help".
(kfault) echo three
three
(kfault)`,
  arm64: `
a page is scratched, and a loop spins (arm64)
\`help\` says what there is to do; Ctrl-D ends it.
At the start: no step of the fixture has run.
Next: step 1, call demo_main (line 20)
(kfault) stepi
=> 0xffff800081000000 <bpf_prog_c0c15676a312274f_demo+0x0/0x14>: stp x29, x30,
     [sp, #-0x10]!
(kfault)
=> 0xffff800081000004 <bpf_prog_c0c15676a312274f_demo+0x4/0x14>: mov x29, sp
(kfault) info program
Tick 3, behind 1 instruction, in guest code.
CPU 0 of 1, task kfault with pid 100, in kernel mode.
Step: step 1, call demo_main (line 20)
(kfault) echo later
later
(kfault) info program
Tick 3, behind 1 instruction, in guest code.
CPU 0 of 1, task kfault with pid 100, in kernel mode.
Step: step 1, call demo_main (line 20)
(kfault) catch fault
Catchpoint 1: any fault
(kfault) c
Catchpoint 1: Data Abort at 0xffff800081000008
  <bpf_prog_c0c15676a312274f_demo+0x8/0x14>: write of 0xffff8000a8210000
  <a.page(3)>, code 0x96000047
in el1h_64_sync_handler
(kfault) x/4xg a.
a.page(     a.upage(    a.kern      a.kern_vm   a.user      a.user_end
a.guard     a.end       a.scratch   a.map

(kfault) x/4xg a.^C
(kfault) step 2
el1h_64_sync_handler: ESR_ELx_EC(esr) → 0x25
do_translation_fault: is_ttbr0_addr(addr) → false
in do_translation_fault <- do_mem_abort <- el1_abort <- 1 more (bt)
(kfault) echo one
one
(kfault) foo
Undefined command: "foo".  Try "help".
(kfault) echo three
three
(kfault)`,
};

/** What is seen at the end. */
const NARROW_SCREENS: Readonly<Record<Isa, string>> = {
  'x86-64': `
    6ef8d7d57_demo+0x4/0x8
#3  ffffffff8100001a in
    ret_from_fork_asm+0x1a/0x30
(kfault) pte
PTE[16] of ffffc90026210000 <a.page(3)>
    at 0x144080 = 0000000000000000
  P=0: not present
(kfault) ff
demo stderr| ERROR: Arena WRITE access a
t unmapped address 0x7f7d26203000
demo stderr| CPU: 0 UID: 0 PID: 100 Comm
: kfault
demo stderr| Call trace:
demo stderr| bpf_stream_stage_dump_stack
+0xb0/0xd0
demo stderr| bpf_arena_handle_page_fault
+0xd4/0x140
demo stderr| page_fault_oops+0x92/0x2d0
demo stderr| … 5 more lines (streams)
Fault resolved (retry): goes on at
  0xffffffffc0000004 <bpf_prog_0bfdfcb6e
  f8d7d57_demo+0x4/0x8>
=> 0xffffffffc0000004 <bpf_prog_0bfdfcb6
     ef8d7d57_demo+0x4/0x8>: mov dword
     ptr [rdi], esi
(kfault) tcatch step 2
Temporary catchpoint 2: step 2 of the
  fixture
(kfault) c
Catchpoint 2: a step begins.
Now: step 2, call spin (line 21)
(kfault) continue
Interrupted.
=> 0xffffffff81100000 <spin+0x0/0x2>:
     jmp 0xffffffff81100000
     <spin+0x0/0x2>
(kfault) frame
Interrupted.
=> 0xffffffff81100000 <spin+0x0/0x2>:
     jmp 0xffffffff81100000
     <spin+0x0/0x2>
(kfault) echo nothing^C
(kfault) quit 5`,
  arm64: `
#4  ffff800081000008 in bpf_prog_c0c1567
    6a312274f_demo+0x8/0x14
#5  ffff800080000010 in
    ret_from_fork+0x10/0x20
(kfault) pte
PTE[16] of ffff8000a8210000 <a.page(3)>
    at 0x4014d080 = 0000000000000000
  invalid: bit 0 = 0
(kfault) ff
demo stderr| ERROR: Arena WRITE access a
t unmapped address 0x7f7d26203000
demo stderr| CPU: 0 UID: 0 PID: 100 Comm
: kfault
demo stderr| Call trace:
demo stderr| bpf_stream_stage_dump_stack
+0xc0/0x150
demo stderr| bpf_arena_handle_page_fault
+0xd8/0x148
demo stderr| __do_kernel_fault+0xf4/0x18
8
demo stderr| … 9 more lines (streams)
Fault resolved (retry): goes on at
  0xffff800081000008 <bpf_prog_c0c15676a
  312274f_demo+0x8/0x14>
=> 0xffff800081000008 <bpf_prog_c0c15676
     a312274f_demo+0x8/0x14>: str w1,
     [x0]
(kfault) tcatch step 2
Temporary catchpoint 2: step 2 of the
  fixture
(kfault) c
Catchpoint 2: a step begins.
Now: step 2, call spin (line 21)
(kfault) continue
Interrupted.
=> 0xffff800080100000 <spin+0x0/0x4>: b
     #0xffff800080100000 <spin+0x0/0x4>
(kfault) frame
Interrupted.
=> 0xffff800080100000 <spin+0x0/0x4>: b
     #0xffff800080100000 <spin+0x0/0x4>
(kfault) echo nothing^C
(kfault) quit`,
};

/** Beginnings of rows whose colours are looked at. */
const LOOKS = ['=> ', 'in do_translation_fault', 'Undefined'] as const;

/** How they look, a letter for each character below it: see Screen.looks(). */
const ARM64_LOOKS = `
=> 0xffff800081000000 <bpf_prog_c0c15676a312274f_demo+0x0/0x14>: stp x29, x30,
YY............................................................................
in do_translation_fault <- do_mem_abort <- el1_abort <- 1 more (bt)
ddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
Undefined command: "foo".  Try "help".
rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr
=> 0xffff800081000008 <bpf_prog_c0c15676
YY......................................
demo stderr| Call trace:
ddddddddddddd...........`;

/** The rows of a picture. */
function rowsOf(picture: string): string[] {
  return picture.split('\n').slice(1);
}

function played(isa: Isa): Played {
  const file = join(folder, `${isa}.yaml`);
  writeFileSync(file, FIXTURES[isa]);
  const keys = [...WIDE_KEYS, ...NARROW_KEYS, ENDS[isa][0]];
  // One of the two has colours.
  const colours = { FORCE_COLOR: undefined, NO_COLOR: isa === 'arm64' ? undefined : '1' };
  return play([process.execPath, bin, 'debug', file], WIDE, keys, {
    ...process.env,
    ...colours,
    TERM: 'xterm',
    KFAULT_HISTORY: '',
  });
}

const ESCAPE = '\u001b';
const COLOUR = new RegExp(`${ESCAPE}\\[[0-9;]*m`);
const CONTROL = new RegExp(`${ESCAPE}\\[[0-9;]*[A-Za-z]`, 'g');

describe.each(['x86-64', 'arm64'] as const)('%s', (isa) => {
  test('the screen, wide and then narrow', async () => {
    const { chunks, status } = played(isa);
    const screen = new Screen(WIDE);
    for (const chunk of chunks.slice(0, WIDE_KEYS.length)) await screen.write(chunk);
    expect(screen.rows).toEqual(rowsOf(WIDE_SCREENS[isa]));
    // Behind the prompt.
    expect(screen.cursor[0]).toBe('(kfault) '.length);
    const looks = isa === 'arm64' ? LOOKS.map((text) => screen.looks(text)) : [];
    screen.resize(NARROW);
    const narrow = chunks.slice(WIDE_KEYS.length);
    for (const chunk of narrow) await screen.write(chunk);
    expect(screen.rows).toEqual(rowsOf(NARROW_SCREENS[isa]));
    expect(status).toBe(ENDS[isa][1]);

    // No row is longer than the screen: the terminal has broken none.
    const written = narrow.slice(1).flatMap((chunk) =>
      Buffer.from(chunk)
        .toString()
        .replace(CONTROL, '')
        .split(/[\r\n]+/),
    );
    expect(written.filter((row) => [...row].length > NARROW[0])).toEqual([]);

    const everything = Buffer.concat(chunks).toString();
    if (isa === 'arm64') {
      looks.push(screen.looks('=> '), screen.looks('demo stderr| Call'));
      expect(looks.flat()).toEqual(rowsOf(ARM64_LOOKS));
    } else expect(everything).not.toMatch(COLOUR);
  });
});

test('Ctrl-Z gives the terminal back, and `fg` goes on at the same prompt', () => {
  const file = join(folder, 'stopped.yaml');
  writeFileSync(file, FIXTURES['x86-64']);
  // A job of a shell: what has no shell above it cannot be stopped.
  const job = `set -m; "${process.execPath}" "${bin}" debug -q "${file}"; echo "a shell with $?"; fg`;
  const { chunks, status } = play(
    ['/bin/bash', '-c', job],
    WIDE,
    [
      ['', '\\(kfault\\) '],
      ['\u001a', 'a shell with 148[^$]*\\(kfault\\) '],
      ['print 3 + 4\r', '= 0x7[^$]*\\(kfault\\) '],
      ['quit 5\r', null],
    ],
    { ...process.env, NO_COLOR: '1', FORCE_COLOR: undefined, TERM: 'xterm', KFAULT_HISTORY: '' },
  );
  expect(chunks.length).toBe(4);
  expect(status).toBe(5);
});
