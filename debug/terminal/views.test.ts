import { afterAll, describe, expect, test } from '@jest/globals';
import { hex, hex16 } from '../../emu/address.js';
import type { DebugSession } from '../api.js';
import { ARGS, engine, ISAS, type Isa, OOPS_STEPS, SCRATCH_STEPS, sessionOf } from '../testing.js';
import { shellOn } from './testing.js';

afterAll(() => engine.close());

/** The page that the program touches, and where it stands in the tables: from the architectures' manuals. */
interface Facts {
  readonly va: bigint;
  /** Indexes of the four levels: nine bits each. */
  readonly indexes: readonly number[];
  /** Entries that lead to it, read from memory with the register that the walk begins at. */
  readonly entries: readonly { readonly at: number; readonly entry: bigint }[];
  readonly root: number;
  readonly rootName: string;
}

function facts(session: DebugSession, isa: Isa): Facts {
  const va = session.evaluate('a.page(3)');
  const indexes = [39n, 30n, 21n, 12n].map((shift) => Number((va >> shift) & 511n));
  // CR3 bits 51:12; TTBR1_EL1 bits 47:1, page tables of 4 KiB here.
  const register = session.register(isa === 'arm64' ? 'ttbr1_el1' : 'cr3');
  const root = Number(register & 0xffff_ffff_f000n);
  const entries: { at: number; entry: bigint }[] = [];
  let table = root;
  for (const index of indexes) {
    const at = table + index * 8;
    const bytes = session.readPhysical(at, 8);
    if (bytes === null) throw new Error('the table is not in ram');
    const entry = Buffer.from(bytes).readBigUInt64LE();
    entries.push({ at, entry });
    table = Number(entry & 0xffff_ffff_f000n);
  }
  return { va, indexes, entries, root, rootName: isa === 'arm64' ? 'TTBR1_EL1' : 'CR3' };
}

/** In words: what the bits of entries are. Tables here have no attributes but those. */
const TABLE: Readonly<Record<Isa, (table: bigint) => string>> = {
  'x86-64': (table) => `P=1 RW=1 US=1 NX=0 A=1  table ${hex(table)}`,
  arm64: (table) => `table at ${hex(table)} UXNTable=1`,
};

const LEVELS = ['PGD', 'PUD', 'PMD', 'PTE'];
const BITS = ['47:39', '38:30', '29:21', '20:12'];

function picture({ indexes, entries }: Facts, i: number, what: readonly string[]): string[] {
  const { at, entry } = entries[i] ?? { at: 0, entry: 0n };
  return [
    ' |',
    ' v',
    `${LEVELS[i]}[${indexes[i]}]  bits ${BITS[i]}, at ${hex(at)}`,
    ` |  ${hex16(entry)}`,
    ...what.map((text) => ` |  ${text}`),
  ];
}

describe.each(ISAS)('%s', (isa) => {
  const fault = isa === 'arm64' ? 'Data Abort' : '#PF';

  test('the walk of the fault, and the same when the scratch page is there', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    await say('catch fault', 'c');
    const before = facts(session, isa);
    const tables = (of: Facts): string[] =>
      [0, 1, 2].flatMap((i) =>
        picture(of, i, [TABLE[isa]((of.entries[i]?.entry ?? 0n) & 0xffff_ffff_f000n)]),
      );
    const head = [
      `${hex16(before.va)}  a.page(3)  write with kernel rights`,
      `${before.rootName} -> table ${hex(before.root)}`,
    ];
    expect(before.entries[3]?.entry).toBe(0n);
    const missing = isa === 'arm64' ? 'invalid: bit 0 = 0' : 'P=0: not present';
    const refused =
      isa === 'arm64'
        ? [
            `privileged write of ${hex16(before.va)} through TTBR1_EL1, decided at PTE:`,
            'level 3 translation fault',
          ]
        : [`supervisor write of ${hex16(before.va)}: not present, decided at PTE`];
    expect(await say('walk')).toEqual([
      ...head,
      ...tables(before),
      ...picture(before, 3, [missing]),
      ' x',
      ...refused,
    ]);

    await say('finish-fault');
    const after = facts(session, isa);
    const frame = (after.entries[3]?.entry ?? 0n) & 0xffff_ffff_f000n;
    expect(frame).toBe(session.evaluate('a.scratch'));
    // PAGE_KERNEL: written, accessed and dirty before anybody does, not executable; for the kernel only.
    const bits =
      isa === 'arm64'
        ? [`page at ${hex(frame)}`, 'AP[2:1]=00 (EL1 r/w, EL0 none) AF=1 nG=0 DBM=1 PXN=1 UXN=1']
        : [`P=1 RW=1 US=0 NX=1 A=1 D=1 G=1  page ${hex(frame)}`];
    expect(await say('walk a.page(3) write kernel')).toEqual([
      ...head,
      ...tables(after),
      ...picture(after, 3, bits),
      ' |',
      ' v',
      `physical ${hex(frame)}  rw, bpf arena scratch`,
    ]);
    const last = after.entries[3];
    expect(await say('pte a.page(3)')).toEqual([
      `PTE[${after.indexes[3]}] of ${hex16(after.va)} <a.page(3)> at ${hex(last?.at ?? 0)} = ${hex16(last?.entry ?? 0n)}`,
      ...bits.map((text) => `  ${text}`),
    ]);
    session.close();
  });

  test('a walk that reads no table', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    await say('si');
    const lines = await say('walk 0x0010000000000000');
    expect(lines[0]).toBe('0010000000000000  read with kernel rights');
    expect(lines[1]).toBe(' x');
    expect(lines[2]).toContain('before any table was read');
    session.close();
  });

  test('the path as a tree, the current decision marked', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    const entry = isa === 'arm64' ? 'el1h_64_sync_handler' : 'exc_page_fault';
    expect(await say('path')).toEqual(['No fault has been handled, and nothing of the kernel was called.']);
    await say('catch scratch', 'c');
    const tree = await say('path');
    const va = session.evaluate('a.page(3)');
    expect(tree[0]).toBe(
      `${fault}: write of ${hex16(va)} <a.page(3)>, code ${isa === 'arm64' ? '0x96000047' : '0x2'}, at ${session.nameOf(session.pc)}`,
    );
    expect(tree[1]).toMatch(new RegExp(`^ {3}${entry}\\(regs=…`));
    const marked = tree.filter((row) => row.startsWith('=>'));
    expect(marked).toEqual([tree.at(-1)]);
    expect(marked[0]).toMatch(
      /^=> (\| )+\? ptep_try_set\(pte, mk_pte\(scratch_page, PAGE_KERNEL\)\) → true$/,
    );
    // As deep as the call stack is.
    const path = session.callStack().filter(({ kind }) => kind === 'path');
    expect(marked[0]?.split('| ').length).toBe(path.length + 1);
    for (const { name } of path) expect(tree.some((row) => row.includes(` ${name}(`))).toBe(true);

    const brief = await say('path brief');
    expect(brief.length).toBeLessThan(tree.length);
    expect(brief.at(-1)).toBe(tree.at(-1));
    expect(brief.find((row) => row.includes('fixup_exception('))).toMatch(/ = false {2}…$/);

    await say('delete', 'finish-fault');
    const over = await say('path');
    expect(over.at(-1)).toBe('The path is over.');
    expect(over.filter((row) => row.startsWith('=>'))).toEqual([]);
    expect(over.find((row) => row.includes('returns true'))).toBeDefined();
    session.close();
  });

  test('registers: marks at those that changed, and what they point to', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    const [first, second] = ARGS[isa];
    await say('b write_word.store', 'c');
    const va = hex16(session.evaluate('a.page(3)'));
    const copy = isa === 'arm64' ? 'x2' : 'rax';
    const pad = (name: string): string => name.padEnd(copy.length + 2);
    await say('rsi');
    // The store's operand is moved to its register by the instruction in front of it.
    const moved = await say('si', `i r ${first} ${second} ${copy}`);
    expect(moved.slice(-3)).toEqual([
      ` ${pad(first)}${va}  a.page(3)`,
      ` ${pad(second)}0000000000001234`,
      `*${pad(copy)}0000000000001234`,
    ]);
    const general = await say('info registers');
    expect(general).toHaveLength(isa === 'arm64' ? 33 : 17);
    const system = await say('info registers system');
    expect(system.some((row) => row.includes(isa === 'arm64' ? ' ttbr1_el1 ' : ' cr3 '))).toBe(true);
    expect((await say('info all-registers')).length).toBeGreaterThanOrEqual(general.length + system.length);
    session.close();
  });

  test('instructions: the next one, breakpoints, bytes where there is room', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const wide = shellOn(session).say;
    const narrow = shellOn(session, 40).say;
    await wide('b write_word.store', 'c', 'rsi');
    const at = session.symbols().find(({ name }) => name === 'write_word')?.start ?? 0n;
    const rows = (await wide('disassemble write_word')).slice(1);
    const store = isa === 'arm64' ? [3, 0xc] : [3, 6];
    const [index = 0, offset = 0] = store;
    const text = isa === 'arm64' ? 'str w2, [x0]' : 'mov dword ptr [rdi], eax';
    const bytes = isa === 'arm64' ? '02 00 00 b9' : '89 07   ';
    expect(rows[index]).toBe(
      `  B${hex16(at + BigInt(offset))} ${`<+${hex(offset)}>`.padEnd(7)} ${bytes}  ${text}`,
    );
    expect(rows.filter((row) => row.startsWith('=>'))).toEqual([rows[index - 1]]);
    expect((await narrow('disas'))[index + 1]).toBe(`  B${`<+${hex(offset)}>`.padEnd(7)} ${text}`);
    expect((await narrow('disas/r')).find((row) => row.startsWith('  B'))).toContain(bytes.trim());
    expect(await wide('x/i write_word.store')).toEqual([
      `  B${hex(at + BigInt(offset))} <${session.nameOf(at + BigInt(offset))}>: ${text}`,
    ]);
    session.close();
  });

  test('pages of an arena', async () => {
    const session = await sessionOf(
      isa,
      `${SCRATCH_STEPS}  - { kfunc: bpf_arena_alloc_pages, args: { map: a, addr: a.upage(8), page_cnt: 2 } }\n  - { kfunc: bpf_arena_reserve_pages, args: { map: a, ptr: a.upage(12), page_cnt: 3 } }\n`,
    );
    const { say } = shellOn(session);
    const page = (n: number): string => hex16(session.evaluate(`a.page(${n})`));
    const head = `  page 0: kernel ${page(0)}, user 00007f7d26200000`;
    expect(await say('arena')).toEqual([
      'arena a: 16 pages: 16 free',
      head,
      '    0 ................',
      '      . free',
      `  pages 0-15     ${page(0)}  free`,
    ]);
    await say('goto end');
    expect(await say('arena a')).toEqual([
      'arena a: 16 pages: 2 allocated, 1 scratch, 3 reserved, 10 free',
      head,
      '    0 ...S....AA..rrr.',
      '      A allocated  S scratch  r reserved  . free',
      `  pages 0-2      ${page(0)}  free`,
      `  page 3         ${page(3)}  scratch`,
      `  pages 4-7      ${page(4)}  free`,
      `  pages 8-9      ${page(8)}  allocated`,
      `  pages 10-11    ${page(10)}  free`,
      `  pages 12-14    ${page(12)}  reserved`,
      `  page 15        ${page(15)}  free`,
    ]);
    expect(await say('arena b')).toEqual(['! there is no arena `b`: did you mean `a`?']);
    session.close();
  });

  test('KFENCE, mappings, the layout', async () => {
    const session = await sessionOf(
      isa,
      '  - { slab: kmalloc, args: { size: 32 }, allocations: [{ slot: 1 }] }\n  - { mmap: { arena: a, addr: 0 } }\n  - { mmap: { arena: a, addr: a.user } }\n',
      'kfence: { objects: 4 }',
    );
    const { say } = shellOn(session);
    const pool = session.evaluate('kfence.pool');
    expect(await say('kfence')).toEqual([
      `KFENCE: ${hex16(pool)}-${hex16(pool + 0x9fffn)}, 4 objects, enabled`,
      '  4 unused (kfence all)',
    ]);
    expect(await say('vmas')).toEqual(['The task has no mappings.']);
    await say('goto end', 'rfs', 'rfs', 'rfs');
    // An arena with an address of its own is mapped there or not at all.
    expect((await say('path')).at(-2)).toBe('   | returns -EINVAL');
    await say('goto end');
    const address = session.evaluate('kfence.object(1)');
    expect(await say('kfence')).toEqual([
      `KFENCE: ${hex16(pool)}-${hex16(pool + 0x9fffn)}, 4 objects, enabled`,
      `  #1  ${hex16(address)} allocated, 32 bytes of kmalloc-32`,
      '  3 unused (kfence all)',
    ]);
    expect(await say('kfence all')).toHaveLength(5);
    // 16 pages at map_extra, shared and writable.
    expect(await say('vmas 0x7f7d26203000')).toEqual(['=> 7f7d26200000-7f7d26210000 rw-s arena a 64K']);
    expect(await say('vmas 0x7f7d26210000')).toEqual(['   7f7d26200000-7f7d26210000 rw-s arena a 64K']);
    const layout = await say('layout kfence.pool + 8');
    const direct = isa === 'arm64' ? 'ffff000000000000' : 'ffff888000000000';
    expect(layout.filter((row) => row.startsWith('=>'))).toEqual([
      expect.stringMatching(new RegExp(`^=> ${direct}-[0-9a-f]{16}  direct map of the ram `)),
      `=>   ${hex16(pool)}-${hex16(pool + 0x9fffn)}  KFENCE pool 40K`,
    ]);
    session.close();
  });

  test('call stack: the path above the code', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS);
    const { say } = shellOn(session);
    expect(await say('bt')).toEqual(['No stack: no code of the fixture runs here.']);
    await say('tb bpf_arena_handle_page_fault', 'c');
    const frames = await say('bt');
    const pc = hex16(session.pc);
    const code = frames.findIndex((row) => row.includes(pc));
    expect(frames[0]).toBe('#0  bpf_arena_handle_page_fault  (path)');
    expect(frames[code]).toBe(`${`#${code}`.padEnd(4)}${pc} in ${session.nameOf(session.pc)}`);
    expect(frames.slice(0, code).every((row) => row.endsWith('  (path)'))).toBe(true);
    expect(frames[code + 1]).toMatch(/ in bpf_prog_[0-9a-f]{16}_demo\+/);
    expect(await say('bt 1')).toEqual([frames[0], '(More stack frames follow...)']);
    expect(await say('bt -1')).toEqual([frames.at(-1)]);
    session.close();
  });

  test('console, streams, the fixture and what it came to', async () => {
    const session = await sessionOf(isa, OOPS_STEPS);
    const { say } = shellOn(session);
    expect(await say('console', 'streams')).toEqual([
      'Nothing was printed to the console.',
      'No program has written to its streams.',
    ]);
    const line = session.fixture.source.lines.findIndex((text) => text.startsWith('  - { call: spin')) + 1;
    expect(await say('fixture')).toEqual([
      `debugged (${isa}, ${isa}.yaml)`,
      `   step 1: call spin  waits  line ${line}`,
      `   step 2: call touch  waits  line ${line + 1}`,
    ]);
    const end = await say('c');
    const log = session.consoleLines();
    expect(log.length).toBeGreaterThan(10);
    expect(end.slice(0, 7)).toEqual([
      ...log.slice(0, 6).map((text) => `console| ${text}`),
      `console| … ${log.length - 6} more lines (console)`,
    ]);
    expect(end.slice(7, 11)).toEqual([
      'The run is over: the fixture has failed.',
      `step 2 expect.outcome  line ${line + 1}`,
      '  expected  returned',
      expect.stringMatching(/^ {2}actual {4}oops/),
    ]);
    expect(await say('console')).toEqual(log);
    expect(await say('console 2')).toEqual(log.slice(-2));
    expect((await say('fixture')).slice(0, 3)).toEqual([
      `debugged (${isa}, ${isa}.yaml)`,
      `   step 1: call spin  passed  line ${line}`,
      `   step 2: call touch  failed  line ${line + 1}`,
    ]);
    expect(await say(`list ${line}`)).toHaveLength(
      Math.min(10, session.fixture.source.lines.length - line + 6),
    );
    expect((await say(`list ${line}`)).find((row) => row.includes('call: touch'))).toBe(
      `  ${String(line + 1).padStart(4)} ${session.fixture.source.lines[line]}`,
    );
    session.close();
  });

  test.each([40, 60, 80])('every view keeps to %d columns', async (columns) => {
    const session = await sessionOf(isa, SCRATCH_STEPS, 'kfence: { objects: 4 }');
    const { say } = shellOn(session, columns);
    await say('catch scratch', 'c');
    const rows = await say(
      ...[
        'frame',
        'path',
        'path brief',
        'walk',
        'pte',
        'bt',
        'disas',
        'info all-registers',
        'arena',
        'kfence all',
      ],
      ...[
        'vmas',
        'layout',
        'fixture',
        'list',
        'console',
        'info b',
        'info program',
        'cpu',
        'help',
        'help all',
      ],
      ...[
        'x/16xb $sp',
        'x/2xg $sp',
        'x/2a $sp',
        'x/4i write_word',
        'info functions arena',
        'finish-fault',
        'streams',
      ],
    );
    expect(rows.length).toBeGreaterThan(250);
    expect(rows.filter((row) => [...row].length > columns)).toEqual([]);
    expect(rows.filter((row) => row.startsWith('! '))).toEqual([]);
    session.close();
  });
});
