/** Tests run as native ES modules, so that what is tested is what ships. */
export default {
  testEnvironment: 'node',
  // Some tests run every fixture, and the computer may be busy: what hangs is still found.
  testTimeout: 60_000,
  globalSetup: '<rootDir>/scripts/jest-global-setup.js',
  reporters: ['default', '<rootDir>/scripts/jest-report.js'],
  roots: [
    'arch',
    'bench',
    'boot',
    'bpf',
    'cli',
    'debug',
    'emu',
    'kernel',
    'mm',
    'oracle',
    'scripts',
    'vector',
  ].map((d) => `<rootDir>/${d}`),
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'es6' } },
    ],
  },
};
