import { describe, expect, test } from '@jest/globals';
import { StraightenError, straighten } from './straighten.js';

/** Blanks do not count. */
function squeezed(source: string): string {
  return source.replaceAll(/\s+/g, ' ').trim();
}

describe('straighten', () => {
  test('paths become plain functions, in every form a function has', () => {
    const source = `
      export function* walk(here) { return yield* step(here); }
      const port1 = port('f', [], function* (here) { if (yield* here.trace.decide('f', 'x', true)) return 1; });
      class Unwinder { static *start(a) { yield* a(); } async other() {} }
    `;
    expect(squeezed(straighten('x.js', source))).toBe(
      squeezed(`
        export function walk(here) { return step(here); }
        const port1 = port('f', [], function (here) { if (here.trace.decide('f', 'x', true)) return 1; });
        class Unwinder { static start(a) { a(); } async other() {} }
      `),
    );
  });

  test('lines stay where they are', () => {
    const source = 'function* f() {\n  const a = yield* g(yield* h());\n  return a;\n}\n';
    expect(straighten('x.js', source)).toBe('function f() {\n  const a = g(h());\n  return a;\n}\n');
  });

  test('iterators of collections stay generators', () => {
    const source = 'class List { *[Symbol.iterator]() { for (const c of this.chunks) yield* c; } }';
    expect(squeezed(straighten('x.js', source))).toBe(
      'class List { *[Symbol.iterator]() { for (const c of this.chunks) yield* c; } }',
    );
  });

  test('a path that yields by itself is refused, with its place', () => {
    expect(() => straighten('mm/x.js', 'const a = 1;\nfunction* f() { yield a; }')).toThrow(
      new StraightenError('mm/x.js:2: a path only delegates (yield*), it never yields'),
    );
  });
});
