/** Numbers and bytes as the GDB remote protocol writes them. */

/** The packet is none that the protocol has, or its numbers are none. */
export class PacketError extends Error {
  override name = 'PacketError';
}

/** A number of 1 to 16 hexadecimal digits, big end first, as addresses are written. */
export function parseHex(text: string | undefined): bigint {
  if (text === undefined || !/^[0-9a-f]{1,16}$/i.test(text)) throw new PacketError(`no number: ${text}`);
  return BigInt(`0x${text}`);
}

/** The same for lengths and offsets. Throws a PacketError when it is not below 2^32. */
export function parseSmall(text: string | undefined): number {
  const value = parseHex(text);
  if (value >= 0x1_0000_0000n) throw new PacketError(`too large: ${text}`);
  return Number(value);
}

/** Two digits for each byte. */
export function parseBytes(text: string): Uint8Array {
  if (!/^([0-9a-f]{2})*$/i.test(text)) throw new PacketError('no bytes');
  return Uint8Array.from(Buffer.from(text, 'hex'));
}

export function hexBytes(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}

export function hexText(text: string): string {
  return Buffer.from(text, 'utf8').toString('hex');
}

/** `value` in the target's byte order, which is little-endian. */
export function hexWord(value: bigint, bytes: number): string {
  let out = '';
  for (let i = 0; i < bytes; i++) {
    out += Number((value >> BigInt(8 * i)) & 0xffn)
      .toString(16)
      .padStart(2, '0');
  }
  return out;
}

export function parseWord(text: string): bigint {
  return parseBytes(text).reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}
