/**
 * Port of kernel/bpf/stream.c (bpf-next merge 8496d9020ff3): the two text streams of a main program.
 *
 * The kernel formats a report when it is made. Here a part of a stream is data that knows its exact
 * length; its text is made when somebody reads. What a reader or a full stream sees is the same.
 *
 * Left out: the per-CPU format buffers and their nesting limit, bprintf formats of programs (text arrives
 * formatted), the lock of the readers. Of BPF_PROG_STREAM_READ_BY_FD the reading is here, the attribute
 * and file-descriptor checks belong to a system call.
 */
import type { ThisCpu } from '../arch/arch.js';
import { EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC } from '../kernel/errno.js';
import type { bpf_prog } from './program.js';

export const BPF_STDOUT = 1;
export const BPF_STDERR = 2;
/** Bytes that a stream refuses to reach; it holds at most one less. */
export const BPF_STREAM_MAX_CAPACITY = 100_000;
/** Largest element, in bytes. */
export const MAX_BPRINTF_BUF = 1024;
/** Arguments of bpf_stream_vprintk(), in bytes: MAX_BPRINTF_VARARGS of 8. */
const MAX_VARARGS_SIZE = 96;

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

/** One formatted text; without an element when it is too long for one. */
class Text implements StreamPart {
  readonly len: number;
  readonly #elements: readonly Uint8Array[];
  constructor(text: Uint8Array) {
    const element = stageElement(text);
    this.len = text.length;
    this.#elements = element === null ? [] : [element];
  }
  elements(): readonly Uint8Array[] {
    return this.#elements;
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
 * The kfunc bpf_stream_vprintk() of a program.
 * @param text what the format came to, untruncated
 * @param len__sz size of the argument array in bytes; `hasArgs` says whether there is one
 * @returns 0, -ENOENT, -EINVAL, -ENOSPC, or -ENOMEM for more than MAX_BPRINTF_BUF bytes: those count
 *   against the capacity for ever although nobody can read them
 */
export function bpf_stream_vprintk(
  here: ThisCpu,
  prog: bpf_prog,
  stream_id: number,
  text: Uint8Array,
  len__sz = 0,
  hasArgs = len__sz > 0,
): number {
  const stream = bpf_stream_get(stream_id, prog);
  if (stream === null) return -ENOENT;
  if (len__sz % 8 !== 0 || len__sz > MAX_VARARGS_SIZE || (len__sz > 0 && !hasArgs)) return -EINVAL;
  const err = push(here, prog, stream, new Text(text));
  return err === 0 && text.length > MAX_BPRINTF_BUF ? -ENOMEM : err;
}

/** Takes bytes to the reader at `offset` of his buffer; false when his memory refuses. */
export type copy_to_user = (offset: number, bytes: Uint8Array) => boolean;

/**
 * bpf_stream_read(): moves up to `len` bytes to the reader. Elements may be read in pieces; one that is
 * read to its end is gone and its bytes are free again.
 * @returns bytes moved, 0 when the stream is empty, or -EFAULT: then the element at which it happened
 *   keeps its place, those before it are gone
 */
export function bpf_stream_read(stream: bpf_stream, len: number, copy: copy_to_user): number {
  let pos = 0;
  while (pos < len) {
    const elem = bpf_stream_backlog_peek(stream);
    if (elem === null) break;
    const cons = Math.min(elem.length - stream.consumed_len, len - pos);
    if (!copy(pos, elem.subarray(stream.consumed_len, stream.consumed_len + cons))) return -EFAULT;
    stream.consumed_len += cons;
    pos += cons;
    if (stream.consumed_len < elem.length) continue;
    stream.backlog_head += 1;
    stream.consumed_len = 0;
    stream.capacity -= elem.length;
  }
  return pos;
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

/** bpf_prog_stream_read(): as bpf_stream_read() on a program's stream; -ENOENT for an unknown id. */
export function bpf_prog_stream_read(
  prog: bpf_prog,
  stream_id: number,
  len: number,
  copy: copy_to_user,
): number {
  const stream = bpf_stream_get(stream_id, prog);
  return stream === null ? -ENOENT : bpf_stream_read(stream, len, copy);
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
