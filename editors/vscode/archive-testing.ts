/** Reads a zip archive, as far as packages of extensions use the format. */
import { readFileSync } from 'node:fs';
import { inflateRawSync } from 'node:zlib';

export interface ArchivedFile {
  readonly name: string;
  readonly text: string;
  /** MS-DOS date and time, as in the archive. */
  readonly date: number;
  readonly time: number;
  /** Unix mode with the type of file. */
  readonly mode: number;
}

const END_OF_DIRECTORY = 0x06054b50;
const DIRECTORY_ENTRY = 0x02014b50;
const LOCAL_HEADER = 0x04034b50;

/** The files of an archive without a comment, in the order of its directory. Throws for anything else. */
export function readArchive(file: string): readonly ArchivedFile[] {
  const bytes = readFileSync(file);
  const end = bytes.length - 22;
  expectSignature(bytes, end, END_OF_DIRECTORY);
  const count = bytes.readUInt16LE(end + 10);
  const files: ArchivedFile[] = [];
  let entry = bytes.readUInt32LE(end + 16);
  for (let i = 0; i < count; i++) {
    expectSignature(bytes, entry, DIRECTORY_ENTRY);
    const nameLength = bytes.readUInt16LE(entry + 28);
    files.push({
      name: bytes.toString('utf8', entry + 46, entry + 46 + nameLength),
      text: contents(bytes, entry).toString('utf8'),
      time: bytes.readUInt16LE(entry + 12),
      date: bytes.readUInt16LE(entry + 14),
      mode: bytes.readUInt16LE(entry + 40),
    });
    entry += 46 + nameLength + bytes.readUInt16LE(entry + 30) + bytes.readUInt16LE(entry + 32);
  }
  return files;
}

function contents(bytes: Buffer, entry: number): Buffer {
  const method = bytes.readUInt16LE(entry + 10);
  const length = bytes.readUInt32LE(entry + 20);
  const local = bytes.readUInt32LE(entry + 42);
  expectSignature(bytes, local, LOCAL_HEADER);
  const start = local + 30 + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28);
  const stored = bytes.subarray(start, start + length);
  switch (method) {
    case 0:
      return stored;
    case 8:
      return inflateRawSync(stored);
    default:
      throw new Error(`compression method ${method}`);
  }
}

function expectSignature(bytes: Buffer, at: number, signature: number): void {
  if (at < 0 || bytes.readUInt32LE(at) !== signature) throw new Error(`no zip archive: byte ${at}`);
}
