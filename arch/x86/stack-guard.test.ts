import { expect, test } from '@jest/globals';
import { toSigned } from '../../emu/address.js';
import { x86 } from './index.js';
import { get_stack_guard_info, is_vmalloc_addr } from './stack-guard.js';
import { STACK, STACK_TOP, testMachine } from './testing.js';
import { declareStack, get_stack_info_noinstr, STACK_TYPE_TASK } from './unwind-stacks.js';

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
  const at = (va: bigint) => get_stack_info_noinstr(here, toSigned(va));
  const info = {
    type: STACK_TYPE_TASK,
    begin: toSigned(STACK),
    end: toSigned(STACK_TOP),
    next_sp: 0,
  };
  expect([STACK, STACK_TOP - 1n].map(at)).toEqual([info, info]);
  expect([STACK - 1n, STACK_TOP].map(at)).toEqual([null, null]);
  expect([STACK - 1n, STACK - 0x1000n].map((va) => get_stack_guard_info(here, va))).toEqual([stack, stack]);
  for (const va of [STACK - 0x1001n, STACK, STACK_TOP - 0x1000n, STACK_TOP]) {
    expect(get_stack_guard_info(here, va)).toBeNull();
  }
});

test('every stack has one, also when it lies above that of the task', () => {
  const { here } = testMachine();
  const begin = STACK_TOP + 0x10000n;
  declareStack(here, '#DF', begin, 0x2000);
  const stack = { name: '#DF', begin, end: begin + 0x2000n };
  expect([begin - 1n, begin - 0x1000n].map((va) => get_stack_guard_info(here, va))).toEqual([stack, stack]);
  for (const va of [begin - 0x1001n, begin, begin + 0x1fffn]) {
    expect(get_stack_guard_info(here, va)).toBeNull();
  }
});

test('a page of one stack right below another is no guard page', () => {
  const { here } = testMachine();
  declareStack(here, 'IRQ', STACK - 0x4000n, 0x4000);
  expect(get_stack_guard_info(here, STACK - 8n)).toBeNull();
});
