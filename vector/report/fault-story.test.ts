import { describe, expect, test } from '@jest/globals';
import type { Event, RunOutcome } from '../../emu/events.js';
import { scratchFault } from '../machine/fake-machine.js';
import { entered, faultStories, resolvedBy, streamText } from './fault-story.js';

const cpu = 0;
const fault = (address: bigint, on = cpu): Event => ({
  type: 'fault',
  cpu: on,
  exception: '#PF',
  pc: 0x1000n,
  address,
  code: 0n,
  access: 'read',
});
const enter = (fn: string, on = cpu): Event => ({ type: 'enter', cpu: on, fn, argNames: [], args: [] });
const leave = (fn: string, value: boolean | number): Event => ({ type: 'leave', cpu, fn, value });
const resolved = (how: 'retry' | 'fixup', on = cpu): Event => ({
  type: 'resolved',
  cpu: on,
  how,
  pc: 0x1000n,
});
const dead: Event = { type: 'resolved', cpu, how: 'dead', pc: 0x1000n };
const outcome = (end: RunOutcome): Event => ({ type: 'outcome', cpu, outcome: end });

describe('what resolved a fault', () => {
  test.each<[string, Event[], string]>([
    ['the arena', scratchFault().slice(2), 'scratch'],
    ['KFENCE', [leave('kfence_handle_page_fault', true), resolved('retry')], 'kfence'],
    [
      'KFENCE said no, then the arena yes',
      [
        leave('kfence_handle_page_fault', false),
        leave('bpf_arena_handle_page_fault', true),
        resolved('retry'),
      ],
      'scratch',
    ],
    ['the spurious check of x86', [leave('spurious_kernel_fault', true), resolved('retry')], 'spurious'],
    ['that of arm64', [leave('is_spurious_el1_translation_fault', true), resolved('retry')], 'spurious'],
    ['the VM', [leave('handle_mm_fault', 0), resolved('retry')], 'vm'],
    ['nobody', [leave('bpf_arena_handle_page_fault', false), resolved('retry')], 'none'],
    ['an exception table', [leave('fixup_exception', true), resolved('fixup')], 'fixup'],
    ['an oops', [dead, outcome({ kind: 'oops', title: '', signal: 9 })], 'oops'],
    ['a panic', [dead, outcome({ kind: 'panic', title: '' })], 'panic'],
    ['a signal', [outcome({ kind: 'signal', signo: 11, code: 1, address: 0n })], 'signal'],
    ['the end of the run', [outcome({ kind: 'stopped', why: '', pc: 0n })], 'none'],
    ['nothing yet', [], 'none'],
  ])('%s', (_, events, by) => {
    const [story] = faultStories([fault(1n), ...events]);
    expect(story === undefined ? null : resolvedBy(story)).toBe(by);
  });
});

test('a fault inside a fault belongs to both, and each ends by its own resolution', () => {
  const events = [
    fault(1n),
    enter('outer'),
    fault(2n),
    enter('inner'),
    resolved('fixup'),
    enter('later'),
    resolved('retry'),
    enter('behind'),
  ];
  const stories = faultStories(events);
  expect(stories.map((s) => [s.fault.address, entered(s), s.resolved?.how])).toEqual([
    [1n, ['outer', 'inner', 'later'], 'retry'],
    [2n, ['inner'], 'fixup'],
  ]);
});

test('CPUs do not get into each other’s faults', () => {
  const events = [
    fault(1n, 0),
    enter('on0', 0),
    fault(2n, 1),
    enter('on1', 1),
    resolved('retry', 1),
    enter('again0', 0),
    resolved('retry', 0),
  ];
  expect(faultStories(events).map((s) => entered(s))).toEqual([['on0', 'again0'], ['on1']]);
});

test('the walk before a fault is its own; one that belongs to nothing is forgotten', () => {
  const walk = scratchFault()[0] as Event;
  const stories = faultStories([walk, outcome({ kind: 'returned' }), fault(1n), walk, fault(2n)]);
  expect(stories.map((s) => s.walk === walk)).toEqual([false, true]);
});

test('dropped reports are counted and leave no text', () => {
  const [report] = scratchFault().filter((event) => event.type === 'stream');
  const dropped = { ...report, dropped: true } as Event;
  const { text, ...rest } = streamText([report as Event, dropped], 'prog', 'stderr');
  expect([text.split('\n')[0], rest.dropped]).toEqual([
    'ERROR: Arena WRITE access at unmapped address 0x7f7d26203000',
    1,
  ]);
  expect(streamText([report as Event], 'other', 'stderr').text).toBe('');
});
