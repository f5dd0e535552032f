import { describe, expect, test } from '@jest/globals';
import { EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC } from '../kernel/errno.js';
import { fakeCpu } from './fake-cpu.js';
import { BpfPrograms, type bpf_prog } from './program.js';
import {
  BPF_STDERR,
  BPF_STDOUT,
  bpf_prog_stream_read,
  bpf_stream_get,
  bpf_stream_vprintk,
  streamText,
  utf8,
} from './stream.js';

function setup() {
  const { here, log } = fakeCpu();
  const prog = new BpfPrograms().load({ name: 'p', start: 0xffffffffc0000000n, code: new Uint8Array(64) });
  const print = (text: string) => bpf_stream_vprintk(here, prog, BPF_STDOUT, utf8(text));
  return { here, log, prog, print };
}

/** Reads once into a buffer of `len` bytes: what came back, and the text that arrived. */
function read(prog: bpf_prog, stream_id: number, len: number): { ret: number; text: string } {
  const buffer = Buffer.alloc(len);
  const ret = bpf_prog_stream_read(prog, stream_id, len, (offset, bytes) => {
    buffer.set(bytes, offset);
    return true;
  });
  return { ret, text: buffer.subarray(0, Math.max(ret, 0)).toString() };
}

function capacity(prog: bpf_prog): number {
  return bpf_stream_get(BPF_STDOUT, prog)?.capacity ?? Number.NaN;
}

describe('BPF streams', () => {
  test('an element is read in pieces and then the stream is empty', () => {
    const { prog, print } = setup();
    expect(print('foo')).toBe(0);
    expect(read(prog, BPF_STDOUT, 2)).toEqual({ ret: 2, text: 'fo' });
    expect(read(prog, BPF_STDOUT, 2)).toEqual({ ret: 1, text: 'o' });
    expect(read(prog, BPF_STDOUT, 1)).toEqual({ ret: 0, text: '' });
    expect(read(prog, BPF_STDERR, 1)).toEqual({ ret: 0, text: '' });
  });

  test('one read takes several elements, and part of the last', () => {
    const { prog, print } = setup();
    for (const text of ['one ', 'two ', 'three']) print(text);
    expect(read(prog, BPF_STDOUT, 10).text).toBe('one two th');
    print(' four');
    expect(read(prog, BPF_STDOUT, 100).text).toBe('ree four');
  });

  test('an element keeps all its bytes reserved until it is read to its end', () => {
    const { prog, print } = setup();
    print('abcdef');
    print('gh');
    read(prog, BPF_STDOUT, 5);
    expect(capacity(prog)).toBe(8);
    read(prog, BPF_STDOUT, 1);
    expect(capacity(prog)).toBe(2);
  });

  test('unknown stream ids are refused', () => {
    const { here, prog } = setup();
    expect(read(prog, 0, 64).ret).toBe(-ENOENT);
    expect(read(prog, 3, 64).ret).toBe(-ENOENT);
    expect(bpf_stream_vprintk(here, prog, 0, utf8('x'))).toBe(-ENOENT);
  });

  test('a fault of the reader loses the elements copied before it and keeps the one at which it happened', () => {
    const { prog, print } = setup();
    print('first ');
    print('second');
    const refuseSecond = (offset: number) => offset === 0;
    expect(bpf_prog_stream_read(prog, BPF_STDOUT, 64, refuseSecond)).toBe(-EFAULT);
    expect(read(prog, BPF_STDOUT, 64).text).toBe('second');
  });

  test('writes of 54 bytes fit 1851 times, and never 100000 bytes', () => {
    const { prog, print } = setup();
    let writes = 0;
    let err = print('x'.repeat(54));
    for (; err === 0; err = print('x'.repeat(54))) writes += 1;
    expect({ err, writes, held: capacity(prog) }).toEqual({ err: -ENOSPC, writes: 1851, held: 99_954 });
    expect(print('x'.repeat(45))).toBe(0);
    expect(capacity(prog)).toBe(99_999);
    expect(print('x')).toBe(-ENOSPC);
    read(prog, BPF_STDOUT, 54);
    expect(print('x'.repeat(54))).toBe(0);
  });

  test('1024 bytes lose their last byte to a NUL; more are refused and stay reserved', () => {
    const { prog, print } = setup();
    expect(print('y'.repeat(1024))).toBe(0);
    expect(read(prog, BPF_STDOUT, 2000)).toEqual({ ret: 1024, text: `${'y'.repeat(1023)}\0` });
    expect(capacity(prog)).toBe(0);
    expect(print('y'.repeat(1025))).toBe(-ENOMEM);
    expect(read(prog, BPF_STDOUT, 2000).ret).toBe(0);
    expect(capacity(prog)).toBe(1025);
  });

  test('arguments of a format are whole words, twelve at the most', () => {
    const { here, prog } = setup();
    const vprintk = (len: number, has: boolean) =>
      bpf_stream_vprintk(here, prog, BPF_STDOUT, utf8(''), len, has);
    expect([vprintk(0, false), vprintk(96, true)]).toEqual([0, 0]);
    expect([vprintk(7, true), vprintk(104, true), vprintk(8, false)]).toEqual([-EINVAL, -EINVAL, -EINVAL]);
  });

  test("a subprogram's output is its main program's", () => {
    const { here, prog } = setup();
    const sub = new BpfPrograms().load({ name: 'sub', start: 0x1000n, code: new Uint8Array(8), main: prog });
    bpf_stream_vprintk(here, sub, BPF_STDOUT, utf8('from below\n'));
    expect(read(prog, BPF_STDOUT, 64).text).toBe('from below\n');
  });

  test('looking at a stream takes nothing out of it', () => {
    const { prog, print } = setup();
    print('abc');
    print('def');
    read(prog, BPF_STDOUT, 4);
    const stream = bpf_stream_get(BPF_STDOUT, prog);
    expect(stream && streamText(stream)).toBe('ef');
    expect(read(prog, BPF_STDOUT, 64).text).toBe('ef');
  });

  test('every write is an event, a dropped one too', () => {
    const { log, print } = setup();
    print('kept');
    while (print('x'.repeat(1000)) === 0);
    const streams = log.events.flatMap((event) => (event.type === 'stream' ? [event] : []));
    expect(streams[0]).toMatchObject({ program: 'p', stream: 'stdout', dropped: false });
    expect(streams[0]?.text()).toBe('kept');
    expect(streams.at(-1)?.dropped).toBe(true);
    expect(streams.at(-2)?.dropped).toBe(false);
  });
});
