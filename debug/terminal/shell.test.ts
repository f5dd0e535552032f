import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { hex } from '../../emu/address.js';
import { ARGS, engine, ISAS, OOPS_STEPS, SCRATCH_STEPS, sessionOf } from '../testing.js';
import { shellOn } from './testing.js';

const folder = mkdtempSync(join(tmpdir(), 'kfault-shell-'));
afterAll(() => {
  engine.close();
  rmSync(folder, { recursive: true });
});

const file = (name: string, text: string): string => {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
};

describe.each(ISAS)('%s', (isa) => {
  const [first, second] = ARGS[isa];
  const isArm = isa === 'arm64';
  const fault = isArm ? 'Data Abort' : '#PF';

  test('into the fault, through its decisions, out of it, and back', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    const store = session.evaluate('write_word.store');
    const at = `=> ${hex(store)} <${session.nameOf(store)}>: ${isArm ? 'str w2, [x0]' : 'mov dword ptr [rdi], eax'}`;
    expect(await say('until write_word.store')).toEqual([at]);
    const taken = await say('si');
    expect(taken[0]).toMatch(
      new RegExp(`^${fault} at ${hex(store)} <.*>: write of 0x[0-9a-f]+ <a\\.page\\(3\\)>, code `),
    );
    expect(taken[1]).toBe(`in ${isArm ? 'el1h_64_sync_handler' : 'exc_page_fault'}`);

    const decisions = await say('s 3');
    const since = session.events.findLastIndex(({ type }) => type === 'fault');
    expect(session.events.slice(since).filter(({ type }) => type === 'decide')).toHaveLength(3);
    // Of three stops each decision is told, and of the last one where it is.
    expect(decisions).toHaveLength(4);
    expect(decisions.slice(0, 3).every((row) => / → /.test(row))).toBe(true);
    expect(await say('rs')).toEqual([decisions[1], expect.stringMatching(/^in /)]);

    const resolved = await say('ff');
    expect(resolved[0]).toBe('demo stderr| ERROR: Arena WRITE access at unmapped address 0x7f7d26203000');
    expect(resolved.slice(-2)).toEqual([
      `Fault resolved (retry): goes on at ${hex(store)} <${session.nameOf(store)}>`,
      at,
    ]);
    const { tick } = session.position;
    await say('si', 'rsi');
    expect(session.position.tick).toBe(tick);
    expect(await say('x/wx a.page(3)')).toEqual([expect.stringMatching(/: {2}0x0$/)]);
    await say('si');
    expect(await say('x/wx a.page(3)')).toEqual([expect.stringMatching(/: {2}0x1234$/)]);
    expect((await say('rc')).slice(0, 1)).toEqual(['No more history: this is the start of the run.']);
    session.close();
  });

  test('an empty line does the last command again, or goes on with what it showed', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    await say('si', '', '');
    expect(session.position.instructions).toBe(2);
    const start = session.evaluate('spin');
    const rows = await say('x/2xg spin', '', '');
    expect(rows.map((row) => row.split(' ')[0]?.replace(':', ''))).toEqual(
      [0n, 16n, 32n].map((offset) => hex(start + offset)),
    );
    const lines = await say('list 5', '');
    expect(lines.map((row) => Number(row.slice(2, 7)))).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    expect(await say('info b', '')).toEqual(['No breakpoints or watchpoints.']);
    session.close();
  });

  test('values', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    await say('si');
    const page = session.evaluate('a.page(3)');
    expect(
      await say('p a.page(3)', 'p $1 + 4096', 'p/d -5', 'p -5', 'p $$', 'p/x $', `p/d $${second}`, 'p/c 65'),
    ).toEqual([
      `$1 = ${hex(page)} <a.page(3)>`,
      `$2 = ${hex(page + 4096n)} <a.page(4)>`,
      '$3 = -5',
      '$4 = 0xfffffffffffffffb (-5)',
      '$5 = 0xfffffffffffffffb (-5)',
      '$6 = 0xfffffffffffffffb',
      '$7 = 4660',
      "$8 = 65 'A'",
    ]);
    // The first instructions of the program, as the manuals encode them.
    const code = isArm ? '0xa9bf7bfd' : '0x55';
    expect(await say(`p/x *(${isArm ? 'u32' : 'u8'} *)prog_main`)).toEqual([`$9 = ${code}`]);
    const [, plain] = /= (.*)$/.exec((await say('p counter'))[0] ?? '') ?? [];
    expect(await say('p &counter')).toEqual([`$11 = ${plain}`]);
    // What stands in memory is an operand like others: as C has it, and conditions.
    const size = isArm ? 'u32' : 'u8';
    const value = BigInt(code);
    expect(
      await say(
        `p *(${size} *)&prog_main == ${code}`,
        `p *(${size} *)prog_main==${value + 1n}`,
        `p/x *(${size} *)prog_main + 1`,
        `p/x {${size}}prog_main & ~1`,
      ),
    ).toEqual(['$12 = 0x1', '$13 = 0x0', `$14 = ${hex(value + 1n)}`, `$15 = ${hex(value & ~1n)}`]);
    session.close();
  });

  test('changes: registers, memory, entries; the run goes on from there, and so it does when it comes past again', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    await say('tb write_word', 'c', `set $${first} = counter`, 'set var *(u32 *)(counter + 4) = 0xabcd');
    // There is no fault then: counter is there.
    await say('catch fault', 'tb prog_main', 'c');
    expect(session.position.step).toEqual(['steps', 1]);
    expect(await say('p/x *(u32 *)counter', 'p/x *(u32 *)(counter + 4)')).toEqual([
      '$1 = 0x1234',
      '$2 = 0xabcd',
    ]);
    const changes = await say('info changes');
    expect(changes).toHaveLength(2);
    expect(changes[0]).toMatch(new RegExp(`^tick \\d+: \\$${first} = 0x[0-9a-f]+$`));
    await say('goto begin');
    expect(await say('p/x *(u32 *)counter')).toEqual(['$3 = 0x0']);
    await say('delete', 'tb write_word', 'c', 'finish');
    expect(await say('p/x *(u32 *)counter')).toEqual(['$4 = 0x1234']);
    await say('drop-changes');
    expect(session.position.tick).toBe(0);
    expect(await say('info changes')).toEqual(['Nothing was changed.']);
    session.close();
  });

  test('an entry is changed, and watched', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    expect(await say('watch-pte a.page(3)')).toEqual([expect.stringMatching(/^Watchpoint 1: /)]);
    const hit = await say('c');
    expect(hit[0]).toBe(`Watchpoint 1: PTE of ${hex(session.evaluate('a.page(3)'))} <a.page(3)>`);
    expect(hit[1]).toBe('Old entry = 0x0');
    await say('ff', 'si', 'set pte a.page(3) = 0');
    expect((await say('pte a.page(3)'))[0]).toMatch(/ = 0{16}$/);
    // The program comes again, and finds nothing there.
    await say('delete', 'catch scratch', 'c');
    expect(session.stop.reason.kind).toBe('scratch');
    session.close();
  });

  test('breakpoints: set, listed, switched off, deleted', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    const set = await say(
      ...[
        'b write_word',
        'tb bpf_arena_handle_page_fault',
        'catch kfence',
        'watch counter, 4',
        'rwatch *(u8 *)counter',
      ],
      ...['awatch a.page(3)', 'catch console BUG', 'catch step 2', `catch fault ${fault}`],
    );
    expect(set.map((row) => row.split(':')[0])).toEqual([
      ...[
        'Breakpoint 1',
        'Temporary breakpoint 2',
        'Catchpoint 3',
        'Watchpoint 4',
        'Watchpoint 5',
        'Watchpoint 6',
      ],
      ...['Catchpoint 7', 'Catchpoint 8', 'Catchpoint 9'],
    ]);
    expect(session.breakpoints.map(({ spec }) => spec)).toMatchObject([
      { kind: 'address', address: session.evaluate('write_word') },
      { kind: 'function', fn: 'bpf_arena_handle_page_fault' },
      { kind: 'kfence' },
      { kind: 'watch', length: 4, access: 'write' },
      { kind: 'watch', length: 1, access: 'read' },
      { kind: 'watch', length: 8, access: 'access' },
      { kind: 'console', text: 'BUG' },
      { kind: 'fixture-step', number: 2 },
      { kind: 'fault', exception: fault },
    ]);
    await say('disable 3-6 9', 'c', 'c');
    expect(session.stop.reason).toMatchObject({ kind: 'function' });
    const listed = await say('info breakpoints');
    expect(listed.map((row) => row.slice(0, 29).trimEnd())).toEqual(
      [
        'Num Type            Disp Enb What',
        '1   breakpoint      keep y',
        '        breakpoint already hit 1 time',
        '3   catchpoint      keep n',
        '4   watchpoint      keep n',
        '5   read watchpoint keep n',
        '6   acc watchpoint  keep n',
        '7   catchpoint      keep y',
        '8   catchpoint      keep y',
        '9   catchpoint      keep n',
      ].map((row) => row.slice(0, 29).trimEnd()),
    );
    await say('c');
    expect(session.stop.reason).toMatchObject({ kind: 'fixture-step', phase: 'begins', hit: { id: 8 } });
    await say('d 1', 'd');
    expect(session.breakpoints).toEqual([]);
    session.close();
  });

  test('display at each stop', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    await say('si');
    expect(await say(`display/d $${second}`)).toEqual([`1: /d $${second} = 4660`]);
    const { tick } = session.position;
    await say('display/2i $pc', 'goto end');
    expect(await say('display *(u32 *)a.page(3)')).toEqual(['3: *(u32 *)a.page(3) = 0x1234']);
    const rows = await say(`goto ${tick + 1}`);
    expect(rows[1]).toBe(`1: /d $${second} = 4660`);
    expect(rows[2]).toBe('2: /2i $pc');
    expect(rows).toHaveLength(6);
    // What is not there is told, and is no error.
    expect(rows[5]).toMatch(/^3: \*\(u32 \*\)a\.page\(3\): Cannot access memory at address 0x/);
    await say('undisplay 2-3');
    expect(await say('si')).toHaveLength(2);
    expect(await say('undisplay 7')).toEqual(['! there is no display number 7']);
    session.close();
  });

  test('what goes wrong is one line, and the session goes on', async () => {
    const session = await sessionOf(isa, OOPS_STEPS);
    const { say } = shellOn(session);
    const before = session.position;
    const wrong = [
      ...[
        'foo',
        'stepi x',
        'stepi 0',
        'continue 3 4',
        'until',
        'goto',
        'goto -1',
        'ff',
        'finish',
        'b',
        'b nowhere',
      ],
      ...[
        'b 12',
        'b write_word if 1 +',
        'b write_word if',
        'catch',
        'catch nothing',
        'catch step 9',
        'watch',
        'watch counter, 0',
      ],
      ...[
        'watch counter, x',
        'watch *(struct x *)counter',
        'd 9',
        'd x',
        'enable 9',
        'x/q 0',
        'x',
        'x 0x10',
        'xp 0xfffffffff000',
      ],
      ...['p', 'p 1 +', 'p $nothing', 'p *0x10', 'p $1', 'p x = 1', 'set', 'set $pc', 'set $nothing = 1'],
      ...['set counter = 1', 'set *(u8 *)counter = 256', 'set pte 0x10', 'info', 'info registers nothing'],
      ...['info address nothing', 'walk', 'walk nowhere', 'bt x', 'list 9999', 'list x', 'cpu 1', 'arena b'],
      ...[
        'streams p',
        'path x',
        'kfence x',
        'console x',
        'info functions (',
        'source /nowhere',
        'quit x',
        'disas',
        'display foo',
      ],
      ...['disas counter,1', 'undisplay 1', 'frame 1', 'help nothing', 'set width x', 'p/4d 1', 'disas/x'],
    ];
    const errors = await say(...wrong);
    expect(errors.filter((row) => !row.startsWith('! '))).toEqual([]);
    expect(errors.filter((row) => row.includes('internal error'))).toEqual([]);
    expect(errors).toHaveLength(wrong.length);
    expect(session.position).toEqual(before);
    expect(session.breakpoints).toEqual([]);
    expect(session.changes).toEqual([]);
    expect(await say('si')).toEqual([expect.stringMatching(/^=> /)]);
    session.close();
  });

  test('commands of gdb that there are none of: what there is instead', async () => {
    const session = await sessionOf(isa, OOPS_STEPS);
    const { say, shell } = shellOn(session);
    const unknown = ['up', 'down', 'info frame', 'info locals', 'shell ls', 'clear', 'jump *0', 'thread 2'];
    for (const [i, row] of (await say(...unknown)).entries()) {
      const name = unknown[i]?.split(' ').slice(0, unknown[i]?.startsWith('info') ? 2 : 1);
      expect(row).toMatch(new RegExp(`^! There is no ${name?.join(' ')} here: .*\\.$`));
    }
    // What is named instead is there.
    for (const row of await say(...unknown)) {
      for (const [, command = ''] of row.matchAll(/`([a-z][^`]*)`/g)) {
        if (!command.startsWith('kfault ')) expect(() => shell.commands.parse(command)).not.toThrow();
      }
    }
    expect(await say('set listsize 20', 'p/i $pc', 'p/s 1', 'list 5,2')).toEqual([
      expect.stringMatching(/^! there is no setting `listsize 20`/),
      '! /i means nothing for a value: x/i shows instructions in memory',
      '! /s means nothing for a value: x/s shows strings in memory',
      '! list: line 2 lies in front of line 5',
    ]);
    session.close();
  });

  test('physical memory: what it is shown as, and how it is changed', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    await say('si');
    const at = hex(session.evaluate('phys(counter)'));
    expect(await say('x/i $pc', `set phys ${at} = 0x1122334455667788`, `xp/gx ${at}`)).toEqual([
      expect.stringMatching(/^=> /),
      `8 bytes written to physical ${at}`,
      `${at}:  0x1122334455667788`,
    ]);
    // Instructions were shown last: here they are not what is meant.
    expect(await say('x/i $pc', `xp ${at}`)).toEqual([
      expect.stringMatching(/^=> /),
      `${at}:  0x1122334455667788`,
    ]);
    expect(await say('p *(u64 *)counter')).toEqual(['$1 = 0x1122334455667788']);
    session.close();
  });

  test('the walk of the last fault, when nothing is handled any more', async () => {
    const session = await sessionOf(
      isa,
      `${SCRATCH_STEPS}  - { kfunc: bpf_arena_alloc_pages, args: { map: a, page_cnt: 1 } }\n`,
    );
    const { say } = shellOn(session);
    await say('goto end');
    const page = session.evaluate('a.page(3)').toString(16);
    expect((await say('walk'))[0]).toMatch(new RegExp(`^${page} {2}a\\.page\\(3\\) {2}write `));
    expect(await say('walk counter write read', 'walk counter user kernel')).toEqual([
      '! walk: the access is said twice: counter write read',
      '! walk: who makes it is said twice: counter user kernel',
    ]);
    expect(await say('walk spin exec user')).toEqual(await say('walk spin user fetch'));
    session.close();
  });

  test('what gdb’s scripts set is taken and means nothing', async () => {
    const session = await sessionOf(isa, OOPS_STEPS);
    const { say } = shellOn(session);
    expect(await say('set pagination off', 'set confirm off', 'set height 0', '# nothing', '')).toEqual([]);
    session.close();
  });

  test('scripts: in order, up to the first that goes wrong, each told with its line', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    const inner = file('inner.kf', 'echo inner\nfoo\necho not this\n');
    const outer = file('outer.kf', `# a comment\n\necho one\nsource ${inner}\necho nor this\n`);
    expect(await say(`source ${outer}`, 'echo on')).toEqual([
      'one',
      'inner',
      `! ${inner}:2: Undefined command: "foo".  Try "help".`,
      `! ${outer}:4: ${inner} was broken off`,
      `! ${outer} was broken off`,
      'on',
    ]);
    const round = file('round.kf', `source ${join(folder, 'round.kf')}\n`);
    const rows = await say(`source ${round}`);
    expect(rows[0]).toContain('files call each other 16 deep');
    session.close();
  });

  test('the width that was set is kept to', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    await say('catch scratch', 'c', 'set width 50');
    expect(Math.max(...(await say('path')).map((row) => row.length))).toBeLessThanOrEqual(50);
    await say('set width 0');
    expect(Math.max(...(await say('path')).map((row) => row.length))).toBeGreaterThan(100);
    session.close();
  });
});

test('two CPUs: registers of either', async () => {
  const session = await sessionOf(
    'x86-64',
    `${SCRATCH_STEPS}  - { call: prog_main, cpu: 1, registers: { rdi: counter, rsi: 0x99 } }\n`,
    'cpus: 2',
  );
  const { say } = shellOn(session);
  await say('catch step 3', 'c', 'si');
  expect(session.cpu).toBe(1);
  const rows = await say('cpu');
  expect(rows.map((row) => row.slice(0, 7))).toEqual(['  CPU 0', '* CPU 1']);
  expect(await say('i r rsi', 'cpu 0', 'i r rsi')).toEqual([
    expect.stringMatching(/^.rsi {2}0{14}99$/),
    expect.stringMatching(/^\* CPU 0 /),
    expect.stringMatching(/^ {2}CPU 1 /),
    expect.stringMatching(/^.rsi {2}0{14}77$/),
  ]);
  // A move chooses the CPU that runs.
  await say('si');
  expect(await say('i r rsi')).toEqual([expect.stringMatching(/^.rsi {2}0{14}99$/)]);
  session.close();
});

test('interrupted, a move ends, and so does what it was made for', async () => {
  const session = await sessionOf(
    'x86-64',
    '  - { call: spin, registers: { rdi: 300000000 } }\n',
    'limits: { instructions: 1000000000, milliseconds: 100000 }',
  );
  const { say, shell } = shellOn(session);
  const script = file('long.kf', 'fs\ncontinue\necho not this\n');
  setTimeout(() => shell.interrupt(), 100);
  const rows = await say(`source ${script}`);
  expect(rows[2]).toBe('Interrupted.');
  expect(rows).not.toContain('not this');
  expect(session.position.instructions).toBeGreaterThan(0);
  expect(shell.takeInterrupt()).toBe(true);
  setTimeout(() => shell.interrupt(), 100);
  expect(await say('si 9999999')).toContain('Interrupted.');
  session.close();
}, 30_000);
