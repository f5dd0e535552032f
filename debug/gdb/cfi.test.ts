import { expect, test } from '@jest/globals';
import type { CfiRow } from './cfi.js';
import { arm64Rows } from './cfi-arm64.js';
import { x86Rows } from './cfi-x86.js';

const NAMES: Readonly<Record<number, string>> = { 3: 'rbx', 6: 'rbp', 7: 'rsp', 13: 'r13', 16: 'ra' };

function x86(hex: string): string[] {
  const code = Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
  return lines(x86Rows(code), (n) => NAMES[n] ?? `r${n}`);
}

function arm64(...words: number[]): string[] {
  return lines(arm64Rows(new Uint8Array(Uint32Array.from(words).buffer)), (n) => (n === 31 ? 'sp' : `x${n}`));
}

/** Rows that differ from the one before, as readelf prints them. */
function lines(rows: readonly CfiRow[], name: (n: number) => string): string[] {
  const texts = rows.map(({ offset, cfa, saved }) => {
    if (cfa === null) return [offset, 'unknown'] as const;
    const places = [...saved].sort(([a], [b]) => a - b).map(([n, place]) => ` ${name(n)}=c${place}`);
    return [offset, `${name(cfa.register)}+${cfa.offset}${places.join('')}`] as const;
  });
  return texts.filter(([, text], i) => text !== texts[i - 1]?.[1]).map(([at, text]) => `${at}: ${text}`);
}

test('x86-64: a frame with a frame pointer and saved registers, as gcc -fasynchronous-unwind-tables has it', () => {
  // push rbp; mov rbp, rsp; push rbx; push r13; nop; pop r13; pop rbx; leave; ret
  expect(x86('55 48 89 e5 53 41 55 90 41 5d 5b c9 c3')).toEqual([
    '0: rsp+8 ra=c-8',
    '1: rsp+16 rbp=c-16 ra=c-8',
    '4: rbp+16 rbp=c-16 ra=c-8',
    '5: rbp+16 rbx=c-24 rbp=c-16 ra=c-8',
    '7: rbp+16 rbx=c-24 rbp=c-16 r13=c-32 ra=c-8',
    '10: rbp+16 rbx=c-24 rbp=c-16 ra=c-8',
    '11: rbp+16 rbp=c-16 ra=c-8',
    '12: rsp+8 ra=c-8',
  ]);
});

test('x86-64: without a frame pointer, with an end in the middle', () => {
  // push rbx; sub rsp, 16; test edi, edi; jz +6; add rsp, 16; pop rbx; ret; nop; add rsp, 16; pop rbx; ret
  expect(x86('53 48 83 ec 10 85 ff 74 06 48 83 c4 10 5b c3 90 48 83 c4 10 5b c3')).toEqual([
    '0: rsp+8 ra=c-8',
    '1: rsp+16 rbx=c-16 ra=c-8',
    '5: rsp+32 rbx=c-16 ra=c-8',
    '13: rsp+16 rbx=c-16 ra=c-8',
    '14: rsp+8 ra=c-8',
    '15: rsp+32 rbx=c-16 ra=c-8',
    '20: rsp+16 rbx=c-16 ra=c-8',
    '21: rsp+8 ra=c-8',
  ]);
});

test('arm64: frame record, saved registers, and the way out', () => {
  expect(
    arm64(
      0xa9bd7bfd, // stp x29, x30, [sp, #-48]!
      0x910003fd, // mov x29, sp
      0xa90153f3, // stp x19, x20, [sp, #16]
      0xf90013f5, // str x21, [sp, #32]
      0xd503201f, // nop
      0xf94013f5, // ldr x21, [sp, #32]
      0xa94153f3, // ldp x19, x20, [sp, #16]
      0xa8c37bfd, // ldp x29, x30, [sp], #48
      0xd65f03c0, // ret
    ),
  ).toEqual([
    '0: sp+0',
    '4: sp+48 x29=c-48 x30=c-40',
    '8: x29+48 x29=c-48 x30=c-40',
    '12: x29+48 x19=c-32 x20=c-24 x29=c-48 x30=c-40',
    '16: x29+48 x19=c-32 x20=c-24 x21=c-16 x29=c-48 x30=c-40',
    '24: x29+48 x19=c-32 x20=c-24 x29=c-48 x30=c-40',
    '28: x29+48 x29=c-48 x30=c-40',
    '32: sp+0',
  ]);
});

test('arm64: what only a branch leads to has the frame of the branch', () => {
  expect(
    arm64(
      0xd10083ff, // sub sp, sp, #32
      0xb4000060, // cbz x0, +12
      0x910083ff, // add sp, sp, #32
      0xd65f03c0, // ret
      0x910083ff, // add sp, sp, #32
      0xd65f03c0, // ret
    ),
  ).toEqual(['0: sp+0', '4: sp+32', '12: sp+0', '16: sp+32', '20: sp+0']);
});
