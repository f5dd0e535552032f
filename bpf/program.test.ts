import { describe, expect, test } from '@jest/globals';
import { EINVAL, ENOENT } from '../kernel/errno.js';
import { fakeCpu } from './fake-cpu.js';
import { BpfPrograms, bpf_prog_get_file_line } from './program.js';

const START = 0xffff_ffff_c000_1000n;
const CODE = new Uint8Array(0x45);

describe('programs', () => {
  test('the symbol is made of tag and name, or of the tag alone', () => {
    const programs = new BpfPrograms();
    const tag = '0a349df717208e67';
    const named = programs.load({ name: 'test', start: START, code: CODE, tag });
    const nameless = programs.load({ name: '', start: START + 0x1000n, code: CODE, tag });
    expect(named.aux.ksym.name).toBe('bpf_prog_0a349df717208e67_test');
    expect(nameless.aux.ksym.name).toBe('bpf_prog_0a349df717208e67');
  });

  test('without a tag the image is hashed', () => {
    // sha256sum of the two bytes 90 c3
    const code = Uint8Array.of(0x90, 0xc3);
    const prog = new BpfPrograms().load({ name: 'p', start: START, code });
    expect(prog.tag).toBe('36565ca5d2854ac5');
  });

  test('an image belongs to its program from its first byte to the byte behind its last', () => {
    const programs = new BpfPrograms();
    const prog = programs.load({ name: 'p', start: START, code: CODE });
    expect(programs.bpf_prog_ksym_find(START - 1n)).toBeNull();
    expect(programs.bpf_prog_ksym_find(START)).toBe(prog);
    expect(programs.bpf_prog_ksym_find(START + 0x45n)).toBe(prog);
    expect(programs.bpf_prog_ksym_find(START + 0x46n)).toBeNull();
  });

  test('its aux is found by the address that it was given, until the program goes', () => {
    const programs = new BpfPrograms();
    const AUX = 0xffff_8880_0002_7000n;
    const prog = programs.load({ name: 'p', start: START, code: CODE });
    expect(programs.auxAt(AUX)).toBeNull();
    programs.placeAux(AUX, prog.aux);
    expect(programs.auxAt(AUX)).toBe(prog.aux);
    programs.unload(prog);
    expect(programs.auxAt(AUX)).toBeNull();
  });

  test('the right one of many images is found, and none between them or after unloading', () => {
    const programs = new BpfPrograms();
    const loaded = [5n, 1n, 4n, 2n, 3n].map((n) =>
      programs.load({ name: `p${n}`, start: START + n * 0x100n, code: CODE }),
    );
    for (const prog of loaded) expect(programs.bpf_prog_ksym_find(prog.bpf_func + 0x20n)).toBe(prog);
    expect(programs.bpf_prog_ksym_find(START + 0x380n)).toBeNull();
    const gone = loaded[2];
    if (gone !== undefined) programs.unload(gone);
    expect(programs.bpf_prog_ksym_find(START + 0x410n)).toBeNull();
    expect(programs.programs.map(({ aux }) => aux.name)).toEqual(['p1', 'p2', 'p3', 'p5']);
  });

  test('a malformed tag and an overlapping image are refused', () => {
    const programs = new BpfPrograms();
    programs.load({ name: 'p', start: START, code: CODE });
    expect(() => programs.load({ name: 'q', start: START + 0x44n, code: CODE })).toThrow(/overlaps/);
    expect(() => programs.load({ name: 'q', start: START - 1n, code: CODE })).toThrow(/overlaps/);
    expect(() => programs.load({ name: 'q', start: 0n, code: CODE, tag: 'ABC' })).toThrow(/tag/);
  });
});

describe('bpf_prog_find_from_stack', () => {
  test('the innermost program counts, and of a subprogram its main program', () => {
    const cpu = fakeCpu();
    const programs = new BpfPrograms();
    const main = programs.load({ name: 'main', start: START, code: CODE });
    const sub = programs.load({ name: 'sub', start: START + 0x100n, code: CODE, main });
    const subsub = programs.load({ name: 'subsub', start: START + 0x200n, code: CODE, main: sub });
    const other = programs.load({ name: 'other', start: START + 0x300n, code: CODE });
    const kfunc = cpu.in('my_kfunc', 0x12n);

    cpu.stack = [kfunc, subsub.bpf_func + 8n, other.bpf_func + 8n];
    expect(programs.bpf_prog_find_from_stack(cpu.here)).toBe(main);
    cpu.stack = [kfunc, other.bpf_func + 8n, main.bpf_func + 8n];
    expect(programs.bpf_prog_find_from_stack(cpu.here)).toBe(other);
    cpu.stack = [kfunc, cpu.in('bpf_test_run', 0x10n)];
    expect(programs.bpf_prog_find_from_stack(cpu.here)).toBeNull();
  });

  test('on the same stack another program is found when the first is gone', () => {
    const stack = [START + 8n, START + 0x108n];
    const { here } = fakeCpu({}, { stackAddresses: () => stack });
    const programs = new BpfPrograms();
    const inner = programs.load({ name: 'inner', start: START, code: CODE });
    const outer = programs.load({ name: 'outer', start: START + 0x100n, code: CODE });
    expect(programs.bpf_prog_find_from_stack(here)).toBe(inner);
    programs.unload(inner);
    expect(programs.bpf_prog_find_from_stack(here)).toBe(outer);
  });

  test('a trampoline is BPF text but no program: the walk goes on', () => {
    const cpu = fakeCpu();
    const programs = new BpfPrograms();
    const prog = programs.load({ name: 'p', start: START, code: CODE });
    const start = START + 0x1000n;
    programs.bpf_ksym_add({ name: 'bpf__ops_member', start, end: start + 0x80n, prog: null });
    expect(programs.is_bpf_text_address(start + 0x10n)).toBe(true);
    cpu.stack = [start + 0x10n, prog.bpf_func + 8n];
    expect(programs.bpf_prog_find_from_stack(cpu.here)).toBe(prog);
  });
});

describe('bpf_prog_get_file_line', () => {
  const line = (offset: number, number: number) => ({
    offset,
    file: '/src/bpf/f.c',
    line: number,
    text: '\t  x = 1;',
  });

  test('an address at the start of a line belongs to the line before it', () => {
    const programs = new BpfPrograms();
    const linfo = [line(0, 41), line(0x20, 42)];
    const prog = programs.load({ name: 'q', start: START, code: CODE, linfo });
    const at = (offset: bigint) => bpf_prog_get_file_line(prog, START + offset);
    expect(at(0x20n)).toEqual({ file: 'f.c', line: 41, text: 'x = 1;' });
    expect(at(0x21n)).toEqual({ file: 'f.c', line: 42, text: 'x = 1;' });
    expect(at(0x45n)).toMatchObject({ line: 42 });
    expect(at(0n)).toBe(-ENOENT);
  });

  test('a program without line info has no lines', () => {
    const prog = new BpfPrograms().load({ name: 'q', start: START, code: CODE });
    expect(bpf_prog_get_file_line(prog, START + 1n)).toBe(-EINVAL);
  });
});
