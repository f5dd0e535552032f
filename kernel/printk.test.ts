import { expect, test } from '@jest/globals';
import { KERN_ALERT, KERN_DEFAULT } from '../arch/kernel.js';
import { record_print_text } from './printk.js';
import { testCpu } from './testing.js';

const RECORD = { level: 1, text: 'first\n\nlast', time: 12_345_678, caller: 'T100' };

test.each([
  ['nothing', { levels: false, time: false, caller: false }, ''],
  ['the level', { levels: true, time: false, caller: false }, '<1>'],
  ['the time', { levels: false, time: true, caller: false }, '[   12.345678] '],
  ['the caller', { levels: false, time: false, caller: true }, '[  T100] '],
  ['all of them', { levels: true, time: true, caller: true }, '<1>[   12.345678][  T100] '],
])('a console writes %s in front of each line of a record', (_, format, prefix) => {
  expect(record_print_text(RECORD, format)).toEqual([`${prefix}first`, prefix, `${prefix}last`]);
});

test('a time of more than 99999 seconds is as wide as it is', () => {
  const time = { levels: false, time: true, caller: false };
  expect(record_print_text({ ...RECORD, text: 'x', time: 123_456_000_005 }, time)).toEqual([
    '[123456.000005] x',
  ]);
});

test('a record knows when it was printed and by whom: the task, or the CPU in an interrupt', () => {
  const { here, console, clock, log } = testCpu({ id: 3 });
  clock.advance(1_500_000);
  here.kernel.printk(here, KERN_DEFAULT, 'in a task');
  here.current.in_interrupt = 1;
  clock.advance(1);
  here.kernel.printk(here, KERN_ALERT, 'in an interrupt');
  expect(console.records).toEqual([
    { level: KERN_DEFAULT, text: 'in a task', time: 1_500_000, caller: 'T100' },
    { level: KERN_ALERT, text: 'in an interrupt', time: 1_500_001, caller: 'C3' },
  ]);
  expect(log.events).toEqual(console.records.map((record) => ({ type: 'console', cpu: 3, ...record })));
  expect(() => clock.advance(-1)).toThrow(/time goes forwards/);
});
