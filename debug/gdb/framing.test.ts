import { describe, expect, test } from '@jest/globals';
import { fitting, type Item, PACKET_MAX, PacketReader, packet } from './framing.js';

const bytes = (text: string): Uint8Array => Buffer.from(text, 'latin1');

function read(...parts: (string | Uint8Array)[]): string[] {
  const reader = new PacketReader();
  return parts.flatMap((part) => reader.push(typeof part === 'string' ? bytes(part) : part)).map(textOf);
}

function textOf(item: Item): string {
  return item.kind === 'packet' ? `packet ${Buffer.from(item.data).toString('latin1')}` : item.kind;
}

describe('reading', () => {
  // Sums from gdb's manual ("Overview", "Packet Acknowledgment") and from recorded sessions.
  test('packets, acknowledgements and the interrupt', () => {
    expect(read('+$qSupported#37\x03-$?#3f')).toEqual([
      'ack',
      'packet qSupported',
      'interrupt',
      'nak',
      'packet ?',
    ]);
    expect(read('$Hg0#df', '$vCont;c#a8')).toEqual(['packet Hg0', 'packet vCont;c']);
  });

  test('in pieces of one byte', () => {
    expect(read(...'$vMustReplyEmpty#3a'.split(''))).toEqual(['packet vMustReplyEmpty']);
  });

  test('an escaped byte is what it is without bit 5 of what follows', () => {
    expect(read('$}\x03}\x04}]}\x0a#65'.replace('#65', sumOf('}\x03}\x04}]}\x0a')))).toEqual(['packet #$}*']);
  });

  test('the interrupt byte within a packet is data', () => {
    expect(read(`$X1,1:\x03${sumOf('X1,1:\x03')}`)).toEqual(['packet X1,1:\x03']);
  });

  test('a wrong sum, and digits that are none', () => {
    expect(read('$g#68$g#67')).toEqual(['bad', 'packet g']);
    expect(read('$g#6x$g#67')).toEqual(['bad', 'packet g']);
  });

  test('what is cut short ends where the next one begins', () => {
    expect(read('$m00,4$g#67')).toEqual(['packet g']);
    expect(read('$m00,4#$g#67')).toEqual(['bad', 'packet g']);
    expect(read('$m00,4#0$g#67')).toEqual(['bad', 'packet g']);
  });

  test('one that is too long is bad, and the next one is read', () => {
    const long = 'm'.repeat(PACKET_MAX + 1);
    expect(read(`$${long}${sumOf(long)}$g#67`)).toEqual(['bad', 'packet g']);
    const longest = 'm'.repeat(PACKET_MAX);
    expect(read(`$${longest}${sumOf(longest)}`)).toEqual([`packet ${longest}`]);
  });
});

function sumOf(data: string): string {
  const sum = bytes(data).reduce((all, byte) => (all + byte) % 256, 0);
  return `#${sum.toString(16).padStart(2, '0')}`;
}

describe('writing', () => {
  test('the sum is that of the escaped bytes', () => {
    expect(Buffer.from(packet(bytes('OK'))).toString('latin1')).toBe('$OK#9a');
    expect(Buffer.from(packet(new Uint8Array())).toString('latin1')).toBe('$#00');
    expect(Buffer.from(packet(bytes('a#b'))).toString('latin1')).toBe(`$a}\x03b${sumOf('a}\x03b')}`);
  });

  test('every byte comes back', () => {
    const all = Uint8Array.from({ length: 256 }, (_, i) => i);
    const [item] = new PacketReader().push(packet(all));
    expect(item).toEqual({ kind: 'packet', data: all });
  });

  test('as much as fits', () => {
    expect(fitting(bytes('ab#d'), 3)).toEqual(bytes('ab'));
    expect(fitting(bytes('ab#d'), 4)).toEqual(bytes('ab#'));
    expect(fitting(bytes('ab#d'), 5)).toEqual(bytes('ab#d'));
  });
});
