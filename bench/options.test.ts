import { describe, expect, test } from '@jest/globals';
import { parseOptions } from './options.js';

function parse(...args: string[]) {
  const said = { out: '', err: '' };
  const output = {
    out: (text: string) => {
      said.out += text;
    },
    err: (text: string) => {
      said.err += text;
    },
  };
  try {
    return { options: parseOptions(args, output), ...said };
  } catch {
    return { options: null, ...said };
  }
}

describe('options of the benchmarks', () => {
  test('none: everything, five turns, a table', () => {
    expect(parse().options).toEqual({ json: false, only: null, turns: 5 });
  });

  test('all', () => {
    expect(parse('--json', '--only', 'Scratch|tlb', '--turns', '12').options).toEqual({
      json: true,
      only: /Scratch|tlb/i,
      turns: 12,
    });
  });

  test.each([
    [['--turns', '0'], "'0' is invalid. It is a number from 1 to 99."],
    [['--turns', '3.5'], "'3.5' is invalid. It is a number from 1 to 99."],
    [['--turns', '100'], "'100' is invalid. It is a number from 1 to 99."],
    [['--only', '('], "'(' is invalid. Invalid regular expression"],
    [['--jsn'], "unknown option '--jsn'"],
    [['tlb'], 'too many arguments'],
  ])('%j is refused, with the reason', (args, message) => {
    const { options, err, out } = parse(...args);
    expect(options).toBeNull();
    expect(err).toContain(message);
    expect(err).toContain('npm run bench -- --help');
    expect(out).toBe('');
  });

  test('help goes to standard output', () => {
    const { options, out, err } = parse('--help');
    expect(options).toBeNull();
    expect(out).toContain('--only <pattern>');
    expect(err).toBe('');
  });
});
