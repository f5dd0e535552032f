import { describe, expect, test } from '@jest/globals';
import { CommanderError } from 'commander';
import { parseOptions } from './options.js';

function parse(...args: string[]): { options: unknown; said: string } {
  let said = '';
  const note = (text: string): void => {
    said += text;
  };
  try {
    return { options: parseOptions(args, { out: note, err: note }), said };
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return { options: error.exitCode, said };
  }
}

describe('options of the oracle', () => {
  test('without any, both architectures get 25,000 cases', () => {
    expect(parse().options).toEqual({ seed: 1, count: 25_000, arches: ['x86-64', 'arm64'], json: false });
  });

  test('all of them', () => {
    const { options } = parse('--seed', '0xff', '--count', '7', '--arch', 'arm64', '--json');
    expect(options).toEqual({ seed: 255, count: 7, arches: ['arm64'], json: true });
  });

  test.each([
    [['--seed', '-1'], 'A seed is a whole number from 0 to 4294967295.'],
    [['--seed', '1.5'], 'A seed is a whole number'],
    [['--count', '0'], 'A count is a whole number from 1 to 100000000.'],
    [['--count', '1e3'], 'A count is a whole number'],
    [['--arch', 'mips'], 'Allowed choices are x86-64, arm64.'],
    [['--sed', '1'], "unknown option '--sed'"],
    [['1'], 'too many arguments'],
  ])('%j is refused', (args, message) => {
    const { options, said } = parse(...args);
    expect(options).toBe(1);
    expect(said).toContain(message);
    expect(said).toContain('npm run oracle -- --help');
  });
});
