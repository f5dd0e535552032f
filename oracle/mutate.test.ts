import { describe, expect, test } from '@jest/globals';
import { applyMutant, mutantsOf } from './mutate.js';

const CODES = [['FAULT', 'ACCESS', 'PERM']];

/** What becomes of the body of a function. */
function mutated(body: string): string[] {
  const source = `function check() { ${body} }`;
  return mutantsOf(source, CODES, () => true).map((mutant) => applyMutant(source, mutant).slice(19, -2));
}

describe('mutants', () => {
  test.each([
    ['return a === b;', ['return a !== b;']],
    ['return a < b;', ['return a <= b;', 'return a >= b;']],
    ['return a >= b;', ['return a > b;', 'return a < b;']],
    ['return a && b;', ['return a || b;']],
    ['return a & b;', ['return a | b;']],
    ['return !a;', ['return a;']],
    ['a |= b;', ['a &= b;']],
    ['if (a) b();', ['if (!(a)) b();']],
    ['return a ? b : c;', ['return !(a) ? b : c;']],
    // Not twice: the operator is turned.
    ['if (a === b) c();', ['if (a !== b) c();']],
  ])('operators: %s', (body, expected) => {
    expect(mutated(body)).toEqual(expected);
  });

  test.each([
    ['return a >> 5;', ['return a >> 6;']],
    ['const A = 1 << 5;', ['const A = 1 << 6;']],
    ['const A = 0x80;', ['const A = 0x100;', 'const A = 0x40;']],
    ['const A = 0x1n;', ['const A = 2n;']],
    ['const A = 0x8000_0000n;', ['const A = 0x100000000n;', 'const A = 0x40000000n;']],
    ['f(3);', ['f(4);']],
  ])('bit constants: %s', (body, expected) => {
    expect(mutated(body)).toEqual(expected);
  });

  test.each([
    ['return FAULT;', ['return ACCESS;']],
    ['return a ? PERM : b;', ['return !(a) ? PERM : b;', 'return a ? FAULT : b;'].sort()],
    ['const a = FAULT;', []],
  ])('codes: %s', (body, expected) => {
    expect(mutated(body).sort()).toEqual(expected);
  });

  test('a constant of the file has a name', () => {
    const [mutant] = mutantsOf('export const BIT = 1 << 5;', CODES, (where) => where === 'BIT');
    expect(mutant).toMatchObject({ where: 'BIT', from: '5', to: '6' });
  });

  test('fallbacks, first values of fields and messages are left alone', () => {
    expect(mutated('return a[i] ?? 0;')).toEqual([]);
    expect(mutated('return (a[i & 3] ?? 0) & 1;')).toHaveLength(4);
    expect(mutantsOf('class C { x = 5; }', CODES, () => true)).toEqual([]);
    expect(mutated(`throw new Error(\`0x\${x.toString(16)}\`);`)).toEqual([]);
  });

  test('types and imports are left alone, and so are functions that nobody wants', () => {
    const source =
      "import { a } from 'b';\ntype T = 0 | 1;\nclass C { #x(): 5 { return 5; } y(): void { f(1); } }";
    const all = mutantsOf(source, CODES, () => true);
    expect(all.map(({ where, from, line }) => [where, from, line])).toEqual([
      ['#x', '5', 3],
      ['y', '1', 3],
    ]);
    expect(mutantsOf(source, CODES, (where) => where === 'y')).toEqual([all[1]]);
  });
});
