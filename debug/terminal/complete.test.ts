import { afterAll, describe, expect, test } from '@jest/globals';
import { engine, ISAS, SCRATCH_STEPS, sessionOf } from '../testing.js';
import { allCommands } from './commands/index.js';
import { complete, completeWords } from './complete.js';

afterAll(() => engine.close());
const table = allCommands();

describe.each(ISAS)('%s', (isa) => {
  test('what Tab completes', async () => {
    const session = await sessionOf(isa, SCRATCH_STEPS, 'kfence: { objects: 4 }');
    const of = (line: string): [string[], string] => complete(line, table, session);
    expect(of('ste')).toEqual([['step', 'stepi'], 'ste']);
    expect(of('reverse-fin')).toEqual([['reverse-finish', 'reverse-finish-fault'], 'reverse-fin']);
    expect(of('inf')).toEqual([['info'], 'inf']);
    expect(of('info br')).toEqual([['breakpoints'], 'br']);
    expect(of('i sy')).toEqual([['symbol'], 'sy']);
    expect(of('b bpf_arena_handle')).toEqual([['bpf_arena_handle_page_fault'], 'bpf_arena_handle']);
    expect(of('break *write_word.st')).toEqual([['write_word.store'], 'write_word.st']);
    expect(of('x/4xg a.pa')).toEqual([['a.page('], 'a.pa']);
    expect(of('p 8 + a.upa')).toEqual([['a.upage('], 'a.upa']);
    expect(of('walk (coun')).toEqual([['counter'], 'coun']);
    expect(of(`p $${isa === 'arm64' ? 'ttbr1' : 'cr3'}`)).toEqual([
      [isa === 'arm64' ? '$ttbr1_el1' : '$cr3'],
      isa === 'arm64' ? '$ttbr1' : '$cr3',
    ]);
    expect(of('info registers sys')).toEqual([['system'], 'sys']);
    expect(of('help watch-')).toEqual([['watch-pte'], 'watch-']);
    expect(of('help info b')).toEqual([['info breakpoints'], 'info b']);
    expect(of('catch scr')).toEqual([['scratch'], 'scr']);
    expect(of('watch-pte a.page(3) pm')).toEqual([['pmd'], 'pm']);
    expect(of('arena ')).toEqual([['a'], '']);
    expect(of('streams d')).toEqual([['demo'], 'd']);
    expect(of('step a')).toEqual([['all'], 'a']);
    expect(of('set wi')).toEqual([['width'], 'wi']);
    expect(of('stepi ')).toEqual([[], '']);
    expect(of('foo b')).toEqual([[], 'b']);
    expect(of('')[0]).toContain('walk');
    session.addBreakpoint({ kind: 'kfence' });
    expect(of('delete ')).toEqual([['1'], '']);
    // At the keyboard a word that is complete is ended; an arena's page wants its number.
    expect(completeWords('inf', table, session)).toEqual([['info '], 'inf']);
    expect(completeWords('info', table, session)).toEqual([['info '], 'info']);
    expect(completeWords('ste', table, session)).toEqual([['step', 'stepi'], 'ste']);
    expect(completeWords('p a.pa', table, session)).toEqual([['a.page('], 'a.pa']);
    session.close();
  });
});
