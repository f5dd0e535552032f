import { describe, expect, test } from '@jest/globals';
import { Kallsyms, SymbolError } from './kallsyms.js';

const LEAF = 0xffff_ffff_8100_0000n;
const NEXT = 0xffff_ffff_8100_0010n;
const MODULE = 0xffff_ffff_c000_0000n;
const PROG = 0xffff_ffff_c010_0000n;

function symbols(): Kallsyms {
  const kallsyms = new Kallsyms();
  kallsyms.add({ name: 'far', start: 0xffff_ffff_8200_0000n, size: 0x20, kind: 'text' });
  kallsyms.add({ name: 'leaf', start: LEAF, size: 0x10, kind: 'text' });
  kallsyms.add({ name: 'next', start: NEXT, size: 0x30, kind: 'text' });
  kallsyms.add({ name: 'probe', start: MODULE, size: 0x100, kind: 'module', module: 'e1000' });
  kallsyms.add({ name: 'bpf_prog_0a349df717208e67_test', start: PROG, size: 0x45, kind: 'bpf' });
  return kallsyms;
}

describe('%pS', () => {
  test('prints offset and size as hexadecimal without padding, zero as 0x0', () => {
    const kallsyms = symbols();
    expect(kallsyms.sprint_symbol(LEAF + 7n)).toBe('leaf+0x7/0x10');
    expect(kallsyms.sprint_symbol(LEAF)).toBe('leaf+0x0/0x10');
    expect(kallsyms.sprint_symbol(NEXT)).toBe('next+0x0/0x30');
  });

  test('names the module, but gives BPF programs no suffix', () => {
    const kallsyms = symbols();
    expect(kallsyms.sprint_symbol(MODULE + 0x12n)).toBe('probe+0x12/0x100 [e1000]');
    expect(kallsyms.sprint_symbol(PROG + 0x2an)).toBe('bpf_prog_0a349df717208e67_test+0x2a/0x45');
  });

  test.each([
    ['a gap', NEXT + 0x30n, '0xffffffff81000040'],
    ['zero', 0n, '0x0'],
    ['a user address', 0x40_0000n, '0x400000'],
    ['a non-canonical address', 0x8000_0000_0000_0000n, '0x8000000000000000'],
  ])('prints the bare address of %s', (_, address, text) => {
    expect(symbols().sprint_symbol(address)).toBe(text);
  });

  test('counts the byte behind a BPF image as part of it, as bpf_ksym_find() does', () => {
    const kallsyms = symbols();
    expect(kallsyms.sprint_symbol(PROG + 0x45n)).toBe('bpf_prog_0a349df717208e67_test+0x45/0x45');
    expect(kallsyms.is_bpf_text_address(PROG + 0x45n)).toBe(true);
    expect(kallsyms.sprint_symbol(PROG + 0x46n)).toBe('0xffffffffc0100046');
    kallsyms.add({ name: 'behind', start: PROG + 0x45n, size: 4, kind: 'text' });
    expect(kallsyms.sprint_symbol(PROG + 0x45n)).toBe('behind+0x0/0x4');
  });
});

test('%pB names the function of a call that was its last instruction', () => {
  const kallsyms = symbols();
  expect(kallsyms.sprint_backtrace(NEXT)).toBe('leaf+0x10/0x10');
  expect(kallsyms.sprint_backtrace(NEXT + 1n)).toBe('next+0x1/0x30');
  expect(kallsyms.sprint_backtrace(LEAF)).toBe('0xffffffff81000000');
});

describe('text tests', () => {
  test('core text reaches from the first function to the last, gaps included', () => {
    const kallsyms = symbols();
    expect(kallsyms.kernel_text_address(NEXT + 0x30n)).toBe(true);
    expect(kallsyms.kernel_text_address(0xffff_ffff_8200_0020n)).toBe(false);
    expect(kallsyms.kernel_text_address(LEAF - 1n)).toBe(false);
    expect(kallsyms.kernel_text_address(MODULE)).toBe(true);
    expect(kallsyms.kernel_text_address(PROG)).toBe(true);
    expect(kallsyms.is_bpf_text_address(MODULE)).toBe(false);
  });

  test('a removed program is text no more', () => {
    const kallsyms = symbols();
    const prog = kallsyms.lookup(PROG);
    if (prog === null) throw new Error('no program');
    kallsyms.remove(prog);
    expect(kallsyms.kernel_text_address(PROG)).toBe(false);
    expect(kallsyms.kallsyms_lookup_name(prog.name)).toBe(0n);
    expect(kallsyms.sprint_symbol(PROG)).toBe('0xffffffffc0100000');
  });
});

test('refuses a symbol over another one and names both', () => {
  const add = () => symbols().add({ name: 'over', start: LEAF + 0xfn, size: 1, kind: 'text' });
  expect(add).toThrow(SymbolError);
  expect(add).toThrow(/symbol over at 0xffffffff8100000f, 1 bytes, overlaps leaf/);
});
