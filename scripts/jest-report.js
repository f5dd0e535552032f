/**
 * Jest reporter: writes how many tests passed and failed, as JSON, to the file that KFAULT_TEST_REPORT
 * names. Does nothing without it. A suite that could not run at all counts as one failed test.
 */
import { writeFileSync } from 'node:fs';

export default class CountReporter {
  onRunComplete(_contexts, results) {
    const path = process.env.KFAULT_TEST_REPORT;
    if (path === undefined || path === '') return;
    const passed = results.numPassedTests;
    const failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
    writeFileSync(path, `${JSON.stringify({ summary: { passed, failed } })}\n`);
  }
}
