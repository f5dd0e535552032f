/**
 * Jest transformer: TypeScript by swc, with the language's own globals as constants of the module. Jest runs modules
 * in a context whose global object is asked through an interceptor: each `BigInt(x)` or `Math.floor(x)` costs there
 * a hundred times what it does outside, and the whole suite twice its time. Plain JavaScript: jest loads this file
 * without transforming it.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import swc from '@swc/jest';

/** Never replaced by a test (emu/ram.test.ts replaces ArrayBuffer). */
export const GLOBALS = [
  'Array',
  'BigInt',
  'BigUint64Array',
  'Buffer',
  'DataView',
  'Error',
  'Int32Array',
  'JSON',
  'Map',
  'Math',
  'Number',
  'Object',
  'Promise',
  'RegExp',
  'Set',
  'String',
  'Symbol',
  'Uint16Array',
  'Uint32Array',
  'Uint8Array',
];

const self = readFileSync(new URL(import.meta.url));

/** On the first line, so that lines stay where they are. */
function withConstants(result) {
  const used = GLOBALS.filter((name) => new RegExp(`\\b${name}\\b`).test(result.code));
  return used.length === 0
    ? result
    : { ...result, code: `const { ${used.join(', ')} } = globalThis; ${result.code}` };
}

/** JavaScript that is an ES module as it stands. */
function isPlain(file) {
  return file.endsWith('.js');
}

export default {
  createTransformer(options) {
    const transformer = swc.createTransformer(options);
    return {
      ...transformer,
      process: (source, file, ...rest) =>
        withConstants(isPlain(file) ? { code: source } : transformer.process(source, file, ...rest)),
      processAsync: async (source, file, ...rest) =>
        withConstants(
          isPlain(file) ? { code: source } : await transformer.processAsync(source, file, ...rest),
        ),
      getCacheKey: (...args) =>
        createHash('sha1')
          .update(self)
          .update(transformer.getCacheKey(...args))
          .digest('hex'),
    };
  },
};
