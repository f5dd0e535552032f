import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { countOf, GROUPS, numbersOf } from './command.js';
import { CommandError } from './command-error.js';
import { allCommands } from './commands/index.js';

const table = allCommands();
const named = (text: string): string => table.parse(text).command.name;

// Abbreviations as `help` of gdb 13 lists them, or as gdb resolves them.
describe('names and abbreviations that gdb knows', () => {
  test.each([
    ['si', 'stepi'],
    ['stepi', 'stepi'],
    ['ni', 'nexti'],
    ['nexti', 'nexti'],
    ['s', 'step'],
    ['n', 'next'],
    ['rsi', 'reverse-stepi'],
    ['reverse-stepi', 'reverse-stepi'],
    ['rni', 'reverse-nexti'],
    ['reverse-nexti', 'reverse-nexti'],
    ['rs', 'reverse-step'],
    ['rn', 'reverse-next'],
    ['rc', 'reverse-continue'],
    ['reverse-continue', 'reverse-continue'],
    ['reverse-finish', 'reverse-finish'],
    ['c', 'continue'],
    ['cont', 'continue'],
    ['fg', 'continue'],
    ['fin', 'finish'],
    ['finish', 'finish'],
    ['u 0', 'until'],
    ['until 0', 'until'],
    ['advance 0', 'until'],
    ['b x', 'break'],
    ['br x', 'break'],
    ['break x', 'break'],
    ['tb x', 'tbreak'],
    ['tbreak x', 'tbreak'],
    ['hbreak x', 'break'],
    ['wat x', 'watch'],
    ['watch x', 'watch'],
    ['rw x', 'rwatch'],
    ['aw x', 'awatch'],
    ['d 1', 'delete'],
    ['del', 'delete'],
    ['en', 'enable'],
    ['dis 1', 'disable'],
    ['disable', 'disable'],
    ['disas', 'disassemble'],
    ['disassemble', 'disassemble'],
    ['i r', 'info registers'],
    ['info reg rax', 'info registers'],
    ['info registers', 'info registers'],
    ['i b', 'info breakpoints'],
    ['info break', 'info breakpoints'],
    ['info watchpoints', 'info breakpoints'],
    ['i sym 0', 'info symbol'],
    ['info symbol 0', 'info symbol'],
    ['info all-registers', 'info all-registers'],
    ['info fun', 'info functions'],
    ['info var', 'info variables'],
    ['info thr', 'cpu'],
    ['p 1', 'print'],
    ['inspect 1', 'print'],
    ['print 1', 'print'],
    ['x 0', 'x'],
    ['x/4xg 0', 'x'],
    ['set var $pc=0', 'set'],
    ['disp 1', 'display'],
    ['undisp 1', 'undisplay'],
    ['bt', 'backtrace'],
    ['where', 'backtrace'],
    ['backtrace', 'backtrace'],
    ['f', 'frame'],
    ['l', 'list'],
    ['r', 'run'],
    ['start', 'start'],
    ['record goto end', 'goto'],
    ['h', 'help'],
    ['q', 'quit'],
    ['exit', 'quit'],
    ['so f', 'source'],
  ])('%s is %s', (text, name) => {
    expect(named(text)).toBe(name);
  });
});

describe('what gdb lacks', () => {
  test.each([
    ['path', 'path'],
    ['ff', 'finish-fault'],
    ['walk 0', 'walk'],
    ['pte 0', 'pte'],
    ['vmas', 'vmas'],
    ['layout', 'layout'],
    ['arena', 'arena'],
    ['kfence', 'kfence'],
    ['console', 'console'],
    ['dmesg', 'console'],
    ['streams', 'streams'],
    ['fixture', 'fixture'],
    ['fs', 'fixture-step'],
    ['fix', 'fixture'],
  ])('%s is %s', (text, name) => {
    expect(named(text)).toBe(name);
  });
});

test('arguments and formats are cut off', () => {
  expect(table.parse('  x/4xg   a.page(3) + 8 ')).toMatchObject({ format: '4xg', argument: 'a.page(3) + 8' });
  expect(table.parse('p/d$rax')).toMatchObject({ format: 'd', argument: '$rax' });
  // gdb takes the format behind blanks, too.
  expect(table.parse('x /4xg $sp')).toMatchObject({ format: '4xg', argument: '$sp' });
  expect(table.parse('disas /r')).toMatchObject({ format: 'r', argument: '' });
  expect(table.parse('source /tmp/x')).toMatchObject({ format: '', argument: '/tmp/x' });
  expect(table.parse('info registers rax')).toMatchObject({ format: '', argument: 'rax' });
  expect(table.parse('b*$pc')).toMatchObject({ argument: '*$pc' });
  expect(table.parse('i r')).toMatchObject({ argument: '' });
});

describe('what cannot be understood is one line', () => {
  test.each([
    ['foo', 'Undefined command: "foo".  Try "help".'],
    ['wakl 0', 'Undefined command: "wakl".  Try "help": did you mean `walk`?'],
    ['+', 'Undefined command: "+".  Try "help".'],
    [
      're',
      'Ambiguous command "re": reverse-continue, reverse-finish, reverse-finish-fault, reverse-fixture-step, reverse-next, reverse-nexti, reverse-step, reverse-stepi.',
    ],
    ['di', 'Ambiguous command "di": disable, disassemble, display.'],
    [
      'info',
      '"info" must be followed by one of breakpoints, registers, all-registers, symbol, address, changes, program, functions and variables',
    ],
    ['info foo', 'Undefined info command: "foo".  Try "help info".'],
    ['info a', 'Ambiguous info command "a": address, all-registers.'],
    ['stepi/x', 'stepi takes no format: /x means nothing here'],
  ])('%s', (text, message) => {
    expect(() => table.parse(text)).toThrow(new CommandError(message));
  });
});

test('counts and numbers', () => {
  expect([countOf('', 'x'), countOf('12', 'x')]).toEqual([1, 12]);
  for (const bad of ['0', '-1', 'x', '1.5', '99999999'])
    expect(() => countOf(bad, 'stepi')).toThrow(CommandError);
  expect(numbersOf('1 3-5, 7')).toEqual([1, 3, 4, 5, 7]);
  for (const bad of ['x', '3-1', '1-', '$1']) expect(() => numbersOf(bad)).toThrow(CommandError);
});

describe('help', () => {
  test('each command has a sentence and examples that are understood as itself', () => {
    for (const command of table.all) {
      expect([command.name, /^[A-Z].*[.)]$/.test(command.summary)]).toEqual([command.name, true]);
      expect(command.examples.length).toBeGreaterThan(0);
      for (const example of command.examples)
        expect([example, named(example)]).toEqual([example, command.name]);
    }
  });

  test('docs/debugger.md shows each of them', () => {
    const text = readFileSync(new URL('../../docs/debugger.md', import.meta.url), 'utf8');
    const left = table.names.filter((name) => !new RegExp(`(\`|"|^)${name}\\b`, 'm').test(text));
    expect(left).toEqual([]);
  });

  test('each group has commands', () => {
    for (const group of Object.keys(GROUPS))
      expect(table.all.some((command) => command.group === group)).toBe(true);
  });
});
