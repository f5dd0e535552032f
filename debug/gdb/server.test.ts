/** The protocol, spoken by a debugger of ours over a real socket. */
import { afterEach, describe, expect, test } from '@jest/globals';
import { ISAS, type Isa, OOPS_STEPS, SCRATCH_STEPS, sessionOf } from '../testing.js';
import { packet } from './framing.js';
import { hexText } from './hex.js';
import { type GdbServer, serveGdb } from './server.js';
import { RspClient } from './testing.js';

const SUPPORTED =
  'qSupported:multiprocess+;swbreak+;hwbreak+;qRelocInsn+;vContSupported+;no-resumed+;xmlRegisters=i386';
/** Number of pc among the registers, and how wide the general ones in front of it are. */
const PC: Readonly<Record<Isa, number>> = { 'x86-64': 16, arm64: 32 };

/** Counts for half a minute. */
const LONG = [
  '  - { call: spin, registers: { ARG0: 1 << 40, ARG1: counter } }',
  'limits: { instructions: 1000000000 }',
] as const;

const cleanup: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const each of cleanup.splice(0).reverse()) await each();
});

interface Served {
  readonly server: GdbServer;
  readonly log: string[];
  readonly session: Awaited<ReturnType<typeof sessionOf>>;
}

async function serve(isa: Isa, steps = SCRATCH_STEPS, head = ''): Promise<Served> {
  const session = await sessionOf(isa, steps, head);
  const log: string[] = [];
  const server = await serveGdb(session, {
    name: 'test.yaml',
    host: '127.0.0.1',
    port: 0,
    log: (line) => log.push(line),
  });
  cleanup.push(async () => {
    await server.close();
    session.close();
  });
  return { server, log, session };
}

async function connect({ server }: Served): Promise<RspClient> {
  const client = await RspClient.connect(server.port);
  cleanup.push(() => client.close());
  return client;
}

const little = (value: bigint): string => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes.toString('hex');
};

const hexOf = (value: bigint): string => value.toString(16);

describe.each(ISAS)('%s', (isa) => {
  test('what gdb asks first is answered as it has to be', async () => {
    const served = await serve(isa);
    const client = await connect(served);
    const supported = await client.ask(SUPPORTED);
    expect(supported.split(';')).toEqual(
      expect.arrayContaining([
        'PacketSize=4000',
        'QStartNoAckMode+',
        'ReverseStep+',
        'ReverseContinue+',
        'swbreak+',
      ]),
    );
    expect(supported).not.toContain('multiprocess');
    expect(await client.ask('vMustReplyEmpty')).toBe('');
    expect(await client.ask('QStartNoAckMode')).toBe('OK');
    expect(await client.ask('Hg0')).toBe('OK');
    expect(await client.ask('qXfer:features:read:other.xml:0,100')).toBe('E00');
    expect(await client.ask('qTStatus')).toBe('');
    expect(await client.ask('?')).toMatch(/^T05[0-9a-f]{2}:[0-9a-f]{16};[0-9a-f]{2}:[0-9a-f]{16};thread:1;$/);
    expect(await client.ask('qXfer:threads:read::0,1000')).toMatch(
      /^l.*<thread id="1" core="0">CPU 0, kernel/s,
    );
    expect(await client.ask('qAttached')).toBe('1');
    expect(await client.ask('Hc-1')).toBe('OK');
    expect(await client.ask('vCont?')).toBe('vCont;c;C;s;S;r');
  });

  test('the description comes in pieces, and g has as many bytes as it says', async () => {
    const client = await connect(await serve(isa));
    let xml = '';
    for (;;) {
      const part = await client.ask(`qXfer:features:read:target.xml:${xml.length.toString(16)},100`);
      xml += part.slice(1);
      if (part[0] === 'l') break;
      expect(part).toHaveLength(0x101);
    }
    expect(xml).toContain(isa === 'arm64' ? '<architecture>aarch64<' : '<architecture>i386:x86-64<');
    const bits = [...xml.matchAll(/<reg [^>]*bitsize="(\d+)"/g)].reduce(
      (sum, [, size]) => sum + Number(size),
      0,
    );
    expect(await client.ask('g')).toHaveLength(bits / 4);
    // Types are those that gdb has by itself, or those that are defined.
    const own = [...xml.matchAll(/<flags id="([^"]+)"/g)].map(([, id]) => id);
    const known = ['int', 'int32', 'int64', 'data_ptr', 'code_ptr', 'i387_ext', ...own];
    for (const [, type] of xml.matchAll(/<reg [^>]*type="([^"]+)"/g)) expect(known).toContain(type);
  });

  test('a breakpoint, a fault, a step over it, and back', async () => {
    const served = await serve(isa);
    const { session } = served;
    const client = await connect(served);
    await client.ask(SUPPORTED);
    const store = session.evaluate('write_word.store');
    expect(await client.ask(`Z0,${hexOf(store)},1`)).toBe('OK');
    expect(await client.ask(`Z0,${hexOf(store)},1`)).toBe('OK');
    const pc = PC[isa].toString(16);
    expect(await client.ask('vCont;c')).toBe(
      `T05${pc}:${little(store)};${isa === 'arm64' ? '1f' : '07'}:${little(session.sp)};thread:1;swbreak:;`,
    );
    expect(await client.ask(`p${pc}`)).toBe(little(store));
    expect(await client.ask(`z0,${hexOf(store)},1`)).toBe('OK');
    expect(await client.ask(`z0,${hexOf(store)},1`)).toBe('OK');
    expect(await client.ask('vCont;s:1')).toMatch(/^T0b/);
    expect(client.output).toMatch(/^(#PF|Data Abort): write of 0x[0-9a-f]+ <a\.page\(3\)> at .*<write_word/);
    expect(session.pc).toBe(store);
    expect(await client.ask('vCont;S0b:1')).toMatch(/^T05/);
    expect(session.pc).not.toBe(store);
    expect(session.readMemory(session.evaluate('a.page(3)'), 2)).toEqual(Uint8Array.of(0x34, 0x12));
    // It is to be tried again, it faults, it has not been executed.
    for (let i = 0; i < 3; i++) {
      expect(await client.ask('bs')).toMatch(/^T05/);
    }
    expect(session.pc).not.toBe(store);
    expect(session.readMemory(session.evaluate('a.page(3)'), 2)).toBeNull();
  });

  test('faults that nobody wants to hear of are passed', async () => {
    const served = await serve(isa);
    const client = await connect(served);
    await client.ask('QPassSignals:b;e;10;');
    expect(await client.ask('c')).toMatch(/replaylog:end:;$/);
    expect(client.output).not.toMatch(/write of/);
    expect(await client.ask('c')).toBe('W00');
    await client.ask('QPassSignals:');
    expect(await client.ask('bc')).toMatch(/^T0b/);
  });

  test('only what the kernel does not recover from', async () => {
    const served = await serve(isa, `${SCRATCH_STEPS}${OOPS_STEPS}`);
    const client = await connect(served);
    await client.monitor('faults unrecovered');
    expect(await client.ask('c')).toMatch(/^T0b/);
    expect(client.output).toMatch(/read of 0x10 at .*<touch/);
    expect(served.session.position.place).toBe('path');
    expect(await client.ask('c')).toMatch(/replaylog:end:;$/);
    // The fixture expects that it returns.
    expect(await client.ask('c')).toBe('W01');
    expect(client.output).toBe('');
  });

  test("a fault that is recovered from stops at the user's catchpoint", async () => {
    const served = await serve(isa);
    const client = await connect(served);
    await client.monitor('faults unrecovered');
    await client.monitor('break fault');
    expect(await client.ask('c')).toMatch(/^T05/);
    expect(served.session.position.place).toBe('path');
    expect(client.output).toMatch(/write of .*<write_word/);
  });

  test('going back ends where the first instruction is', async () => {
    const served = await serve(isa);
    const client = await connect(served);
    const start = await client.ask('?');
    expect(await client.ask('bc')).toBe(`${start}replaylog:begin:;`);
    expect(await client.ask('s')).toMatch(/^T05/);
    expect(await client.ask('bs')).toBe(start);
    expect(await client.ask('bs')).toBe(`${start}replaylog:begin:;`);
  });

  test('memory: what is mapped of it, and no side effects', async () => {
    const served = await serve(isa);
    const { session } = served;
    const client = await connect(served);
    const counter = session.evaluate('counter');
    expect(await client.ask(`M${hexOf(counter)},4:11223344`)).toBe('OK');
    expect(await client.ask(`m${hexOf(counter)},4`)).toBe('11223344');
    // `X` with the bytes that have to be escaped.
    const bytes = Uint8Array.from([...Buffer.from(`X${hexOf(counter)},4:`), 0x23, 0x24, 0x7d, 0x2a]);
    expect(await client.ask(bytes)).toBe('OK');
    expect(await client.ask(`m${hexOf(counter)},4`)).toBe('23247d2a');
    expect(await client.ask(`m${hexOf(session.evaluate('a.page(3)'))},4`)).toBe('E14');
    expect(await client.ask(`M${hexOf(session.evaluate('a.page(3)'))},1:00`)).toBe('E14');
    expect(await client.ask(`m${hexOf(counter)},0`)).toBe('');
    expect(await client.ask('m0123456789abcdef0,4')).toBe('E16');
    // Up to the end of what is mapped.
    const last = counter | 0xfffn;
    const answer = await client.ask(`m${hexOf(last)},2000`);
    expect(answer.length).toBeGreaterThanOrEqual(2);
    const [pa] = [session.walk(counter).pa];
    expect(await client.ask('Qqemu.PhyMemMode:1')).toBe('OK');
    expect(await client.ask('qqemu.PhyMemMode')).toBe('1');
    expect(await client.ask(`m${(pa ?? 0).toString(16)},4`)).toBe('23247d2a');
    expect(await client.ask('Qqemu.PhyMemMode:0')).toBe('OK');
  });

  test('registers one by one and all at once', async () => {
    const served = await serve(isa);
    const { session } = served;
    const client = await connect(served);
    const name = isa === 'arm64' ? 'x3' : 'rdx';
    expect(await client.ask(`P3=${little(0x1122334455667788n)}`)).toBe('OK');
    expect(session.register(name)).toBe(0x1122334455667788n);
    const all = await client.ask('g');
    expect(all.slice(48, 64)).toBe(little(0x1122334455667788n));
    expect(await client.ask(`G${all.slice(0, 48)}${little(5n)}${all.slice(64)}`)).toBe('OK');
    expect(session.register(name)).toBe(5n);
    expect(await client.ask('G00')).toBe('E16');
    expect(await client.ask('P3=00')).toBe('E16');
    expect(await client.ask('pff')).toBe('E16');
  });

  test('a watchpoint on a page that comes to be', async () => {
    const served = await serve(isa);
    const { session } = served;
    const client = await connect(served);
    await client.ask('QPassSignals:b;');
    const page = session.evaluate('a.page(3)');
    expect(await client.ask(`Z2,${hexOf(page)},4`)).toBe('OK');
    expect(await client.ask('c')).toContain(`watch:${hexOf(page)};`);
  });

  test('what is sent wrong is asked for again, what is not taken is sent again', async () => {
    const client = await connect(await serve(isa));
    client.sendRaw('$qC#00');
    expect(await client.next()).toEqual({ kind: 'nak' });
    client.sendRaw('$qC#b4');
    expect(await client.next()).toEqual({ kind: 'ack' });
    const first = await client.next();
    expect(first).toEqual({ kind: 'packet', data: new Uint8Array(Buffer.from('QC1')) });
    client.sendRaw('-');
    expect(await client.next()).toEqual(first);
    client.sendRaw('+-');
    // Nothing is left to be sent again.
    expect(await client.ask('qAttached')).toBe('1');
  });

  test('without acknowledgements a wrong sum is an error', async () => {
    const client = await connect(await serve(isa));
    await client.noAcks();
    client.sendRaw('$qC#00');
    expect(await client.answer()).toBe('E16');
    expect(await client.ask('qC')).toBe('QC1');
  });

  test('what is unknown is answered empty, what is malformed with an error', async () => {
    const client = await connect(await serve(isa));
    for (const unknown of [
      'qOffsets',
      'vAttach;1',
      'QNonStop:0',
      'jThreads',
      'B0,S',
      'bx',
      'Z9,0,1',
      '_M1',
      'qP',
    ]) {
      expect([unknown, await client.ask(unknown)]).toEqual([unknown, '']);
    }
    for (const bad of [
      'm',
      'mxyz,4',
      'M0,4:00',
      'Z0',
      'Z0,0',
      'vCont;',
      'vCont;q',
      'vCont;C',
      'vCont;t',
      'Hx0',
      'X0,1',
      'qRcmd,0',
      'P1',
    ]) {
      expect([bad, await client.ask(bad)]).toEqual([bad, 'E16']);
    }
  });

  test('one that runs on and on is interrupted', async () => {
    const served = await serve(isa, ...LONG);
    const client = await connect(served);
    client.sendRaw(packet(Buffer.from('vCont;c')));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(served.session.running).toBe(true);
    client.sendRaw(Uint8Array.of(0x03));
    expect(await client.answer()).toMatch(/^T02/);
    expect(await client.ask('s')).toMatch(/^T05/);
  });

  test('a loop that is stepped through is interrupted, too', async () => {
    const served = await serve(isa, ...LONG);
    const client = await connect(served);
    client.sendRaw(packet(Buffer.from('vCont;r0,ffffffffffffffff:1')));
    client.sendRaw(Uint8Array.of(0x03));
    expect(await client.answer()).toMatch(/^T02/);
    expect(await client.ask('vCont;s:1')).toMatch(/^T05/);
  });

  test('one who disappears leaves everything in order for the next', async () => {
    const served = await serve(isa, ...LONG);
    const first = await connect(served);
    await first.ask(`Z2,${hexOf(served.session.evaluate('counter') + 32n)},8`);
    first.sendRaw(packet(Buffer.from('c')));
    await new Promise((resolve) => setTimeout(resolve, 50));
    first.close();
    const second = await connect(served);
    expect(await second.ask('?')).toMatch(/^T02/);
    expect(served.session.running).toBe(false);
    expect(served.session.breakpoints.filter(({ spec }) => spec.kind === 'watch')).toEqual([]);
  });

  test('detached, it goes on where it stood', async () => {
    const served = await serve(isa);
    const first = await connect(served);
    await first.ask('s');
    const stop = await first.ask('?');
    expect(await first.ask('D')).toBe('OK');
    expect(await first.next()).toBeNull();
    const second = await connect(served);
    expect(await second.ask('?')).toBe(stop);
    await second.ask('!');
    expect(await second.ask('vRun;')).not.toBe(stop);
    expect(served.session.position.instructions).toBe(0);
  });

  test('a second one is told why it is sent away', async () => {
    const served = await serve(isa);
    const first = await connect(served);
    await first.ask('qC');
    const second = await connect(served);
    expect(await second.ask(SUPPORTED)).toBe('PacketSize=1000');
    expect(await second.ask('vMustReplyEmpty')).toMatch(/^E\..*another debugger/);
    expect(await second.next()).toBeNull();
    expect(await first.ask('qC')).toBe('QC1');
    expect(served.log.join('\n')).toMatch(/refused/);
  });

  test('killed, the server ends', async () => {
    const served = await serve(isa);
    const client = await connect(served);
    client.sendRaw(packet(Buffer.from('k')));
    await served.server.ended;
    expect(await client.next()).toEqual({ kind: 'ack' });
    expect(await client.next()).toBeNull();
  });

  test('vKill ends it as well, but starts anew for those who can go on with that', async () => {
    const served = await serve(isa);
    const first = await connect(served);
    await first.ask('!');
    await first.ask('s');
    expect(await first.ask('vKill;1')).toBe('OK');
    expect(served.session.position.instructions).toBe(0);
    expect(await first.ask('D')).toBe('OK');
    const second = await connect(served);
    expect(await second.ask('vKill;1')).toBe('OK');
    await served.server.ended;
  });

  test('what a debugger has set goes with it', async () => {
    const served = await serve(isa);
    const first = await connect(served);
    await first.ask('qSupported:swbreak+;hwbreak+');
    await first.ask(`Z0,${hexOf(served.session.evaluate('write_word'))},1`);
    expect(await first.ask('c')).toMatch(/swbreak:;$/);
    await first.monitor('break bpf_arena_handle_page_fault');
    await first.monitor('faults none');
    await first.monitor('stepping all');
    expect(await first.ask('D')).toBe('OK');
    const second = await connect(served);
    expect(await second.monitor('break')).toBe('there are none\n');
    expect(await second.monitor('faults')).toBe('faults: all\n');
    expect(await second.monitor('stepping')).toBe('stepping: off\n');
    // It has not said that it knows this reason.
    await second.ask('bs');
    await second.ask(`Z0,${hexOf(served.session.evaluate('write_word'))},1`);
    expect(await second.ask('c')).toMatch(/thread:1;$/);
  });

  test('each packet waits until the one before is taken', async () => {
    const client = await connect(await serve(isa));
    client.sendRaw(packet(Buffer.from(`qRcmd,${Buffer.from('path').toString('hex')}`)));
    const output = {
      kind: 'packet',
      data: new Uint8Array(Buffer.from(`O${hexText('no path: nothing has faulted yet\n')}`)),
    };
    expect(await client.next()).toEqual({ kind: 'ack' });
    expect(await client.next()).toEqual(output);
    client.sendRaw('-');
    expect(await client.next()).toEqual(output);
    client.sendRaw('+-');
    const ok = { kind: 'packet', data: new Uint8Array(Buffer.from('OK')) };
    expect(await client.next()).toEqual(ok);
    expect(await client.next()).toEqual(ok);
  });

  test('a stop is told with the registers as they are now', async () => {
    const served = await serve(isa);
    const client = await connect(served);
    const pc = served.session.evaluate('write_word');
    expect(await client.ask(`P${hexOf(BigInt(PC[isa]))}=${little(pc)}`)).toBe('OK');
    expect(await client.ask('?')).toContain(`${hexOf(BigInt(PC[isa]))}:${little(pc)};`);
  });

  test('what the machine cannot be is refused with the reason, and nothing has changed', async () => {
    const served = await serve(isa);
    const client = await connect(served);
    const xml = await client.ask('qXfer:features:read:target.xml:0,3000');
    const names = [...xml.matchAll(/<reg name="(\w+)"/g)].map(([, name]) => name);
    const number = names.indexOf(isa === 'arm64' ? 'TCR_EL1' : 'cr0').toString(16);
    const before = await client.ask('g');
    expect(await client.ask(`P${number}=${little(0n)}`)).toMatch(/^E\.[ -~]{20,}$/);
    expect(await client.ask('g')).toBe(before);
    // The first one could be written, the other one could not.
    const at = before.lastIndexOf(await client.ask(`p${number}`));
    const both = `${little(1n)}${before.slice(16, at)}${little(0n)}${before.slice(at + 16)}`;
    expect(await client.ask(`G${both}`)).toMatch(/^E\./);
    expect(await client.ask('g')).toBe(before);
  });

  test('reads one behind the other, on the way back', async () => {
    const served = await serve(isa, '  - { call: touch_twice, registers: { ARG0: counter } }');
    const client = await connect(served);
    const { session } = served;
    const counter = session.evaluate('counter');
    await client.ask(`Z3,${hexOf(counter)},8`);
    const stops: number[] = [];
    const go = async (packet: string): Promise<void> => {
      expect(await client.ask(packet)).toContain(`rwatch:${hexOf(counter)};`);
      stops.push(session.position.instructions);
      // As gdb does for arm64, which looks behind the instruction.
      if (isa === 'arm64')
        stops.push(await client.ask(packet === 'c' ? 's' : 'bs').then(() => session.position.instructions));
    };
    await go('c');
    await go('c');
    await client.ask('s');
    const forwards = stops.splice(0);
    await go('bc');
    await go('bc');
    expect([forwards, stops]).toEqual(
      isa === 'arm64'
        ? [
            [0, 1, 1, 2],
            [2, 1, 1, 0],
          ]
        : [
            [1, 2],
            [1, 0],
          ],
    );
    expect(await client.ask('bc')).toContain('replaylog:begin');
  });

  test('monitor commands', async () => {
    const served = await serve(isa);
    const { session } = served;
    const client = await connect(served);
    expect(await client.monitor('help')).toMatch(/^monitor walk ADDRESS/);
    expect(await client.monitor('walk a.page(3) write')).toMatch(/PTE.*\n.*(not present|translation fault)/s);
    expect(await client.monitor('print a.page(3) + 0x10')).toBe(
      `0x${hexOf(session.evaluate('a.page(3) + 0x10'))} <a.page(3) + 0x10>\n`,
    );
    expect(await client.monitor('arena')).toMatch(/^a: 16 pages.*\n {2}0-15 free\n$/);
    expect(await client.monitor('kfence')).toBe('this machine has no KFENCE\n');
    expect(await client.monitor('path')).toBe('no path: nothing has faulted yet\n');
    expect(await client.monitor('nonsense')).toBe('nonsense is no command: monitor help lists them\n');
    expect(await client.monitor('walk')).toBe('an address is needed\n');
    expect(await client.monitor('delete x')).toBe('x is no number\n');
    expect(await client.monitor('delete 99')).toBe('there is no breakpoint number 99\n');
    expect(await client.monitor('break step 1.5')).toBe('1.5 is no number\n');
    expect(await client.monitor('stream')).toBe('all streams are empty\n');
    expect(await client.monitor('break bpf_arena_handle_page_fault')).toMatch(
      /function bpf_arena_handle_page_fault/,
    );
    await client.ask('QPassSignals:b;');
    expect(await client.ask('c')).toMatch(/^T05.*thread:1;$/);
    expect(client.output).toMatch(/bpf_arena_handle_page_fault\(/);
    expect(await client.monitor('stack')).toMatch(/^#0 bpf_arena_handle_page_fault\n[\s\S]*write_word/);
    await client.monitor('stepping decisions');
    expect(await client.ask('s')).toMatch(/^T05/);
    expect(client.output).toMatch(/ → /);
    await client.monitor('stepping off');
    expect(await client.ask('s')).toMatch(/^T05/);
    expect(await client.monitor('arena')).toMatch(/3 scratch/);
    expect(await client.monitor('stream')).toMatch(/ERROR: Arena WRITE access/);
    expect(await client.monitor(`phys ${session.ram.base} 16`)).toMatch(
      /^0x[0-9a-f]+: ([0-9a-f]{2} ){15}[0-9a-f]{2}\n$/,
    );
  });
});
