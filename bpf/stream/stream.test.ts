import { describe, expect, test } from '@jest/globals';
import type { ThisCpu } from '../../arch/arch.js';
import { drain, type Path } from '../../emu/path.js';
import { EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC } from '../../kernel/errno.js';
import { flatCpu } from '../fake-flat-cpu.js';
import { BpfPrograms, type bpf_prog } from '../program.js';
import { BPF_STDERR, BPF_STDOUT, bpf_stream_get, streamText, utf8 } from './stream.js';
import { bpf_stream_vprintk } from './stream_kfuncs.js';
import { prog_stream_read } from './stream_read.js';

function setup() {
  const { here, cpu, env, program } = flatCpu();
  const prog = program('p');
  const vprintk = (to: bpf_prog, id: number, text: string, len = 0, hasArgs = len > 0) =>
    drain(bpf_stream_vprintk(here, env, to, id, () => utf8(text), hasArgs ? () => [] : null, len));
  const print = (text: string) => vprintk(prog, BPF_STDOUT, text);
  return { log: cpu.log, env, prog, print, vprintk };
}

/** prog_stream_read() of a program into a reader's buffer, which takes what `takes` says. */
function readInto(
  prog: bpf_prog,
  stream_id: number,
  len: number,
  takes: (offset: number, bytes: Uint8Array) => boolean,
): number {
  const process = {
    bpf_prog_get: () => prog,
    // biome-ignore lint/correctness/useYield: it decides nothing
    copy_to_user: function* (_here: ThisCpu, to: bigint, from: Uint8Array): Path<number> {
      return takes(Number(to), from) ? 0 : from.length;
    },
  };
  const attr = { stream_buf: 0n, stream_buf_len: len, stream_id, prog_fd: 3 };
  return drain(prog_stream_read(flatCpu().here, attr, process));
}

/** Reads once into a buffer of `len` bytes: what came back, and the text that arrived. */
function read(prog: bpf_prog, stream_id: number, len: number): { ret: number; text: string } {
  const buffer = Buffer.alloc(len);
  const ret = readInto(prog, stream_id, len, (offset, bytes) => {
    buffer.set(bytes, offset);
    return true;
  });
  return { ret, text: buffer.subarray(0, Math.max(ret, 0)).toString() };
}

/** A read that takes whatever it is given. */
function readAny(prog: bpf_prog, len: number): number {
  return readInto(prog, BPF_STDOUT, len, () => true);
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
    const { prog, vprintk } = setup();
    expect(read(prog, 0, 64).ret).toBe(-ENOENT);
    expect(read(prog, 3, 64).ret).toBe(-ENOENT);
    expect(vprintk(prog, 0, 'x')).toBe(-ENOENT);
  });

  test('a fault of the reader loses the elements copied before it and keeps the one at which it happened', () => {
    const { prog, print } = setup();
    print('first ');
    print('second');
    const refuseSecond = (offset: number) => offset === 0;
    expect(readInto(prog, BPF_STDOUT, 64, refuseSecond)).toBe(-EFAULT);
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

  test('an element for which there is no memory stays reserved', () => {
    const { env, prog, print } = setup();
    env.allocationFails = (what) => what === 'bpf_stream_elem';
    expect(print('lost')).toBe(-ENOMEM);
    env.allocationFails = () => false;
    expect(print('kept')).toBe(0);
    expect([read(prog, BPF_STDOUT, 64).text, capacity(prog)]).toEqual(['kept', 4]);
  });

  test('a length that is negative as an int asks for more than anybody can copy', () => {
    const { prog, print } = setup();
    expect(readAny(prog, -1)).toBe(0);
    print('foo');
    expect([readAny(prog, -1), readAny(prog, -0x8000_0000)]).toEqual([-EFAULT, -EFAULT]);
    expect(read(prog, BPF_STDOUT, 64).text).toBe('foo');
  });

  test('arguments of a format are whole words, twelve at the most', () => {
    const { prog, vprintk } = setup();
    const print = (len: number, has: boolean) => vprintk(prog, BPF_STDOUT, '', len, has);
    expect([print(0, false), print(96, true)]).toEqual([0, 0]);
    expect([print(7, true), print(104, true), print(8, false)]).toEqual([-EINVAL, -EINVAL, -EINVAL]);
  });

  test("a subprogram's output is its main program's", () => {
    const { prog, vprintk } = setup();
    const sub = new BpfPrograms().load({ name: 'sub', start: 0x1000n, code: new Uint8Array(8), main: prog });
    vprintk(sub, BPF_STDOUT, 'from below\n');
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
