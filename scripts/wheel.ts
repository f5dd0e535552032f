/**
 * Reads members of a wheel, which is a zip file (PKWARE APPNOTE 6.3). Only what wheels use: one disk,
 * no encryption, no zip64, stored or deflated. The caller has checked the hash of the whole file, so
 * nothing here defends against a hostile one.
 */
import { inflateRawSync } from 'node:zlib';
import { messageOf } from './setup-error.js';

const END_OF_DIRECTORY = 0x06054b50;
const END_OF_DIRECTORY_SIZE = 22;
const DIRECTORY_ENTRY = 0x02014b50;
const DIRECTORY_ENTRY_SIZE = 46;
const LOCAL_HEADER = 0x04034b50;
const LOCAL_HEADER_SIZE = 30;
const STORED = 0;
const DEFLATED = 8;

/** The bytes are not a zip file of the kind this reader knows. */
export class WheelError extends Error {
  override name = 'WheelError';
}

export interface WheelMember {
  /** Path inside the wheel, with `/`. Folders end in `/`. */
  readonly path: string;
  /** Unpacks it. */
  bytes(): Buffer;
}

/**
 * Lists the members in the order of the zip directory.
 * @throws WheelError when it is not a zip file; `bytes()` throws one when that member is damaged
 */
export function readWheel(wheel: Buffer): WheelMember[] {
  const end = findEndOfDirectory(wheel);
  const count = wheel.readUInt16LE(end + 10);
  let at = wheel.readUInt32LE(end + 16);
  const members: WheelMember[] = [];
  for (let i = 0; i < count; i++) {
    if (at + DIRECTORY_ENTRY_SIZE > end || wheel.readUInt32LE(at) !== DIRECTORY_ENTRY) {
      throw new WheelError(`entry ${i} of the zip directory is damaged`);
    }
    const method = wheel.readUInt16LE(at + 10);
    const packed = wheel.readUInt32LE(at + 20);
    const size = wheel.readUInt32LE(at + 24);
    const nameLength = wheel.readUInt16LE(at + 28);
    const local = wheel.readUInt32LE(at + 42);
    const path = wheel.toString('utf8', at + DIRECTORY_ENTRY_SIZE, at + DIRECTORY_ENTRY_SIZE + nameLength);
    members.push({ path, bytes: () => unpack(wheel, { path, method, packed, size, local }) });
    at += DIRECTORY_ENTRY_SIZE + nameLength + wheel.readUInt16LE(at + 30) + wheel.readUInt16LE(at + 32);
  }
  return members;
}

/** The record stands at the very end, before a comment of at most 65535 bytes. */
function findEndOfDirectory(wheel: Buffer): number {
  const first = Math.max(0, wheel.length - END_OF_DIRECTORY_SIZE - 0xffff);
  for (let at = wheel.length - END_OF_DIRECTORY_SIZE; at >= first; at--) {
    if (wheel.readUInt32LE(at) === END_OF_DIRECTORY) return at;
  }
  throw new WheelError('not a zip file');
}

interface PackedMember {
  readonly path: string;
  readonly method: number;
  readonly packed: number;
  readonly size: number;
  /** Offset of the local header. */
  readonly local: number;
}

function unpack(wheel: Buffer, { path, method, packed, size, local }: PackedMember): Buffer {
  if (local + LOCAL_HEADER_SIZE > wheel.length || wheel.readUInt32LE(local) !== LOCAL_HEADER) {
    throw new WheelError(`${path}: its header is damaged`);
  }
  // Name and extra field have lengths of their own here: they need not be those of the directory.
  const start = local + LOCAL_HEADER_SIZE + wheel.readUInt16LE(local + 26) + wheel.readUInt16LE(local + 28);
  const data = wheel.subarray(start, start + packed);
  const bytes = method === STORED ? data : method === DEFLATED ? inflate(path, data) : undefined;
  if (bytes === undefined) throw new WheelError(`${path}: compression method ${method} is not known`);
  if (bytes.length !== size) throw new WheelError(`${path}: ${bytes.length} bytes instead of ${size}`);
  return bytes;
}

function inflate(path: string, data: Buffer): Buffer {
  try {
    return inflateRawSync(data);
  } catch (error) {
    throw new WheelError(`${path}: ${messageOf(error)}`);
  }
}
