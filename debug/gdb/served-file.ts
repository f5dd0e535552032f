/** One file that gdb may read with `vFile` packets: "File-I/O" of the host, not of the target. Reading only. */
import { basename } from 'node:path';
import { fitting, PACKET_MAX } from './framing.js';
import { PacketError, parseBytes, parseSmall } from './hex.js';

/** As gdb numbers them. */
const ENOENT = 2;
const EBADF = 9;
const EACCES = 13;
const EINVAL = 22;
const EMFILE = 24;

const DESCRIPTORS = 16;
const S_IFREG = 0o100000;

export class ServedFile {
  readonly path: string;
  readonly #make: () => Uint8Array;
  /** Open files: what was there when it was opened. */
  readonly #open = new Map<number, Uint8Array>();

  /** @param make called when the file is opened */
  constructor(path: string, make: () => Uint8Array) {
    this.path = path;
    this.#make = make;
  }

  /** Whoever had it open has gone. */
  closeAll(): void {
    this.#open.clear();
  }

  /** The answer to `vFile:` + request; null for what it does not know. */
  answer(request: string): Uint8Array | null {
    const colon = request.indexOf(':');
    const operation = request.slice(0, colon < 0 ? undefined : colon);
    const args = colon < 0 ? [] : request.slice(colon + 1).split(',');
    switch (operation) {
      case 'setfs':
        return text('F0');
      case 'open':
        return this.#opened(args);
      case 'pread':
        return this.#read(args);
      case 'fstat':
        return this.#status(args);
      case 'close':
        return this.#open.delete(descriptor(args[0])) ? text('F0') : failed(EBADF);
      case 'pwrite':
      case 'unlink':
        return failed(EACCES);
      case 'readlink':
        return failed(EINVAL);
      default:
        return null;
    }
  }

  #opened([path, flags]: readonly string[]): Uint8Array {
    const name = Buffer.from(parseBytes(path ?? '')).toString('utf8');
    if (name !== this.path) return failed(ENOENT);
    // O_RDONLY is 0.
    if ((parseSmall(flags) & 3) !== 0) return failed(EACCES);
    const free = Array.from({ length: DESCRIPTORS }, (_, i) => i + 3).find((each) => !this.#open.has(each));
    if (free === undefined) return failed(EMFILE);
    this.#open.set(free, this.#make());
    return text(`F${free.toString(16)}`);
  }

  #read([fd, count, offset]: readonly string[]): Uint8Array {
    const file = this.#open.get(descriptor(fd));
    if (file === undefined) return failed(EBADF);
    const from = parseSmall(offset);
    const wanted = file.subarray(from, from + parseSmall(count));
    const bytes = fitting(wanted, PACKET_MAX - 16);
    return Uint8Array.from(Buffer.concat([text(`F${bytes.length.toString(16)};`), bytes]));
  }

  #status([fd]: readonly string[]): Uint8Array {
    const file = this.#open.get(descriptor(fd));
    if (file === undefined) return failed(EBADF);
    // struct stat of the protocol: big-endian; mode is the third word, the size stands at 28.
    const stat = new Uint8Array(64);
    const view = new DataView(stat.buffer);
    view.setUint32(8, S_IFREG | 0o444);
    view.setUint32(12, 1);
    view.setBigUint64(28, BigInt(file.length));
    view.setBigUint64(36, 4096n);
    view.setBigUint64(44, BigInt(Math.ceil(file.length / 512)));
    return Uint8Array.from(Buffer.concat([text('F40;'), stat]));
  }
}

function descriptor(word: string | undefined): number {
  if (word === undefined) throw new PacketError('no descriptor');
  return parseSmall(word);
}

function text(line: string): Uint8Array {
  return Buffer.from(line, 'latin1');
}

function failed(errno: number): Uint8Array {
  return text(`F-1,${errno.toString(16)}`);
}

/** The path as `qXfer:exec-file` has it. */
export function pathOf(name: string): string {
  return `/kfault/${basename(name).replace(/[^A-Za-z0-9._-]/g, '_')}`;
}
