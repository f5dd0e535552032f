/**
 * Results for programs. Records of the kernel log have their level, the microseconds since boot, who printed
 * them (`T<pid>`, `C<cpu>`), and their text, which may hold several lines. The same input gives the same bytes,
 * unless timing is asked for.
 */
import type { FixtureResult } from '../run/result.js';

export function jsonReport(results: readonly FixtureResult[], options: { readonly timing: boolean }): string {
  const count = (status: string): number => results.filter((result) => result.status === status).length;
  const report = {
    summary: {
      fixtures: results.length,
      passed: count('passed'),
      failed: count('failed'),
      invalid: count('invalid'),
    },
    fixtures: results.map((result) => ({
      file: result.file,
      name: result.name,
      arch: result.arch,
      status: result.status,
      failures: result.failures.map(({ kind, where, line, column, expected, actual, diff, notes }) => ({
        kind,
        where,
        line,
        column,
        expected,
        actual,
        diff,
        notes,
      })),
      errors: result.errors.map(({ file, line, column, message, hint }) => ({
        file,
        line,
        column,
        message,
        hint,
      })),
      console: result.events.flatMap((event) =>
        event.type === 'console'
          ? [{ level: event.level, time: event.time, caller: event.caller, text: event.text }]
          : [],
      ),
      ...(options.timing ? { milliseconds: Math.round(result.milliseconds * 1000) / 1000 } : {}),
    })),
  };
  return `${JSON.stringify(report, null, 2)}\n`;
}
