import { describe, expect, test } from '@jest/globals';
import {
  type gen_pool,
  gen_pool_add,
  gen_pool_alloc,
  gen_pool_create,
  gen_pool_destroy,
  gen_pool_free,
} from './genalloc.js';
import { testCpu } from './testing.js';

const A = 0xffff_c900_2806_9000n;
const B = A + 0x10000n;

/** die_bug() does not return. */
const { here } = testCpu({
  arch: {
    die_bug: (_here, site) => {
      throw new Error(site);
    },
  },
});

/** gen_pool_avail() and gen_pool_size() of lib/genalloc.c: bytes of all ranges, free ones and all of them. */
function gen_pool_avail({ chunks }: gen_pool): number {
  return chunks.reduce((sum, { avail }) => sum + avail, 0);
}
function gen_pool_size({ chunks }: gen_pool): number {
  return chunks.reduce((sum, { start_addr, end_addr }) => sum + Number(end_addr - start_addr + 1n), 0);
}

function pool(order = 3) {
  const made = gen_pool_create(order);
  gen_pool_add(made, A, 64);
  return made;
}

describe('gen_pool', () => {
  test('gives whole units by first fit, and holes again', () => {
    const p = pool();
    expect([1, 8, 9].map((size) => gen_pool_alloc(p, size))).toEqual([A, A + 8n, A + 16n]);
    expect(gen_pool_avail(p)).toBe(64 - 32);
    gen_pool_free(here, p, A + 8n, 8);
    expect(gen_pool_alloc(p, 16)).toBe(A + 32n);
    expect(gen_pool_alloc(p, 3)).toBe(A + 8n);
  });

  test('gives nothing that is not in a row, and nothing for nothing', () => {
    const p = pool();
    const [, second = 0n] = [gen_pool_alloc(p, 24), gen_pool_alloc(p, 8), gen_pool_alloc(p, 32)];
    gen_pool_free(here, p, A, 24);
    expect([gen_pool_alloc(p, 32), gen_pool_alloc(p, 0)]).toEqual([0n, 0n]);
    gen_pool_free(here, p, second, 8);
    expect(gen_pool_alloc(p, 32)).toBe(A);
  });

  test('a range that is full to its last byte is used to its last byte', () => {
    const p = pool();
    expect(gen_pool_alloc(p, 64)).toBe(A);
    expect(gen_pool_alloc(p, 1)).toBe(0n);
  });

  test('looks into the newest range first', () => {
    const p = pool();
    gen_pool_add(p, B, 32);
    expect([gen_pool_alloc(p, 8), gen_pool_alloc(p, 32), gen_pool_alloc(p, 24)]).toEqual([B, A, B + 8n]);
    expect([gen_pool_size(p), gen_pool_avail(p)]).toEqual([96, 32]);
  });

  test('the unit is the order of the pool', () => {
    const p = pool(4);
    expect([gen_pool_alloc(p, 1), gen_pool_alloc(p, 1)]).toEqual([A, A + 16n]);
  });

  test.each([
    ['what is allocated in part', A + 8n, 16, 508],
    ['what leaves its range', A + 56n, 16, 505],
    ['what is not of the pool', B, 8, 518],
    ['the byte behind the range', A + 64n, 0, 518],
  ])('has a BUG() for %s', (_, addr, size, line) => {
    const p = pool();
    gen_pool_alloc(p, 16);
    expect(() => gen_pool_free(here, p, addr, size)).toThrow(`lib/genalloc.c:${line}`);
    expect(gen_pool_avail(p)).toBe(48);
  });

  test('frees word by word up to the one in which something is free already', () => {
    const p = gen_pool_create(0);
    gen_pool_add(p, A, 256);
    gen_pool_alloc(p, 100);
    expect(() => gen_pool_free(here, p, A + 10n, 100)).toThrow('lib/genalloc.c:508');
    expect(p.chunks[0]?.bits.join('')).toBe(
      `${'1'.repeat(10)}${'0'.repeat(54)}${'1'.repeat(36)}${'0'.repeat(156)}`,
    );
    expect(gen_pool_avail(p)).toBe(156);
  });

  test('has a BUG() when it is to go while something is out; nothing can always be given back', () => {
    const p = pool();
    gen_pool_alloc(p, 16);
    expect(() => {
      gen_pool_destroy(here, p);
    }).toThrow('lib/genalloc.c');
    gen_pool_free(here, pool(), A, 0);
  });

  test('can be destroyed when all is back', () => {
    const p = pool();
    const at = gen_pool_alloc(p, 20);
    gen_pool_free(here, p, at, 20);
    gen_pool_destroy(here, p);
    expect(gen_pool_size(p)).toBe(0);
  });
});
