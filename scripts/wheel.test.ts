import { describe, expect, test } from '@jest/globals';
import { SAMPLE_LIBRARY, SAMPLE_WHEEL } from './sample-wheel.js';
import { readWheel, WheelError } from './wheel.js';

function textOf(wheel: Buffer, path: string): string | undefined {
  return readWheel(wheel)
    .find((member) => member.path === path)
    ?.bytes()
    .toString();
}

describe('readWheel', () => {
  test('lists all members and unpacks stored and deflated ones', () => {
    expect(readWheel(SAMPLE_WHEEL).map((member) => member.path)).toEqual([
      'unicorn/',
      'unicorn/__init__.py',
      'unicorn/lib/libunicorn.so.2',
      'unicorn/lib/libunicorn.a',
      'unicorn-2.1.4.dist-info/METADATA',
      'unicorn-2.1.4.dist-info/licenses/COPYING',
    ]);
    expect(textOf(SAMPLE_WHEEL, 'unicorn/lib/libunicorn.so.2')).toBe(SAMPLE_LIBRARY);
    expect(textOf(SAMPLE_WHEEL, 'unicorn-2.1.4.dist-info/METADATA')).toBe('Name: unicorn\n');
    expect(textOf(SAMPLE_WHEEL, 'unicorn-2.1.4.dist-info/licenses/COPYING')).toBe('terms\n'.repeat(9));
  });

  test.each([
    ['nothing', Buffer.alloc(0)],
    ['no zip', Buffer.from('<html>404</html>'.repeat(100))],
    ['a zip cut off at its end', SAMPLE_WHEEL.subarray(0, -60)],
  ])('refuses %s', (_, bytes) => {
    expect(() => readWheel(bytes)).toThrow(WheelError);
  });

  test('refuses a damaged member, and only that one', () => {
    const damaged = Buffer.from(SAMPLE_WHEEL);
    const name = 'unicorn/lib/libunicorn.so.2';
    const data = damaged.indexOf(name) + name.length;
    damaged.fill(0xff, data, data + 8);
    expect(() => textOf(damaged, name)).toThrow(WheelError);
    expect(textOf(damaged, 'unicorn/__init__.py')).toBe('pass\n');
  });
});
