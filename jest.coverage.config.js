/** `npm run coverage`: how much of the fault paths the tests of arch/ and boot/ take; docs/testing.md has the rest. */
import config from './jest.config.js';

export default {
  ...config,
  collectCoverage: true,
  collectCoverageFrom: ['arch/*/fault*.ts', 'arch/*/extable.ts', '!**/*.test.ts'],
  coverageReporters: ['text'],
  coverageThreshold: {
    './arch/*/fault.ts': { branches: 95 },
    './arch/*/fault-{user,oops,kernel,report}.ts': { branches: 94 },
    './arch/*/extable.ts': { branches: 95 },
  },
};
