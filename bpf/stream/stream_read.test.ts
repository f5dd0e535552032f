import { describe, expect, test } from '@jest/globals';
import { drain } from '../../emu/path.js';
import { EBADF, EFAULT, EINVAL, ENOENT } from '../../kernel/errno.js';
import { flatCpu, USER } from '../fake-flat-cpu.js';
import { BPF_STDERR, BPF_STDOUT, utf8 } from './stream.js';
import { bpf_stream_vprintk } from './stream_kfuncs.js';
import { copy_to_user, type ProgStreamReadAttr, prog_stream_read } from './stream_read.js';

const FD = 5;

/** A program that has written "foo" to its stdout. */
function setup(userPages = 1) {
  const flat = flatCpu(0, userPages);
  const { here, env } = flat;
  const prog = flat.program('stream_syscall');
  const print = (text: string) =>
    drain(bpf_stream_vprintk(here, env, prog, BPF_STDOUT, () => utf8(text), null, 0));
  print('foo');
  const process = {
    bpf_prog_get: (fd: number) => (fd === FD ? prog : fd < 3 ? -EINVAL : -EBADF),
    copy_to_user,
  };
  const read = (attr: Partial<ProgStreamReadAttr>) => {
    const whole = { stream_buf: USER, stream_buf_len: 64, stream_id: BPF_STDOUT, prog_fd: FD, ...attr };
    return drain(prog_stream_read(here, whole, process));
  };
  const memory = (offset: number, length: number) =>
    new TextDecoder().decode(here.ram.read(Number(USER) + offset, length));
  return { ...flat, prog, print, read, memory };
}

describe('BPF_PROG_STREAM_READ_BY_FD', () => {
  // prog_tests/stream.c, test_stream_syscall.
  test('gives what the kernel selftest expects', () => {
    const { read, memory } = setup();
    expect(read({ prog_fd: 0 })).toBe(-EINVAL);
    expect(read({ stream_id: 0 })).toBe(-ENOENT);
    expect(read({ stream_buf: 0n })).toBe(-EFAULT);
    expect(read({ stream_buf_len: 2 })).toBe(2);
    expect(memory(0, 3)).toBe('fo\0');
    expect(read({ stream_buf_len: 2 })).toBe(1);
    expect(memory(0, 2)).toBe('oo');
    expect([read({ stream_buf_len: 1 }), read({ stream_id: BPF_STDERR, stream_buf_len: 1 })]).toEqual([0, 0]);
  });

  test('looks at the file first, then at the stream, then at the memory', () => {
    const { read } = setup();
    const bad = { prog_fd: 99, stream_id: 7, stream_buf: 0n };
    expect(read(bad)).toBe(-EBADF);
    expect(read({ ...bad, prog_fd: FD })).toBe(-ENOENT);
    expect(read({ ...bad, prog_fd: FD, stream_id: BPF_STDOUT })).toBe(-EFAULT);
  });

  test('asks for nothing with a length of 0, and for too much with one that is negative as an int', () => {
    const { read } = setup();
    expect([read({ stream_buf: 0n, stream_buf_len: 0 }), read({ stream_buf_len: 0xffff_ffff })]).toEqual([
      0,
      -EFAULT,
    ]);
    expect(read({ stream_id: BPF_STDERR, stream_buf_len: 0xffff_ffff })).toBe(0);
    expect(read({})).toBe(3);
  });

  test('a buffer that ends in an element: nothing of it is consumed, its first bytes have arrived', () => {
    const { read, memory, prog } = setup();
    const end = USER + 4096n - 2n;
    expect(read({ stream_buf: end })).toBe(-EFAULT);
    expect([memory(4094, 2), prog.aux.stream[0].capacity]).toEqual(['fo', 3]);
    expect(read({ stream_buf: end - 1n })).toBe(3);
  });

  test('a buffer that ends behind an element: that element is gone, and nobody says how much it was', () => {
    const { read, print, memory, prog } = setup();
    print('bar');
    expect(read({ stream_buf: USER + 4096n - 3n })).toBe(-EFAULT);
    expect([memory(4093, 3), prog.aux.stream[0].capacity]).toEqual(['foo', 3]);
    expect([read({}), memory(0, 3)]).toEqual([3, 'bar']);
  });

  test('crosses pages', () => {
    const { read, memory } = setup(2);
    expect(read({ stream_buf: USER + 4095n })).toBe(3);
    expect(memory(4095, 3)).toBe('foo');
  });
});
