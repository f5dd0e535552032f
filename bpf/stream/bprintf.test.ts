import { describe, expect, test } from '@jest/globals';
import { drain } from '../../emu/path.js';
import { EBUSY, EINVAL, ENOENT, ENOSPC } from '../../kernel/errno.js';
import { FLAT, flatCpu, USER } from '../fake-flat-cpu.js';
import { bpf_bprintf_prepare, bstr_printf } from './bprintf.js';
import { BPF_STDOUT, utf8 } from './stream.js';
import { bpf_stream_vprintk, streamKfuncs } from './stream_kfuncs.js';

const word = (value: number | bigint): bigint => BigInt.asUintN(64, BigInt(value));

function setup() {
  const flat = flatCpu();
  /** What a format comes to, or the errno. */
  const format = (fmt: string | Uint8Array, ...args: (number | bigint)[]): string | number => {
    const bytes = typeof fmt === 'string' ? utf8(fmt) : fmt;
    const bin_args = bpf_bprintf_prepare(flat.here, bytes, args.map(word));
    if (typeof bin_args === 'number') return bin_args;
    return new TextDecoder().decode(bstr_printf(flat.here, bytes, bin_args).finish());
  };
  return { ...flat, format };
}

// Formats and results of tools/testing/selftests/bpf/{progs/test_snprintf.c,prog_tests/snprintf.c}.
describe('the formats of the kernel selftest', () => {
  test('numbers', () => {
    const { format } = setup();
    const text = format('%d %u %x %li %llu %lX', -8, 9, 150, -424242, 1337, 0xdabbad00);
    expect(text).toBe('-8 9 96 -424242 1337 DABBAD00');
  });

  test('addresses of the internet', () => {
    const { format, put } = setup();
    const ip4 = put(0x100, Uint8Array.of(127, 0, 0, 1));
    const ip6 = put(0x200, Uint8Array.of(...new Array<number>(15).fill(0), 1));
    expect(format('%pi4 %pI6', ip4, ip6)).toBe('127.000.000.001 0000:0000:0000:0000:0000:0000:0000:0001');
    expect(format('%pI4 %pi6', ip4, ip6)).toBe(`127.0.0.1 ${'0'.repeat(31)}1`);
    expect(format('%pI4|', 0)).toBe('0.0.0.0|');
  });

  test('strings and characters with flags and widths', () => {
    const { format, put } = setup();
    const args = [put(0x100, 'str1'), 0x61, 0x62, 0x63, 0x64, 0x65, put(0x200, 'longstr')];
    expect(format('%s % 9c %+2c %-3c %04c %0c %+05s', ...args)).toBe('str1         a  b c      d e longstr');
  });

  test('a width that is beyond the buffer', () => {
    const { here } = setup();
    const fmt = utf8('%5d %0900000X');
    const bin_args = bpf_bprintf_prepare(here, fmt, [4n, 4n]);
    if (typeof bin_args === 'number') throw new Error(`${bin_args}`);
    const out = bstr_printf(here, fmt, bin_args);
    expect(out.length).toBe(900_006);
    expect(new TextDecoder().decode(out.finish())).toBe(`    4 ${'0'.repeat(1017)}\0`);
  });

  test.each(['%d %d', '%pi5', '%a', '%', '%12345678', '%--------', '%lc', '%llc', '\x01', '%p%', '%s%'])(
    'refuses %j with one argument',
    (fmt) => {
      expect(setup().format(fmt, 0)).toBe(-EINVAL);
    },
  );

  test('bytes above 0x7f are text, but no conversion', () => {
    const { format } = setup();
    expect(format('ü %d', 1)).toBe('ü 1');
    expect(format(Uint8Array.of(0x25, 0x80), 1)).toBe(-EINVAL);
  });
});

// Results of printf() in C where the kernel's differs in nothing.
describe('a number', () => {
  test.each([
    ['[%5d]', -42, '[  -42]'],
    ['[%-5d]', -42, '[-42  ]'],
    ['[%05d]', -42, '[-0042]'],
    ['[%+d]', 42, '[+42]'],
    ['[% d]', 42, '[ 42]'],
    ['[%+5d]', 42, '[  +42]'],
    ['[%-05d]', 42, '[42   ]'],
    ['[%08x]', 0xbeef, '[0000beef]'],
    ['[%X]', 0xbeef, '[BEEF]'],
    ['[%u]', -1, '[4294967295]'],
    ['[%i]', 0xffffffff, '[-1]'],
    ['[%lu]', -1, '[18446744073709551615]'],
    ['[%lld]', -1, '[-1]'],
    ['[%+u]', 7, '[7]'],
    ['[%d]', 0, '[0]'],
    ['[%d]', 0x1_0000_0005, '[5]'],
  ])('%s of %d is %s', (fmt, value, text) => {
    expect(setup().format(fmt, value)).toBe(text);
  });
});

describe('pointers', () => {
  test('hashed, plain, and as symbols', () => {
    const { format, cpu } = setup();
    const at = cpu.in('my_kfunc', 0x12n);
    expect(format('%p %pK.', at, at)).toBe('00000000deadbeef 00000000deadbeef.');
    expect(format('%p|%10p|%-10px|%px', 0, at, 0xabcn, at)).toBe(
      `${'0'.repeat(16)}|  deadbeef|abc       |${at.toString(16)}`,
    );
    expect(format('%pS %ps %pB|%20ps|', at, at, at, at)).toBe(
      'my_kfunc+0x12/0x40 my_kfunc my_kfunc+0x12/0x40|            my_kfunc|',
    );
    expect(format('%pS', 0x1234)).toBe('0x1234');
  });

  test('the first byte behind a function belongs to it for %pB only', () => {
    const { format, cpu } = setup();
    const end = cpu.in('my_kfunc', 0x40n);
    expect(format('%pB %pS', end, end)).toBe(`my_kfunc+0x40/0x40 0x${end.toString(16)}`);
  });

  test('letters behind a pointer are taken for a part of it', () => {
    expect(setup().format('%pxyz %d', 1, 2)).toBe('0000000000000001 2');
  });
});

describe('strings', () => {
  test('are read without faulting: what cannot be read is empty', () => {
    const { format } = setup();
    expect(format('[%s][%pks][%pus]', 0, 0xdead_0000_0000_0000n, FLAT)).toBe('[][][]');
  });

  test('come from users where the address is theirs', () => {
    const { format, put } = setup();
    put(Number(USER), 'user');
    expect(format('%s %pus [%pks]', USER, USER, USER)).toBe('user user []');
  });

  test('must end where the conversion ends', () => {
    expect(setup().format('%sx', 0)).toBe(-EINVAL);
    expect(setup().format('%pksx', 0)).toBe(-EINVAL);
  });

  test('have 512 bytes together; one that is longer is cut, and nothing fits behind it', () => {
    const { format, put } = setup();
    const long = put(0x1000, 'y'.repeat(600));
    expect(format('%s', long)).toBe('y'.repeat(511));
    expect(format('%s %d', long, 1)).toBe(-ENOSPC);
    expect(format('%s %s', long, long)).toBe(-ENOSPC);
  });
});

describe('bpf_stream_vprintk()', () => {
  test('gives what the format gives, and its buffers back', () => {
    const { here, env, program } = setup();
    const prog = program('p');
    const print = (fmt: string, args: bigint[], len = args.length * 8) =>
      drain(
        bpf_stream_vprintk(
          here,
          env,
          prog,
          BPF_STDOUT,
          () => utf8(fmt),
          () => args,
          len,
        ),
      );
    const twelve = Array.from({ length: 12 }, (_, i) => BigInt(i));
    expect([print('%d'.repeat(12), twelve), print('%d', []), print('\x02', [])]).toEqual([
      0,
      -EINVAL,
      -EINVAL,
    ]);
    expect(prog.aux.stream[0].capacity).toBe('01234567891011'.length);
    expect([env.bprintf.level(0), here.current.preempt_count]).toEqual([0, 0]);
  });

  test('looks at its stream and at the size first, and at memory when both are right', () => {
    const { here, env, program } = setup();
    program('p');
    const vprintk = streamKfuncs(env).find(({ name }) => name === 'bpf_stream_vprintk');
    if (vprintk === undefined) throw new Error('no kfunc');
    const call = (...args: bigint[]) => drain(vprintk.body(here, args));
    expect([call(7n, 0n, 0x10n, 8n), call(1n, 0n, 0x10n, 7n), call(1n, 0n, 0x10n, 104n)]).toEqual(
      [-ENOENT, -EINVAL, -EINVAL].map((errno) => BigInt.asUintN(64, BigInt(errno))),
    );
    expect(() => call(1n, 0n, 0n, 0n)).toThrow('no format at 0x0');
  });

  test('is busy when the CPU has no buffer left', () => {
    const { here, env, program, cpu } = setup();
    const prog = program('p');
    const print = () => drain(bpf_stream_vprintk(here, env, prog, BPF_STDOUT, () => utf8('x'), null, 0));
    env.bprintf.setLevel(0, 3);
    expect([print(), print()]).toEqual([-EBUSY, -EBUSY]);
    expect([cpu.warnings.length, prog.aux.stream[0].capacity]).toEqual([1, 0]);
    env.bprintf.setLevel(0, 2);
    expect([print(), env.bprintf.level(0)]).toEqual([0, 2]);
  });
});
