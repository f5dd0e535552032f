/**
 * The real gdb, as its users start it. Without one that knows the architecture these tests are skipped, and fail
 * where CI is set: Debian has `gdb` for x86-64 and `gdb-multiarch` for both.
 */
import { spawn, spawnSync } from 'node:child_process';
import { afterEach, describe, expect, test } from '@jest/globals';
import type { DebugSession } from '../api.js';
import { ISAS, type Isa, sessionOf, sessionOfFile } from '../testing.js';
import { type GdbServer, serveGdb } from './server.js';

const ARCHITECTURE: Readonly<Record<Isa, string>> = { 'x86-64': 'i386:x86-64', arm64: 'aarch64' };

/** The first gdb that knows the architecture. */
function findGdb(isa: Isa): string | null {
  const found = ['gdb', 'gdb-multiarch'].find((name) => {
    const { status, stderr } = spawnSync(
      name,
      ['-nx', '-batch', '-ex', `set architecture ${ARCHITECTURE[isa]}`],
      { encoding: 'utf8' },
    );
    return status === 0 && !stderr.includes('Undefined item');
  });
  return found ?? null;
}

const cleanup: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const each of cleanup.splice(0)) await each();
});

interface Served {
  readonly server: GdbServer;
  readonly session: DebugSession;
}

async function serve(session: DebugSession): Promise<Served> {
  const server = await serveGdb(session, {
    name: 'test.yaml',
    host: '127.0.0.1',
    port: 0,
    log: () => undefined,
  });
  cleanup.push(async () => {
    await server.close();
    session.close();
  });
  return { server, session };
}

async function serveFile(isa: Isa, name: string): Promise<Served> {
  return serve(await sessionOfFile(isa, name));
}

/** Commands that may fail: the ones behind them are done all the same. */
function attempts(...commands: string[]): string[] {
  const quoted = commands.map((each) => JSON.stringify(each)).join(', ');
  return [
    `python\nfor c in [${quoted}]:\n  try: gdb.execute(c)\n  except gdb.error as e: print(e)\n  gdb.flush()`,
  ];
}

/** What gdb prints for the commands, warnings and all. */
function runGdb(gdb: string, { server }: Served, ...commands: string[]): Promise<string> {
  const all = ['set width 0', 'set style enabled off', `target remote 127.0.0.1:${server.port}`, ...commands];
  // Both streams in the order in which they are written.
  const args = ['-c', 'exec "$0" "$@" 2>&1', gdb, '-nx', '-batch', ...all.flatMap((each) => ['-ex', each])];
  const child = spawn('sh', args, {
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { ...process.env, LC_ALL: 'C', HOME: '/nonexistent' },
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 40_000);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', () => {
      clearTimeout(timer);
      resolve(text);
    });
  });
}

/** Lines behind the mark that `echo MARK\n` has left, up to the next one. */
function section(text: string, mark: string): string {
  return text.split(`--${mark}\n`)[1]?.split('\n--')[0] ?? '';
}

const mark = (name: string): string => `echo --${name}\\n`;

describe.each(ISAS)('%s', (isa) => {
  const gdb = findGdb(isa);
  if (gdb === null) {
    const reason = isa === 'arm64' ? 'there is no gdb-multiarch' : 'there is no gdb';
    if (process.env.CI === 'true' && process.env.KFAULT_GDB !== 'optional') {
      test('gdb is there', () => {
        throw new Error(`${reason}, and CI is set: install the package gdb-multiarch`);
      });
    } else {
      test.skip(`${reason}: install the package gdb-multiarch`, () => undefined);
    }
    return;
  }
  const x86 = isa === 'x86-64';

  test('symbols, a breakpoint by name, the stack, registers, memory, a fault and a step over it', async () => {
    const served = await serveFile(isa, 'set-cmask-writes-to-unallocated-page');
    const { session } = served;
    const [page, store] = ['a.page(3)', 'write_cmask.store'].map((each) => session.evaluate(each));
    const text = await runGdb(
      gdb,
      served,
      'break bpf_prog_set_cmask',
      'break *(&write_cmask)',
      'continue',
      mark('program'),
      'bt',
      'continue',
      mark('kernel'),
      'bt',
      'delete',
      `break *${store}`,
      'continue',
      mark('at'),
      'x/i $pc',
      'bt',
      mark('registers'),
      x86 ? 'p/x $cr3' : 'p/x $TTBR1_EL1',
      x86 ? 'p $cr0' : 'p $cpsr',
      `x/8xb ${session.evaluate('write_cmask')}`,
      `x/gx ${page}`,
      mark('fault'),
      'stepi',
      x86 ? 'p $cr2' : 'p $FAR_EL1',
      x86 ? 'p $error_code' : 'p $ESR_EL1',
      mark('behind'),
      'stepi',
      `x/gx ${(page ?? 0n) + 0x10n}`,
      'bt',
      mark('back'),
      'reverse-stepi',
      'reverse-stepi',
      'reverse-stepi',
      'bt 1',
    );
    expect(text).toMatch(/Breakpoint 1, 0x[0-9a-f]+ in bpf_prog_[0-9a-f]{16}_set_cmask \(\)/);
    expect(section(text, 'program')).toMatch(
      /^#0 .* in bpf_prog_[0-9a-f]{16}_set_cmask \(\)\n#1 .* in ret_from_fork\w* \(\)$/m,
    );
    expect(section(text, 'kernel')).toMatch(
      /^#0 .* in write_cmask \(\)\n#1 .* in bpf_prog_[0-9a-f]{16}_set_cmask \(\)\n#2 .*ret_from_fork/m,
    );
    expect(section(text, 'at')).toMatch(x86 ? /mov +%rax,\(%rdi\)/ : /str\tx1, \[x0\]/);
    expect(section(text, 'at')).toMatch(
      /#0 .* in write_cmask \(\)\n#1 .* in bpf_prog_[0-9a-f]{16}_set_cmask \(\)\n#2/,
    );
    expect(section(text, 'registers')).toMatch(x86 ? /0x1000\n.*\bPG\b/ : /0x40000000\n.*EL=1/);
    expect(section(text, 'registers')).toMatch(
      x86 ? /0x55\s+0x48\s+0x89\s+0xe5/ : /0xfd\s+0x7b\s+0xbf\s+0xa9/,
    );
    expect(section(text, 'registers')).toContain('Cannot access memory at address');
    expect(section(text, 'fault')).toMatch(/: write of 0x[0-9a-f]+ <a\.page\(3\) \+ 0x10> at .*write_cmask/);
    expect(section(text, 'fault')).toContain('received signal SIGSEGV');
    expect(section(text, 'fault')).toMatch(x86 ? /\[ W \]/ : /ISS=71 IL EC=37/);
    expect(section(text, 'behind')).toMatch(/0x0000000000004141/);
    expect(section(text, 'behind')).toMatch(/#0 .* in write_cmask \(\)\n#1 .*_set_cmask/);
    expect(section(text, 'back')).toMatch(/#0 .* in write_cmask/);
    expect(text).not.toMatch(
      /warning: (?!File transfers)|Undefined|Invalid|Remote (failure|replied)|packet error/i,
    );
  });

  test('a watchpoint on the scratch page, forwards and back', async () => {
    const served = await serveFile(isa, 'set-cmask-writes-to-unallocated-page');
    const place = served.session.evaluate('a.page(3)') + 0x10n;
    const text = await runGdb(
      gdb,
      served,
      'handle SIGSEGV nostop noprint pass',
      `watch *(unsigned long *)${place}`,
      mark('page'),
      'continue',
      ...(x86 ? [mark('store'), 'continue'] : []),
      'bt 1',
      mark('back'),
      'reverse-continue',
      'x/i $pc',
      mark('gone'),
      'reverse-continue',
      mark('again'),
      'continue',
      mark('end'),
    );
    // The page comes to be: the scratch page, with zeros. Then the store is tried again. gdb for arm64 looks when
    // the instruction has been executed.
    const page = section(text, 'page');
    expect(page).toMatch(/Hardware watchpoint 1: .*\n\nOld value = <unreadable>\n/);
    expect(page).toMatch(x86 ? /New value = 0\n/ : /New value = 16705\n/);
    if (x86) expect(section(text, 'store')).toMatch(/Old value = 0\nNew value = 16705\n/);
    expect(section(text, x86 ? 'store' : 'page')).toMatch(/#0 .* in write_cmask/);
    const back = section(text, 'back');
    expect(back).toMatch(/Old value = 16705\nNew value = 0\n/);
    expect(back).toMatch(x86 ? /mov +%rax,\(%rdi\)/ : /str\tx1, \[x0\]/);
    expect(section(text, 'gone')).toMatch(/Old value = 0\nNew value = <unreadable>\n/);
    expect(section(text, 'again')).toMatch(/Old value = <unreadable>\n/);
  });

  test('detached, and connected again; monitor walk; the end', async () => {
    const served = await serveFile(isa, 'set-cmask-writes-to-unallocated-page');
    const first = await runGdb(
      gdb,
      served,
      'break write_cmask',
      'continue',
      'monitor walk a.page(3)',
      'detach',
    );
    expect(first).toMatch(/PTE.*(not present|invalid)/);
    expect(first).toContain('detached');
    const second = await runGdb(
      gdb,
      served,
      mark('again'),
      'info registers pc',
      'info breakpoints',
      mark('path'),
      'continue',
      'monitor path',
      mark('end'),
      'continue',
      'monitor arena',
      'monitor stream',
      mark('exit'),
      'continue',
    );
    expect(section(second, 'again')).toMatch(/<write_cmask\+\d+>\nNo breakpoints or watchpoints\./);
    expect(section(second, 'path')).toMatch(/received signal SIGSEGV/);
    expect(section(second, 'end')).toMatch(/the fixture has passed\.\n\nNo more reverse-execution history/);
    expect(section(second, 'end')).toMatch(/3 scratch/);
    expect(section(second, 'end')).toMatch(/ERROR: Arena WRITE access at unmapped address/);
    expect(second).toMatch(/exited normally/);
  });

  test('programs that were compiled have frames, too, all the way', async () => {
    const served = await serveFile(isa, 'sched-ext-set-cmask');
    const text = await runGdb(
      gdb,
      served,
      'break bpf_prog_set_cmask',
      'continue',
      'bt',
      // At every instruction of the image, wherever its prologue stands.
      ...Array.from({ length: 14 }, () => ['stepi', 'bt 3']).flat(),
    );
    expect(text).toMatch(
      /#0 .* in bpf_prog_[0-9a-f]{16}_set_cmask \(\)\n#1 .*set_cmask \(\)\n#2 .* in scx_call_op_set_cpumask/,
    );
    const stacks = [...text.matchAll(/#1 (.*)\n#2 (.*)/g)].map(([, one, two]) => [one, two]);
    expect(stacks.length).toBe(15);
    for (const stack of stacks) expect(stack).toEqual(stacks[0]);
  });

  test('an interrupt stops what runs on and on, finish and a call of gdb return', async () => {
    const served = await serve(
      await sessionOf(
        isa,
        '  - { call: prog_main, registers: { ARG0: counter, ARG1: 7 } }\n  - { call: spin, registers: { ARG0: 1 << 40, ARG1: counter } }',
        'limits: { instructions: 1000000000 }',
      ),
    );
    const timer = setInterval(() => {
      // As ^C: gdb sends the byte when it gets the signal; here the machine is stopped under its hands.
      if (served.session.running && served.session.position.instructions > 100_000)
        served.session.interrupt();
    }, 20);
    const text = await runGdb(
      gdb,
      served,
      'break write_word',
      'continue',
      mark('finish'),
      'finish',
      mark('call'),
      'delete',
      'p $sp',
      'info registers pc',
      'call ((void (*)(void *, long)) write_word)(&counter, 0x5a5a)',
      'p/x *(long *) &counter',
      'p $sp',
      'info registers pc',
      mark('spin'),
      'continue',
      'bt',
    );
    clearInterval(timer);
    expect(section(text, 'finish')).toMatch(/in bpf_prog_[0-9a-f]{16}_demo \(\)/);
    const called = section(text, 'call');
    expect(called).toContain('= 0x5a5a\n');
    expect(called).not.toContain('SIGSEGV');
    const [before, after] = ['pc ', ' = (void *)'].map((each) =>
      called
        .split('\n')
        .filter((line) => line.includes(each))
        .map((line) => line.replace(/^\$\d+/, '')),
    );
    expect([before?.length, before?.[0], after?.[0]]).toEqual([2, before?.[1], after?.[1]]);
    expect(section(text, 'spin')).toMatch(/received signal SIGINT/);
    expect(section(text, 'spin')).toMatch(/#0 .* in spin \(\)\n#1 .*ret_from_fork/);
  });

  test('what cannot be is refused in words: load, values of registers, packets', async () => {
    const served = await serveFile(isa, 'set-cmask-writes-to-unallocated-page');
    const register = x86 ? '$cr0' : '$TCR_EL1';
    const text = await runGdb(
      gdb,
      served,
      ...attempts(
        'load',
        `set var ${register} = (long) 0`,
        'maint packet Z0,zz,1',
        'maint packet qNobodyKnows',
        `p/x ${register}`,
        'info registers pc',
      ),
    );
    expect(text).toMatch(/Loading section \.the_machine_is_loaded_already.*\n.*Load failed/);
    expect(text).toMatch(x86 ? /cr0 cannot be changed: PG and PE/ : /granule TG1 .* is not modelled/);
    expect(text).toMatch(/received: "E16"\n[\s\S]*received: ""/);
    expect(text).toMatch(x86 ? /= 0x80050033\n/ : /= 0x32b5503510\n/);
    expect(text).toMatch(/pc .*<bpf_prog_[0-9a-f]{16}_set_cmask>\n/);
  });

  test('hardware breakpoints, conditions, and reads that are watched, forwards and back', async () => {
    const served = await serve(
      await sessionOf(
        isa,
        '  - { call: touch_twice, registers: { ARG0: counter } }\n  - { call: touch, registers: { ARG0: counter } }',
      ),
    );
    const text = await runGdb(
      gdb,
      served,
      'rwatch *(long *) &counter',
      mark('first'),
      'continue',
      mark('second'),
      'continue',
      mark('back'),
      'reverse-continue',
      mark('condition'),
      'delete',
      'break *touch if $pc == 0',
      'hbreak *touch',
      'continue',
      mark('end'),
      'delete',
      'continue',
      'kill',
    );
    for (const each of ['first', 'second', 'back']) {
      expect(section(text, each)).toMatch(/Hardware read watchpoint 1: .*\n\nValue = 0\n.* in touch_twice/);
    }
    expect(section(text, 'condition')).toMatch(/Breakpoint 3, .* in touch \(\)/);
    expect(section(text, 'end')).toMatch(/the fixture has passed/);
    await served.server.ended;
  });
});
