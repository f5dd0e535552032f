/** Writes docs/coverage.md. Exit status 1 when a case has neither a fixture nor a reason. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { COVERAGE_FILE, coverageText, readCoverage, uncovered } from './coverage.js';

const root = process.cwd();
const coverage = readCoverage(root);
writeFileSync(join(root, COVERAGE_FILE), coverageText(coverage));
const missing = uncovered(coverage);
const problems = [
  ...(missing.length === 0 ? [] : [`cases without a fixture: ${missing.join(', ')}`]),
  ...coverage.broken,
  ...coverage.unknown.map((each) => `no such case: ${each}`),
];
process.stdout.write(`${COVERAGE_FILE}: ${coverage.rows.length} cases\n`);
if (problems.length > 0) {
  process.stderr.write(`${problems.join('\n')}\n`);
  process.exitCode = 1;
}
