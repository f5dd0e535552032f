/**
 * Port of kernel/bpf/stream.c (bpf-next merge 8496d9020ff3): the two text streams of a main program.
 *
 * The kernel formats a report when it is made. Here a part of a stream is data that knows its exact
 * length; its text is made when somebody reads. What a reader or a full stream sees is the same.
 *
 * Part 2 is stream_stage.ts (what the kernel writes, printk by printk), part 3 stream_kfuncs.ts (what programs
 * write), part 4 stream_read.ts (the system call). Left out: the lock of the readers.
 */
import type { ThisCpu } from '../../arch/arch.js';
import type { Delegate, Path } from '../../emu/path.js';
import { EFAULT, EINVAL, ENOMEM, ENOSPC } from '../../kernel/errno.js';
import type { BpfEnv } from '../env.js';
import type { bpf_prog } from '../program.js';
import { MAX_BPRINTF_BUF } from './bprintf.js';

export const BPF_STDOUT = 1;
export const BPF_STDERR = 2;
/** Bytes that a stream refuses to reach; it holds at most one less. */
export const BPF_STREAM_MAX_CAPACITY = 100_000;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Text as bytes. */
export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** What is committed to a stream in one go: one report, or one write of a program. */
export interface StreamPart {
  /** Bytes that count against the capacity: the sum of the untruncated lengths. */
  readonly len: number;
  /** The elements, in order. Called when somebody reads. */
  elements(): readonly Uint8Array[];
}

/**
 * What bpf_stream_stage_printk() makes of a formatted text: null when it does not fit an element. A text
 * of exactly MAX_BPRINTF_BUF bytes fits, with vsnprintf()'s NUL in place of its last byte.
 */
export function stageElement(text: Uint8Array): Uint8Array | null {
  if (text.length > MAX_BPRINTF_BUF) return null;
  if (text.length < MAX_BPRINTF_BUF) return text;
  const cut = text.slice();
  cut[MAX_BPRINTF_BUF - 1] = 0;
  return cut;
}

/** One formatted text, of which no element may have come. */
class Text implements StreamPart {
  constructor(
    readonly len: number,
    readonly element: Uint8Array | null,
  ) {}
  elements(): readonly Uint8Array[] {
    return this.element === null ? [] : [this.element];
  }
}

/** struct bpf_stream */
export class bpf_stream {
  /** Bytes in use. An element gives its bytes back when it has been read to its end. */
  capacity = 0;
  /** Committed, oldest first, and not yet asked for. */
  log: StreamPart[] = [];
  /** Elements in reading order; those before `backlog_head` are read. */
  backlog: Uint8Array[] = [];
  backlog_head = 0;
  /** Bytes of the element at `backlog_head` that are read already. */
  consumed_len = 0;

  constructor(readonly stream_id: typeof BPF_STDOUT | typeof BPF_STDERR) {}

  get name(): 'stdout' | 'stderr' {
    return this.stream_id === BPF_STDOUT ? 'stdout' : 'stderr';
  }
}

/** bpf_stream_get(): the stream of a program's main program, null for an unknown id. */
export function bpf_stream_get(stream_id: number, prog: bpf_prog): bpf_stream | null {
  const { stream } = prog.aux.main_prog_aux;
  if (stream_id === BPF_STDOUT) return stream[0];
  if (stream_id === BPF_STDERR) return stream[1];
  return null;
}

/** bpf_stream_consume_capacity(): 0, or -ENOSPC with nothing taken. */
function bpf_stream_consume_capacity(stream: bpf_stream, len: number): number {
  if (stream.capacity + len >= BPF_STREAM_MAX_CAPACITY) return -ENOSPC;
  stream.capacity += len;
  return 0;
}

/** Puts a part on a stream, all of it or nothing. The event stream hears of it even if it is dropped. */
function push(here: ThisCpu, prog: bpf_prog, stream: bpf_stream, part: StreamPart): number {
  const err = bpf_stream_consume_capacity(stream, part.len);
  if (err === 0) stream.log.push(part);
  if (!here.trace.listening) return err;
  here.trace.emit({
    type: 'stream',
    cpu: here.trace.cpu,
    program: prog.aux.main_prog_aux.name,
    stream: stream.name,
    dropped: err !== 0,
    text: () => partText(part),
  });
  return err;
}

/** bpf_stream_stage_commit(): 0, -EINVAL for an unknown stream, -ENOSPC when the report is dropped. */
export function bpf_stream_stage_commit(
  here: ThisCpu,
  prog: bpf_prog,
  stream_id: number,
  part: StreamPart,
): number {
  const stream = bpf_stream_get(stream_id, prog);
  return stream === null ? -EINVAL : push(here, prog, stream, part);
}

/**
 * bpf_stream_push_str(): a text of its own. The bytes are reserved before there is an element for them, and
 * nobody gives them back when there is none.
 * @param text as it lies in the buffer: a long one is cut to the buffer's size
 * @param len of the whole text
 * @returns 0, -ENOSPC, or -ENOMEM: more than MAX_BPRINTF_BUF bytes, or no memory
 */
export function bpf_stream_push_str(
  here: ThisCpu,
  env: BpfEnv,
  prog: bpf_prog,
  stream: bpf_stream,
  text: Uint8Array,
  len: number,
): number {
  const room = stream.capacity + len < BPF_STREAM_MAX_CAPACITY;
  const element = room && !noElement(env, len) ? text : null;
  const err = push(here, prog, stream, new Text(len, element));
  return err === 0 && element === null ? -ENOMEM : err;
}

/** bpf_stream_elem_alloc() fails. */
export function noElement(env: BpfEnv, len: number): boolean {
  return len > MAX_BPRINTF_BUF || env.allocationFails('bpf_stream_elem');
}

/** copy_to_user() of a reader's buffer: how many bytes, from some byte on, did not arrive. */
export type copy_to_user = (offset: number, bytes: Uint8Array) => Delegate<number>;

/**
 * Moves up to `len` bytes to the reader. Elements may be read in pieces; one that is read to its end is gone
 * and its bytes are free again.
 * @param len an int: a negative one asks for more bytes than anybody can copy, and nothing is read
 * @returns bytes moved, 0 when the stream is empty, or -EFAULT: then the element at which it happened
 *   keeps its place, those before it are gone
 */
export function* bpf_stream_read(
  here: ThisCpu,
  stream: bpf_stream,
  len: number,
  copy: copy_to_user,
): Path<number> {
  const fn = 'bpf_stream_read';
  let pos = 0;
  while (pos !== len) {
    const piece = nextPiece(stream, len - pos);
    if (yield* here.trace.decide(fn, '!node', piece === null)) break;
    if (piece === null) break;
    const left = len < 0 ? piece.length + 1 : yield* copy(pos, piece);
    if ((yield* here.trace.decide(fn, 'copy_to_user()', left)) !== 0) return -EFAULT;
    consume(stream, piece.length);
    pos += piece.length;
  }
  return pos;
}

/** What comes next, at most `len` bytes of it; null when there is nothing. */
function nextPiece(stream: bpf_stream, len: number): Uint8Array | null {
  const elem = bpf_stream_backlog_peek(stream);
  if (elem === null) return null;
  const from = stream.consumed_len;
  return elem.subarray(from, len < 0 ? elem.length : Math.min(elem.length, from + len));
}

/** bpf_stream_consume_elem(), and what follows when nothing is left of the element. */
function consume(stream: bpf_stream, bytes: number): void {
  const elem = stream.backlog[stream.backlog_head];
  if (elem === undefined) return;
  stream.consumed_len += bytes;
  if (stream.consumed_len < elem.length) return;
  stream.backlog_head += 1;
  stream.consumed_len = 0;
  stream.capacity -= elem.length;
}

/** The element to read next, after moving the log to the backlog when that is empty. */
function bpf_stream_backlog_peek(stream: bpf_stream): Uint8Array | null {
  if (stream.backlog_head === stream.backlog.length) {
    stream.backlog = stream.log.flatMap((part) => part.elements());
    stream.backlog_head = 0;
    stream.log = [];
  }
  return stream.backlog[stream.backlog_head] ?? null;
}

/** All that a reader would get now; takes nothing out of the stream. */
export function streamText(stream: bpf_stream): string {
  const elements = [
    ...stream.backlog.slice(stream.backlog_head),
    ...stream.log.flatMap((part) => part.elements()),
  ];
  return Buffer.concat(elements).subarray(stream.consumed_len).toString('utf8');
}

/** Text of one part. */
export function partText(part: StreamPart): string {
  return part
    .elements()
    .map((element) => decoder.decode(element))
    .join('');
}
