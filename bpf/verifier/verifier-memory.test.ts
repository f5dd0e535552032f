import { describe, expect, test } from '@jest/globals';
import { link } from './link-testing.js';

/** Message of the verifier for one access, behind `text`. */
function refusal(text: string, access: string): unknown {
  try {
    link({ main: `${text}\n${access}\nr0 = 0\nexit` }, { boundMaps: ['arena'] });
  } catch (error) {
    return error;
  }
  return null;
}

// check_generic_ptr_alignment(), tnum_strn(): the register, then the instruction.
describe('stack accesses that are not aligned', () => {
  test.each([
    ['r2 = r10', '*(u64 *)(r2 - 4) = 1', '0+-4 size 8'],
    ['r2 = r10\nr2 += -10', '*(u64 *)(r2 + 3) = 1', '0xfffffffffffffff6+3 size 8'],
    ['r2 = r10\nr2 += -10', 'r0 = *(u32 *)(r2 + 0)', '0xfffffffffffffff6+0 size 4'],
    ['r2 = r10\nr2 += 8', '*(u16 *)(r2 - 11) = 1', '8+-11 size 2'],
    // Before its bounds.
    ['r2 = r10', '*(u64 *)(r2 - 516) = 1', '0+-516 size 8'],
  ])('%j: %s', (text, access, what) => {
    const message = `misaligned stack access off ${what}`;
    expect(refusal(text, access)).toMatchObject({ message, errno: -13 });
  });

  test.each([
    ['r2 = r10\nr2 += -10', '*(u64 *)(r2 + 2) = 1'],
    ['r2 = r10', '*(u8 *)(r2 - 3) = 1'],
  ])('%j: %s', (text, access) => {
    expect(refusal(text, access)).toBeNull();
  });
});

// check_stack_write_fixed_off()
describe('spilled pointers', () => {
  const cast = 'r6 = *(u64 *)(r1 + 0)\nr1 = addr_space_cast(r1, 0, 1)';

  test.each([
    [cast, '*(u32 *)(r10 - 8) = r1'],
    ['', '*(u32 *)(r10 - 4) = r10'],
    ['r2 = map[array][0]', '*(u8 *)(r10 - 1) = r2'],
  ])('take 8 bytes: %j: %s', (text, access) => {
    expect(refusal(text, access)).toMatchObject({ message: 'invalid size of register spill', errno: -13 });
  });

  test('to a stack do not go to the stack of a caller', () => {
    const main = 'r2 = r10\nr2 += -8\ncall sub\nr0 = 0\nexit';
    const sub = (what: string): string => `*(u64 *)(r2 + 0) = ${what}\nr0 = 0\nexit`;
    expect(() => link({ main, sub: sub('r10') })).toThrow(
      expect.objectContaining({
        message: 'cannot spill pointers to stack into stack frame of the caller',
        errno: -22,
        func: 'sub',
        slot: 0,
      }),
    );
    expect(() => link({ main, sub: sub('r1') })).not.toThrow();
  });

  test.each([8, 16])('through one of two pointers, each slot may be what it was: r10 - %i', (at) => {
    const store = `*(u64 *)(r10 - 8) = r1\n*(u64 *)(r10 - 16) = r1\nr2 = r10\nr2 += -8\nif r6 == 0 goto use\nr2 += -8\nuse:\n*(u64 *)(r2 + 0) = 0`;
    const load = `r3 = *(u64 *)(r10 - ${at})`;
    expect(refusal(`${cast}\n${store}\n${load}`, 'r0 = *(u64 *)(r3 + 0)')).toMatchObject({
      message: "R3 invalid mem access 'scalar'",
    });
    const check = 'r0 = 0\nif r3 == 0 goto out';
    expect(refusal(`${cast}\n${store}\n${load}\n${check}`, 'r0 = *(u64 *)(r3 + 0)\nout:')).toBeNull();
  });
});

// check_ptr_to_map_access(), with the name in BTF that ops->map_btf_id gives.
describe('struct bpf_map', () => {
  test.each([
    ['arena', '*(u32 *)(r1 + 0) = 1', 'only read from bpf_arena is supported'],
    ['array', 'lock *(u32 *)(r1 + 0) += r6', 'only read from bpf_array is supported'],
    ['arena', 'r0 = *(u32 *)(r1 - 8)', 'R1 is bpf_arena invalid negative access: off=-8'],
    ['hash', '*(u32 *)(r1 - 4) = 1', 'R1 is bpf_htab invalid negative access: off=-4'],
  ])('%s: %s', (map, access, message) => {
    expect(refusal(`r6 = 1\nr1 = map[${map}]`, access)).toMatchObject({ message, errno: -13 });
  });

  test('can be read', () => {
    expect(refusal('r1 = map[arena]', 'r0 = *(u64 *)(r1 + 256)')).toBeNull();
  });
});

// check_max_stack_depth_subprog(): frames below the main program, and 16 bytes at a time of what is used.
describe('the stack of all calls', () => {
  const use = (bytes: number): string => `*(u8 *)(r10 - ${bytes}) = 1\n`;

  test('functions without a frame take none', () => {
    expect(() => link({ main: `${use(512)}call sub\nr0 = 0\nexit`, sub: 'r0 = 0\nexit' })).not.toThrow();
    expect(() => link({ main: `${use(505)}call sub\nr0 = 0\nexit`, sub: `${use(1)}r0 = 0\nexit` })).toThrow(
      'combined stack size of 2 calls is 528. Too large',
    );
  });

  test('callbacks count', () => {
    const main = `${use(300)}r1 = 1\nr2 = sub ll\nr3 = 0\nr4 = 0\ncall bpf_loop\nr0 = 0\nexit`;
    expect(() => link({ main, sub: `${use(300)}r0 = 0\nexit` })).toThrow(
      'combined stack size of 2 calls is 608. Too large',
    );
    expect(() => link({ main, sub: `${use(200)}r0 = 0\nexit` })).not.toThrow();
  });
});
