/** References to memory as they go over the wire: addresses in hexadecimal, physical ones behind `phys:`. */
import { hex, u64 } from '../../emu/address.js';
import type { DebugSession } from '../api.js';
import { RequestError } from './request-error.js';

export interface MemoryPlace {
  readonly address: bigint;
  readonly physical: boolean;
}

export function reference(address: bigint): string {
  return hex(address);
}

export function physicalReference(pa: number): string {
  return `phys:${hex(BigInt(pa))}`;
}

/** Takes a reference and an offset in bytes. Throws a RequestError for what is none. */
export function parseReference(text: string, offset = 0): MemoryPlace {
  const match = /^\s*(phys:)?(0x[0-9a-f]{1,16}|[0-9]{1,20})\s*$/i.exec(text);
  if (match === null) {
    throw new RequestError(
      `\`${text.slice(0, 60)}\` is no reference to memory: an address such as 0x1000 is`,
    );
  }
  const physical = match[1] !== undefined;
  const value = BigInt(match[2] ?? 0);
  if (value !== u64(value)) throw new RequestError(`${text} is no address: it has more than 64 bits`);
  return { address: u64(value + BigInt(offset)), physical };
}

const PAGE = 4096n;
/** The most bytes that are read at once. */
const READ_MAX = 4 * 2 ** 20;

export interface ReadResult {
  readonly bytes: Uint8Array;
  /** Bytes behind them that cannot be read. */
  readonly unreadable: number;
}

/** Up to `count` bytes, as far as they can be read. */
export function read(session: DebugSession, place: MemoryPlace, count: number): ReadResult {
  const wanted = Math.min(count, READ_MAX);
  const { address, physical } = place;
  if (physical) {
    const { base, size } = session.ram;
    const from = Number(address);
    const length = from < base ? 0 : Math.max(0, Math.min(wanted, base + size - from));
    const bytes = length === 0 ? null : session.readPhysical(from, length);
    return { bytes: bytes ?? new Uint8Array(), unreadable: count - (bytes?.length ?? 0) };
  }
  const bytes = session.readMapped(address, wanted);
  if (bytes.length === wanted) return { bytes, unreadable: 0 };
  // Where memory goes on, if it does.
  let gap = bytes.length;
  while (gap < wanted) {
    const at = u64(address + BigInt(gap));
    if (session.readMapped(at, 1).length > 0) break;
    gap += Number(PAGE - (at % PAGE));
  }
  return { bytes, unreadable: Math.min(gap, count) - bytes.length };
}

/** Whether there is something to see at an address. */
export function isMapped(session: DebugSession, address: bigint): boolean {
  return session.readMapped(address, 1).length > 0;
}
