/** Tests run as native ES modules, so that what is tested is what ships. */
export default {
  testEnvironment: 'node',
  // Some tests run every fixture, and the computer may be busy: what hangs is still found.
  testTimeout: 60_000,
  // Jest leaves one core idle otherwise, which of two is half of them.
  maxWorkers: '100%',
  // Node keeps the modules of every suite that has run; collecting garbage among them soon costs more than a new process.
  workerIdleMemoryLimit: '512MB',
  globalSetup: '<rootDir>/scripts/jest-global-setup.js',
  reporters: ['default', '<rootDir>/scripts/jest-report.js'],
  roots: [
    'arch',
    'bench',
    'boot',
    'bpf',
    'cli',
    'debug',
    'editors',
    'emu',
    'kernel',
    'mm',
    'oracle',
    'scripts',
    'vector',
  ].map((d) => `<rootDir>/${d}`),
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  // What is built and what parses fixtures: only the language's globals are made constants.
  transformIgnorePatterns: ['/node_modules/(?!zod/)'],
  sandboxInjectedGlobals: ['Array', 'Map', 'Math', 'Number', 'Object', 'RegExp', 'Set', 'String', 'Symbol'],
  transform: {
    '/(dist|zod)/.+\\.js$': '<rootDir>/scripts/jest-transform.js',
    '^.+\\.ts$': [
      '<rootDir>/scripts/jest-transform.js',
      { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'es6' } },
    ],
  },
};
