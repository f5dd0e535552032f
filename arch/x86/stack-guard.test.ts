import { expect, test } from '@jest/globals';
import { x86 } from './index.js';
import { get_stack_guard_info, get_stack_info, is_vmalloc_addr } from './stack-guard.js';
import { STACK, STACK_TOP, testMachine } from './testing.js';

test('vmalloc space begins at VMALLOC_START and ends in front of VMALLOC_END, its last byte', () => {
  expect(is_vmalloc_addr(0xffffc8ffffffffffn)).toBe(false);
  expect(is_vmalloc_addr(0xffffc90000000000n)).toBe(true);
  expect(is_vmalloc_addr(0xffffe8fffffffffen)).toBe(true);
  expect(is_vmalloc_addr(0xffffe8ffffffffffn)).toBe(false);
  expect(x86.layout.vmalloc).toEqual({ start: 0xffffc90000000000n, end: 0xffffe90000000000n });
});

test('the guard page is the one below the stack', () => {
  const { here } = testMachine();
  const stack = { name: 'TASK', begin: STACK, end: STACK_TOP };
  expect([STACK, STACK_TOP - 1n].map((va) => get_stack_info(here, va))).toEqual([stack, stack]);
  expect([STACK - 1n, STACK_TOP].map((va) => get_stack_info(here, va))).toEqual([null, null]);
  expect([STACK - 1n, STACK - 0x1000n].map((va) => get_stack_guard_info(here, va))).toEqual([stack, stack]);
  for (const va of [STACK - 0x1001n, STACK, STACK_TOP - 0x1000n, STACK_TOP]) {
    expect(get_stack_guard_info(here, va)).toBeNull();
  }
});
