import { describe, expect, test } from '@jest/globals';
import type { ThisCpu } from '../arch/arch.js';
import { x86 } from '../arch/x86/index.js';
import { EventLog, type FaultEvent } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { map_page } from '../mm/map.js';
import { System } from './system.js';

/**
 * Oopses of real machines, from published logs: the state that they tell of is built, the instruction runs,
 * and every line must come out again, with its level and its blanks. Left out of the reports are the call trace,
 * the modules, and what is behind the second CR2; what they lost on their way is put back (wholeLines()).
 */
interface RealOops {
  readonly name: string;
  readonly report: string;
  /** How the kernel that printed it differs from the one modelled. */
  readonly differs: readonly Difference[];
}

/** What older or otherwise configured kernels print where: applied to our lines. */
const DIFFERENCES = {
  /** Up to 6.14, which end the CPU line without a blank, too. */
  'preemption model in the Oops line': (line: string) =>
    line.replace(/^(Oops: .*\]) SMP/, '$1 PREEMPT SMP').replace(/^(CPU: .*\S) +$/, '$1'),
  /** Up to 6.9. */
  'one Oops word': (line: string) => line.replace(/^Oops: Oops: /, 'Oops: '),
  /** Up to 6.10. */
  'no UID': (line: string) => line.replace(/^(CPU: \d+) UID: \d+/, '$1'),
  /** Up to 6.10, as they are not given: an empty line stands for one that is not there. */
  'no names of taint flags': (line: string) => line.replace(/^Tainted: .*/, ''),
  /** 6.0 to 6.12. */
  '19 taint flags': (line: string) => line.replace(/^(CPU: .*Tainted: .{19}) /, '$1'),
} as const;
type Difference = keyof typeof DIFFERENCES | 'build id';

const OOPSES: readonly RealOops[] = [
  {
    name: 'v7.1-null-read-0000',
    // https://lore.kernel.org/all/afB5syZbUrppgsDQ@shinmob/
    differs: [],
    report: `
BUG: kernel NULL pointer dereference, address: 00000000000000c4
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
PGD 0 P4D 0
Oops: Oops: 0000 [#1] SMP KASAN PTI
CPU: 2 UID: 0 PID: 32 Comm: ksoftirqd/2 Tainted: G        W           7.1.0-rc1 #1 PREEMPT(full)
RIP: 0010:__lock_acquire+0x1fc/0x2230
Code: 24 20 41 89 44 24 24 4c 89 f0 25 ff 1f 00 00 48 0f a3 05 67 04 96 05 0f 83 4d 06 00 00 48 69 c0 c8 00 00 00 48 05 c0 29 04 90 <0f> b6 98 c4 00 00 00 41 0f b7 44 24 20 66 25 ff 1f 0f b7 c0 48 0f
RSP: 0018:ffff888100e97b30 EFLAGS: 00010046
RAX: 0000000000000000 RBX: 0000000000000000 RCX: 0000000000000001
RDX: 0000000000000001 RSI: ffffffff8deeb20b RDI: ffffffff8ee90120
RBP: ffff888100e38000 R08: 0000000000000001 R09: fffffbfff1dcfcf8
R10: fffffbfff1dcfcf9 R11: 0000000000000001 R12: ffff888100e38f98
R13: 0000000000000000 R14: 1eb851eb851775c4 R15: 0000000000000000
FS:  0000000000000000(0000) GS:ffff88841e189000(0000) knlGS:0000000000000000
CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
CR2: 00000000000000c4 CR3: 00000001412be000 CR4: 00000000000006f0
CR2: 00000000000000c4
`,
  },
  {
    name: 'v6.18-null-write-0002',
    // https://lore.kernel.org/all/a380d061-479e-4713-bddd-1d6571ca7e86@leemhuis.info/
    differs: ['build id'],
    report: `
BUG: kernel NULL pointer dereference, address: 00000000000000d0
#PF: supervisor write access in kernel mode
#PF: error_code(0x0002) - not-present page
PGD 0 P4D 0
Oops: Oops: 0002 [#1] SMP NOPTI
CPU: 8 UID: 0 PID: 136 Comm: kworker/u49:0 Tainted: G S                  6.18.0-rc6-1-mainline #1 PREEMPT(full)  232968b2ab8c223687b1bdd5c39590a8f510b2d3
RIP: 0010:mutex_lock+0x1c/0x30
Code: 90 90 90 90 90 90 90 90 90 90 90 90 90 90 f3 0f 1e fa 0f 1f 44 00 00 53 48 89 fb 2e 2e 2e 31 c0 65 48 8b 15 de 07 d7 01 31 c0 <f0> 48 0f b1 13 75 06 5b c3 cc cc cc cc 48 89 df 5b eb b1 90 90 90
RSP: 0018:ffffcf12807fbd88 EFLAGS: 00010246
RAX: 0000000000000000 RBX: 00000000000000d0 RCX: 0000000000000001
RDX: ffff8c88c61f0000 RSI: 0000000000000002 RDI: 00000000000000d0
RBP: ffff8c88c7a20028 R08: 0000000000000000 R09: 0000000000000010
R10: 0000000000000000 R11: 0000000000000404 R12: ffff8c88c9fb4000
R13: ffff8c88c61c1a05 R14: 0000000000000000 R15: ffff8c88c9fb4408
FS:  0000000000000000(0000) GS:ffff8c8cd8f02000(0000) knlGS:0000000000000000
CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
CR2: 00000000000000d0 CR3: 000000010b106000 CR4: 0000000000f50ef0
PKRU: 55555554
CR2: 00000000000000d0
`,
  },
  {
    name: 'v6.16-linear-read-0000',
    // https://lore.kernel.org/all/37087b24-24f7-46a9-95c4-2a2f3dced09b@niklasfi.de/
    differs: [],
    report: `
BUG: unable to handle page fault for address: ffff8d089bff0000
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
PGD a1aa05067 P4D a1aa05067 PUD 0
Oops: Oops: 0000 [#8] SMP NOPTI
CPU: 15 UID: 1000 PID: 3920 Comm: gst-plugin:cs0 Tainted: G      D     E       6.16.3-00442-ge01facfb54a9 #22 PREEMPT(lazy)
RIP: 0010:__queue_work+0x60/0x400
Code: 00 20 00 00 0f 84 d5 01 00 00 4d 63 fe 49 8b ac 24 08 01 00 00 49 81 ff 00 20 00 00 0f 83 76 03 00 00 4a 03 2c fd a0 1f 73 a2 <4c> 8b 7d 00 48 8b 33 49 8b 2f 40 f6 c6 04 0f 85 b9 01 00 00 48 c1
RSP: 0018:ffffd4cf4c107890 EFLAGS: 00010086
RAX: 0000000000000001 RBX: ffff8cf98c99a150 RCX: 0000000000000286
RDX: ffff8cfa59373080 RSI: ffff8cf9952ca200 RDI: 0000000000002000
RBP: ffff8d089bff0000 R08: ffff8cf99b8956a8 R09: 0000000000000007
R10: ffff8cf98c991780 R11: fffffa7e04303280 R12: ffff8cf9952ca200
R13: 0000000000002000 R14: 000000000000000f R15: 000000000000000f
FS:  00007f0b95f0e6c0(0000) GS:ffff8d089bff0000(0000) knlGS:0000000000000000
CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
CR2: ffff8d089bff0000 CR3: 00000001e2f88000 CR4: 0000000000f50ef0
PKRU: 55555554
CR2: ffff8d089bff0000
`,
  },
  {
    name: 'v6.13-write-ro-0003',
    // https://lore.kernel.org/all/66dec9cd-ca3d-4b70-aed4-1cebc6e1157f@noduck.org/
    differs: ['preemption model in the Oops line'],
    report: `
BUG: unable to handle page fault for address: ffffffffb6ac20cd
#PF: supervisor write access in kernel mode
#PF: error_code(0x0003) - permissions violation
PGD 589a36067 P4D 589a36067 PUD 589a37063 PMD 588a001a1
Oops: Oops: 0003 [#1] PREEMPT SMP NOPTI
CPU: 0 UID: 0 PID: 3954 Comm: usb-storage Not tainted 6.13.0-rc3 #22
RIP: 0010:xhci_ring_expansion+0xbf/0x380
Code: 3d 01 00 00 8b 44 24 40 85 c0 0f 84 91 01 00 00 48 8b 54 24 18 48 8b 45 08 48 8b 52 08 48 89 50 08 48 8b 55 00 48 8b 44 24 18 <48> 89 50 08 8b 4c 24 54 8b 54 24 48 48 8b 74 24 08 48 8b 44 24 18
RSP: 0018:ffffac31c5ec7a38 EFLAGS: 00010086
RAX: ffffffffb6ac20c5 RBX: ffff97ee0164a250 RCX: ffff97ef792b5000
RDX: ffff97ee41261b80 RSI: ffffac31c5ec7a38 RDI: 0000000000001800
RBP: ffff97ee43897a00 R08: 0000000000000000 R09: 0000000000000000
R10: ffffac31c5ec79b8 R11: 00000000ffffffff R12: 0000000000000820
R13: 0000000000000000 R14: 0000000000000100 R15: ffff97ee04d28000
FS:  0000000000000000(0000) GS:ffff97f56f600000(0000) knlGS:0000000000000000
CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
CR2: ffffffffb6ac20cd CR3: 0000000589a34002 CR4: 0000000000772ef0
PKRU: 55555554
CR2: ffffffffb6ac20cd
`,
  },
  {
    name: 'v6.12-vmalloc-write-0002',
    // https://lore.kernel.org/all/c55bcb77-e39a-4591-ba4e-827770b4ba35@kernel.dk/
    differs: ['preemption model in the Oops line'],
    report: `
BUG: unable to handle page fault for address: ffffafe180a40084
#PF: supervisor write access in kernel mode
#PF: error_code(0x0002) - not-present page
PGD 100000067 P4D 100000067 PUD 10027c067 PMD 10115d067 PTE 0
Oops: Oops: 0002 [#1] PREEMPT SMP PTI
CPU: 17 UID: 0 PID: 0 Comm: swapper/17 Not tainted 6.12.0-rc3-00013-geca631b8fe80 #11
RIP: 0010:_raw_spin_lock_irqsave+0x1d/0x40
Code: 90 90 90 90 90 90 90 90 90 90 90 90 90 f3 0f 1e fa 0f 1f 44 00 00 41 54 9c 41 5c fa 65 ff 05 62 97 30 4c 31 c0 ba 01 00 00 00 <f0> 0f b1 17 75 0a 4c 89 e0 41 5c c3 cc cc cc cc 89 c6 e8 2c 0b 00
RSP: 0018:ffffafe180580ca0 EFLAGS: 00010046
RAX: 0000000000000000 RBX: ffffafe180a3f7a8 RCX: 0000000000000011
RDX: 0000000000000001 RSI: 0000000000000003 RDI: ffffafe180a40084
RBP: 0000000000000000 R08: 00000000001e7240 R09: 0000000000000011
R10: 0000000000000028 R11: 0000000000000888 R12: 0000000000000002
R13: ffffafe180a40084 R14: 0000000000000000 R15: 0000000000000003
FS:  0000000000000000(0000) GS:ffff9aaf1f280000(0000) knlGS:0000000000000000
CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
CR2: ffffafe180a40084 CR3: 000000010e428002 CR4: 0000000000770ef0
DR0: 0000000000000000 DR1: 0000000000000000 DR2: 0000000000000000
DR3: 0000000000000000 DR6: 00000000fffe0ff0 DR7: 0000000000000400
PKRU: 55555554
`,
  },
  {
    name: 'v6.8-nx-stack-0011',
    // https://lore.kernel.org/all/Zd9eBn2FTQzYyg7L@krava/
    differs: [
      'preemption model in the Oops line',
      'one Oops word',
      'no UID',
      'no names of taint flags',
      '19 taint flags',
      'build id',
    ],
    report: `
BUG: unable to handle page fault for address: ffffc90001cdff58
#PF: supervisor instruction fetch in kernel mode
#PF: error_code(0x0011) - permissions violation
PGD 100000067 P4D 100000067 PUD 102a49067 PMD 10b3ee067 PTE 8000000109295163
Oops: 0011 [#3] PREEMPT SMP DEBUG_PAGEALLOC NOPTI
CPU: 1 PID: 450 Comm: systemd-journal Tainted: G      D            6.8.0-rc5+ #432 b8184d32457f2dd20b7178757a1fce97b3f847e2
RIP: 0010:0xffffc90001cdff58
Code: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 e6 00 60 82 ff ff ff ff <00> 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 00 00 00 00 00 00
RSP: 0018:ffffc90000b13df0 EFLAGS: 00010282
RAX: ffffc90001cdfef0 RBX: ffff88817759a8a0 RCX: ffffc90000b13e40
RDX: ffffffff81545129 RSI: ffffffffffffffff RDI: ffff88817759a890
RBP: ffff88817759a8a0 R08: 0000000000000001 R09: ffff888102b2c470
R10: ffffc90000b13e58 R11: ffffffff83976548 R12: ffffffff81545129
R13: ffffc90001cdff58 R14: ffffc90000b13ee8 R15: ffffc90000b13e40
FS:  00007f20a7635940(0000) GS:ffff88846d200000(0000) knlGS:0000000000000000
CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
CR2: ffffc90001cdff58 CR3: 0000000176a7a003 CR4: 0000000000770ef0
PKRU: 55555554
CR2: ffffc90001cdff58
`,
  },
];

/** The facts of a report. */
class Facts {
  readonly lines: readonly string[];
  constructor(readonly oops: RealOops) {
    this.lines = oops.report.trim().split('\n');
  }
  text(pattern: RegExp): string {
    const found = this.lines.map((line) => pattern.exec(line)?.[1]).find((text) => text !== undefined);
    return found ?? '';
  }
  hex(pattern: RegExp): bigint {
    return BigInt(`0x${this.text(pattern) || '0'}`);
  }
  register(name: string): bigint {
    return this.hex(new RegExp(`\\b${name}: *(?:[0-9a-f]{4}:)?([0-9a-f]+)`));
  }
  /** Entries of the page tables, from the PGD on. */
  get entries(): bigint[] {
    return [...this.text(/^(PGD .*)/).matchAll(/(PGD|PUD|PMD|PTE) ([0-9a-f]+)/g)].map(([, , hex]) =>
      BigInt(`0x${hex}`),
    );
  }
}

/** Names of taint flags that the reports have, from kernel/panic.c. */
const TAINTS: Readonly<Record<string, string>> = {
  S: 'CPU_OUT_OF_SPEC',
  D: 'DIE',
  W: 'WARN',
  E: 'UNSIGNED_MODULE',
};

/**
 * The lines of a report as the console had them: `<level>` in front, the blanks that mail programs cut, and two
 * lines that are not in the reports as they were collected: the one about NX and the names of the taint flags.
 */
function wholeLines({ lines, oops }: Facts): string[] {
  const has = (difference: Difference): boolean => oops.differs.includes(difference);
  return lines.flatMap((line) => {
    if (/^(BUG|#PF)/.test(line)) {
      const nx =
        /^BUG/.test(line) && /^PGD .* PTE 8/m.test(oops.report) && /instruction fetch/.test(oops.report);
      const warning = 'kernel tried to execute NX-protected page - exploit attempt? (uid: 0)';
      return nx ? [`<2>${warning}`, `<1>${line}`] : [`<1>${line}`];
    }
    // Only the PTE, which comes last, has no blank behind it.
    if (/^PGD/.test(line)) return [`<6>${line}${/PTE/.test(line) ? '' : ' '}`];
    const cpu = /^CPU: .* (?:Not tainted|Tainted: (.{18,20}?)) \d/.exec(line);
    if (cpu === null) return [`<4>${line}`];
    const shown = line.replace(/ [0-9a-f]{40}$/, '').trimEnd();
    const first = `<4>${shown}${has('preemption model in the Oops line') ? '' : ' '}`;
    const flags = (cpu[1] ?? '').replaceAll(/[ G]/g, '');
    if (flags === '' || has('no names of taint flags')) return [first];
    return [first, `<4>Tainted: ${[...flags].map((flag) => `[${flag}]=${TAINTS[flag] ?? ''}`).join(', ')}`];
  });
}

const PFN = 0x000f_ffff_ffff_f000n;
const SHIFTS = [39n, 30n, 21n, 12n];
/** A stack as the samples have it: 16 KiB, aligned. */
const STACK = 0x4000n;
const KERNEL_PAGE = 0x8000000000000163n;

const engine = new NativeEngine();

/** A machine in the state of a report, and which frames of its own ram stand for those of the real machine. */
class Rebuilt {
  readonly log = new EventLog();
  readonly system: System;
  readonly here: ThisCpu;
  readonly facts: Facts;
  /** Own page frames to real ones: the ram is small and has other addresses. */
  readonly frames = new Map<bigint, bigint>();

  constructor(oops: RealOops) {
    const facts = new Facts(oops);
    this.facts = facts;
    const cpu =
      /^CPU: \d+ (?:UID: (\d+) )?PID: (\d+) Comm: (\S+) (?:Not tainted|Tainted: (.{18,20}?)) (\S+) (#\d+) ?(\S*)/;
    const [, uid, pid, comm, taint, release, version, preempt] =
      facts.lines.map((line) => cpu.exec(line)).find((match) => match !== null) ?? [];
    const options = facts.text(/^Oops: .*\](.*)/);
    const cr4 = facts.register('CR4');
    this.system = System.boot({
      arch: x86,
      engine,
      sink: this.log,
      task: { comm: comm ?? '', pid: Number(pid), uid: Number(uid ?? 0) },
      config: {
        release: (release ?? '').trim(),
        version: version ?? '',
        preempt: /^PREEMPT/.test(preempt ?? '') ? (preempt ?? '') : '',
        taint: (taint ?? '').replaceAll(/[ G]/g, ''),
        PTI: / PTI/.test(options),
        KASAN: / KASAN/.test(options),
        DEBUG_PAGEALLOC: / DEBUG_PAGEALLOC/.test(options),
        SMEP: (cr4 & (1n << 20n)) !== 0n,
        SMAP: (cr4 & (1n << 21n)) !== 0n,
        PKE: (cr4 & (1n << 22n)) !== 0n,
      },
    });
    this.here = this.system.here();
    this.system.kernel.die_counter = Number(facts.text(/\[#(\d+)\]/)) - 1;
    this.#mapStack();
  }

  #frame(count = 1): number {
    const pa = this.system.memory.pages.takeFrames(count, 'rebuilt', count * 4096);
    if (pa === null) throw new Error('the ram is full');
    return pa;
  }

  #map(va: bigint): void {
    const { memory } = this.system;
    map_page(this.here, memory, memory.init_mm, va, this.#frame(), KERNEL_PAGE);
  }

  #mapStack(): void {
    const stack = this.facts.register('RSP') & ~(STACK - 1n);
    for (let offset = 0n; offset < STACK; offset += 4096n) this.#map(stack + offset);
    this.here.current = { ...this.here.current, stack, stackSize: Number(STACK) };
  }

  /** Makes the tables for the address of the fault what the report says, in frames of our own. */
  mapFault(va: bigint): void {
    const { ram } = this.here;
    const { init_mm } = this.system.memory;
    let table = BigInt(init_mm.pgd);
    this.frames.set(table, this.facts.register('CR3') & PFN);
    for (const [level, real] of this.facts.entries.entries()) {
      const pa = Number(table) + 8 * Number((va >> (SHIFTS[level] ?? 0n)) & 511n);
      const large = level < 3 && (real & 0x80n) !== 0n;
      // Bits of a large page's frame that are flags of our own: PAT.
      const flags = real & ~(large ? 0x000f_ffff_ffe0_0000n : PFN);
      const old = ram.readU64(pa);
      let own = real;
      if ((real & 1n) !== 0n) {
        const frame =
          (old & 1n) !== 0n && !large && level < 3 ? old & PFN : BigInt(this.#frame(large ? 512 : 1));
        this.frames.set(frame, real & PFN);
        own = frame | flags;
      }
      ram.writeU64(pa, own);
      table = own & PFN;
    }
  }

  /** Puts the function and the bytes around the instruction into memory; where the instruction is. */
  loadCode(): bigint {
    const bytes = this.facts
      .text(/^Code: (.*)/)
      .replaceAll(/[<>]/g, '')
      .split(' ');
    const code = Uint8Array.from(bytes, (byte) => Number.parseInt(byte, 16));
    const symbol = /RIP: 0010:(\S+)\+0x([0-9a-f]+)\/0x([0-9a-f]+)/.exec(this.facts.oops.report);
    const { system } = this;
    if (symbol === null) {
      const ip = this.facts.hex(/^RIP: 0010:0x([0-9a-f]+)/);
      this.mapFault(ip);
      system.writeVirtual(0, ip - 42n, code);
      return ip;
    }
    const [, name = '', offset = '', size = ''] = symbol;
    // Room for the bytes in front of a function that is not yet 42 bytes old.
    system.loadText({ name: 'in_front', start: system.textBase('kernel'), code: new Uint8Array(64) });
    const start = system.textBase('kernel');
    system.loadText({ name, start, code: new Uint8Array(Number.parseInt(size, 16)).fill(0xcc) });
    const ip = start + BigInt(`0x${offset}`);
    system.writeVirtual(0, ip - 42n, code);
    return ip;
  }

  registers(): Map<string, bigint> {
    const { facts, here } = this;
    const general = here.arch.generalRegisters.map((name): [string, bigint] => [
      name,
      facts.register(name.toUpperCase().replace(/^R(\d)$/, 'R0$1')),
    ]);
    return new Map([
      ...general,
      // RF is the exception's.
      ['rflags', facts.register('EFLAGS') & ~0x10000n],
      ['fs_base', facts.hex(/^FS: +([0-9a-f]+)/)],
      ['gs_base', facts.hex(/ GS:([0-9a-f]+)/)],
      ['kernel_gs_base', facts.hex(/knlGS:([0-9a-f]+)/)],
      ['cr0', facts.register('CR0')],
      ['cr3', BigInt(this.system.memory.init_mm.pgd) | (facts.register('CR3') & ~PFN)],
      ['cr4', facts.register('CR4')],
      ['dr6', facts.register('DR6') || 0xffff0ff0n],
    ]);
  }

  /** Our lines, with `<level>` in front, and with the frames and the CPU number of the real machine. */
  lines(): string[] {
    const all = this.system.kernel.console.linesWithLevels();
    const trace = all.indexOf('<4>Call Trace:');
    const modules = all.indexOf('<4>Modules linked in:');
    const shown = [...all.slice(0, trace), ...all.slice(modules + 1, modules + 2)];
    return shown
      .map((line) => `${line.slice(0, 3)}${this.#asThere(line.slice(3))}`)
      .filter((line) => line.length > 3);
  }

  #asThere(line: string): string {
    let text = line.replace(/^CPU: 0 /, `CPU: ${this.facts.text(/^CPU: (\d+)/)} `);
    if (/^(PGD|CR2: .*CR3)/.test(text)) {
      text = text.replaceAll(/(PGD|P4D|PUD|PMD|PTE|CR3:) ([0-9a-f]+)/g, (_, what: string, hex: string) => {
        const value = BigInt(`0x${hex}`);
        const flags = value & ~PFN;
        const large =
          (value & 0x81n) === 0x81n && what === 'PMD' ? value & 0x000f_ffff_ffe0_0000n : value & PFN;
        const real = this.frames.get(large);
        const there = real === undefined ? value : real | flags;
        return `${what} ${what === 'CR3:' ? there.toString(16).padStart(16, '0') : there.toString(16)}`;
      });
    }
    for (const difference of this.facts.oops.differs) {
      if (difference !== 'build id') text = DIFFERENCES[difference](text);
    }
    return text;
  }

  close(): void {
    this.system.close();
  }
}

describe('oopses of real machines', () => {
  test.each(OOPSES.map((oops) => [oops.name, oops] as const))('%s', (_name, oops) => {
    const machine = new Rebuilt(oops);
    try {
      const { facts } = machine;
      const address = facts.hex(/^BUG: .*address: ([0-9a-f]+)/);
      const ip = machine.loadCode();
      if (ip !== address) machine.mapFault(address);
      drain(machine.system.call(0, ip, machine.registers()));

      const fault = machine.log.events.find((event): event is FaultEvent => event.type === 'fault');
      expect(fault).toMatchObject({ pc: ip, address, code: facts.hex(/error_code\(0x([0-9a-f]+)/) });
      const expected = wholeLines(facts);
      expect(machine.lines().slice(0, expected.length)).toEqual(expected);
    } finally {
      machine.close();
    }
  });
});
