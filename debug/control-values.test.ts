import { expect, test } from '@jest/globals';
import { controlRefusal } from './control-values.js';

/** What a kernel of 64 bits has. */
const NOW: Readonly<Record<string, bigint>> = { cr0: 0x80050033n, cr4: 0x3506f0n, efer: 0xd01n };
const refusal = (name: string, value: bigint): string | null =>
  controlRefusal((each) => NOW[each] ?? 0n, name, value);

// The list of #GP under "MOV - Move to/from Control Registers" and WRMSR of IA32_EFER.
test.each([
  ['cr0', 0n, /PG and PE/],
  ['cr0', 0x80050032n, /PG and PE/],
  ['cr0', 0xa0050033n, /CD/],
  ['cr0', 0x1_8005_0033n, /0x100000000 is reserved/],
  ['cr3', 1n << 46n, /46 to 63/],
  ['cr4', 0x3506d0n, /PAE/],
  ['cr4', 0x3516f0n, /LA57/],
  ['cr4', 0x803506f0n, /0x80000000 is reserved/],
  ['cr8', 16n, /4 to 63/],
  ['efer', 0xc01n, /LME/],
  ['efer', 0x2d01n, /0x2000 is reserved/],
])('%s = %s', (name, value, why) => {
  expect(refusal(name, value)).toMatch(why);
});

test.each([
  ['cr0', 0x80040033n],
  ['cr3', 0x3000n],
  ['cr4', 0x1506f0n],
  ['cr8', 15n],
  ['efer', 0x501n],
  ['ttbr0_el1', 0xffff_ffff_ffff_ffffn],
])('%s = %s is all right', (name, value) => {
  expect(refusal(name, value)).toBeNull();
});
