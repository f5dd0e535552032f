import { expect, test } from '@jest/globals';
import { FakeMachine, scratchFault } from '../machine/fake-machine.js';
import { explainFaults } from './explain.js';

const machine = new FakeMachine([]);
const view = {
  arch: machine.arch,
  nameOf: (address: bigint) => machine.nameOf(address),
  instructionAt: () => '48 89 07   mov qword ptr [rdi], rax',
};

test('a recovered fault, from the instruction to the retry', () => {
  expect(explainFaults(scratchFault(), view).join('\n')).toBe(`\
Fault 1 of 1: #PF, write at ffffc9002806c000

  Instruction
    ffffffff81000004  f+0x4
      48 89 07   mov qword ptr [rdi], rax

  Walk for a write at ffffc9002806c000 with kernel rights
    PTE not present

  Error code 0x2
    W=1: write

  In the kernel
    page_fault_oops(addr=0xffffc9002806c000)
      ? error_code & X86_PF_PROT  false
      ? nr  3
      kfence_handle_page_fault(addr=0xffffc9002806c000) = false
      bpf_arena_handle_page_fault(addr=0xffffc9002806c000)
        * ptep_try_set: pte at 0x5000: 0000000000000000 -> 8000000001234163
        * prog stderr:
            | ERROR: Arena WRITE access at unmapped address 0x7f7d26203000
            | CPU: 0
        return true
      * console <4>:
          | first line
          | second line

  Retry (scratch): the same instruction again at ffffffff81000004  f+0x4`);
});

test('a fault that nothing recovers ends in the outcome', () => {
  const lines = explainFaults(
    [
      ...scratchFault().slice(1, 3),
      { type: 'outcome', cpu: 0, outcome: { kind: 'oops', title: 'BUG: bad', signal: 9 } },
    ],
    { ...view, instructionAt: () => null },
  );
  expect(lines.at(-1)).toBe('  End: oops: BUG: bad');
  expect(lines).not.toContain('      48 89 07   mov qword ptr [rdi], rax');
});

test('long arguments and tests are broken within 100 columns', () => {
  const long = Array.from({ length: 30 }, (_, i) => `word${i}`).join(' ');
  const lines = explainFaults(
    [
      ...scratchFault().slice(1, 3),
      { type: 'decide', cpu: 0, fn: 'page_fault_oops', test: long, value: true },
    ],
    view,
  );
  // A fixture's story stands two columns in.
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(98);
  expect(lines.join(' ').replaceAll(/\s+/g, ' ')).toContain(`? ${long} true`);
});

test('a decision of a callback goes under its own name', () => {
  const test = '!pte_none(ptep_get(pte))';
  const decide = { type: 'decide', cpu: 0, test, value: false } as const;
  const lines = explainFaults(
    [
      ...scratchFault().slice(1, 3),
      { ...decide, fn: 'page_fault_oops' },
      { ...decide, fn: 'apply_range_set_scratch_cb' },
    ],
    view,
  );
  expect(lines).toEqual(
    expect.arrayContaining([`      ? ${test}  false`, `      ? apply_range_set_scratch_cb: ${test}  false`]),
  );
});

test('no fault, no story', () => {
  expect(explainFaults([{ type: 'outcome', cpu: 0, outcome: { kind: 'returned' } }], view)).toEqual([]);
});

test('a fault that repeats is told once', () => {
  const story = scratchFault();
  const once = story.slice(0, story.findIndex((event) => event.type === 'resolved') + 1);
  const lines = explainFaults([...once, ...once, ...once], view);
  expect(lines.filter((line) => line.startsWith('Fault '))).toHaveLength(1);
  expect(lines.slice(-2)).toEqual(['', 'The next 2 faults are the same.']);
});
