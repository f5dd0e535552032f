import { describe, expect, test } from '@jest/globals';
import {
  ORC_REG_BP,
  ORC_REG_BP_INDIRECT,
  ORC_REG_PREV_SP,
  ORC_REG_R10,
  ORC_REG_SP,
  ORC_TYPE_CALL,
  type OrcEntry,
} from './orc-entry.js';
import { validateCode } from './orc-validate.js';

/**
 * Functions compiled by GCC 12.2 (x86-64, no stack protector, no red zone), with the call frame information
 * that the compiler itself wrote for a debugger (.eh_frame, as readelf -wF lists it): from which offset on
 * the caller's frame is where, and with `rbp@` where the caller's RBP is saved, counted from that frame.
 * Put down differently from readelf: a rule for RBP that outlives its pop is left out; `(rbp-24)+0` stands
 * for a pointer in memory; and as long as RSP is not realigned, it counts, although r10 says the same. `unreached` is what only a jump table
 * leads to, and padding.
 */
interface Compiled {
  readonly what: string;
  readonly code: string;
  readonly frames: readonly (readonly [offset: number, frame: string])[];
  readonly unreached?: readonly (readonly [from: number, to: number])[];
}

const COMPILED: readonly Compiled[] = [
  {
    what: 'a loop with a call in two places (-O2)',
    code: '4154555385ff7e484863ff4889f331ed4c8d24beeb13662e0f1f8400000000004883c3044c39e374208b3be8a0ffffff01c583fd647ee989ef4883c304e88effffff29c54c39e375e089e85b5d415cc331ed5b89e85d415cc3',
    frames: [
      [0, 'rsp+8'],
      [2, 'rsp+16'],
      [3, 'rsp+24 rbp@-24'],
      [4, 'rsp+32 rbp@-24'],
      [76, 'rsp+24 rbp@-24'],
      [77, 'rsp+16'],
      [79, 'rsp+8'],
      [80, 'rsp+32 rbp@-24'],
      [83, 'rsp+24 rbp@-24'],
      [86, 'rsp+16'],
      [88, 'rsp+8'],
    ],
    unreached: [[22, 32]],
  },
  {
    what: 'a variable-length array (-O2)',
    code: '554863ff31c04883c70f4883e7f04889e54829fc4889e7e864ffffff0fbe0424c9c3',
    frames: [
      [0, 'rsp+8'],
      [1, 'rsp+16 rbp@-16'],
      [17, 'rbp+16 rbp@-16'],
      [33, 'rsp+8'],
    ],
  },
  {
    what: 'a realigned array (-O2)',
    code: '5589fe31c04889e54883e4c04883c4804889e7e838ffffffc9c3',
    frames: [
      [0, 'rsp+8'],
      [1, 'rsp+16 rbp@-16'],
      [8, 'rbp+16 rbp@-16'],
      [25, 'rsp+8'],
    ],
  },
  {
    what: 'a realigned array beside a variable-length one: the frame is found through r10 (-O2)',
    code: '4c8d5424084883e4c04863c789f241ff72f8554889e5415541544c8da550ffffff41524c89e7534889c34883c00f4883e0f04881ec90000000458b6a08458b024829c431c04489e94889e6e8e0feffff4489efe8c8feffff89de4c89e731c0e8ccfeffff488d65e05b415a415c415d5d498d62f8c3',
    frames: [
      [0, 'rsp+8'],
      [9, 'r10+0'],
      [22, 'r10+0 rbp@(rbp+0)'],
      [35, '(rbp-24)+0 rbp@(rbp+0)'],
      [107, 'r10+0 rbp@(rbp+0)'],
      [112, 'r10+0'],
      [116, 'rsp+8'],
    ],
  },
  {
    what: 'calls that never return between others (-O2)',
    code: '534883ec3085ff782231c089fb4889e7e89bfeffff4863c3803c0400751989dfe87bfeffff4883c4305bc3488d3d4e0e0000e859feffff488d3d460e0000e84dfeffff',
    frames: [
      [0, 'rsp+8'],
      [1, 'rsp+16'],
      [5, 'rsp+64'],
      [41, 'rsp+16'],
      [42, 'rsp+8'],
      [43, 'rsp+64'],
    ],
  },
  {
    what: 'a switch by jump table (-O2)',
    code: '4883ec0883ff050f8789000000488d15240e000089ff486304ba4801d0ffe090b8060000004883c408c3660f1f440000bf010000004883c408e912feffff6690bf04000000e806feffff4883c40883c001c3660f1f44000031c031ffe8fffdffffb8040000004883c408c30f1f440000bf09000000e8d6fdffff4883c40801c0c30f1f8000000000bf0c0000004883c408e9bafdffffe8b5fdffff4883c40883e801c3',
    frames: [
      [0, 'rsp+8'],
      [4, 'rsp+16'],
      [41, 'rsp+8'],
      [48, 'rsp+16'],
      [57, 'rsp+8'],
      [64, 'rsp+16'],
      [78, 'rsp+8'],
      [88, 'rsp+16'],
      [106, 'rsp+8'],
      [112, 'rsp+16'],
      [126, 'rsp+8'],
      [136, 'rsp+16'],
      [145, 'rsp+8'],
      [150, 'rsp+16'],
      [159, 'rsp+8'],
    ],
    unreached: [[31, 150]],
  },
  {
    what: 'arguments on the stack (-O2)',
    code: '41574989f741564989d641554989cd41544d89c4554c89cd534889fb4883ec184c8b5c24504c8b5424584c89d8490fafc2504c89c0490fafc150488d040a50488d04375031c041524c8954243041534c895c2430e857fdffff4883c43089dfe83cfdffff488b3424488b7c240831c048895c24584d89f14d89e84c89e14c897c24504883c4184889ea5b5d415c415d415e415fe918fdffff',
    frames: [
      [0, 'rsp+8'],
      [2, 'rsp+16'],
      [7, 'rsp+24'],
      [12, 'rsp+32'],
      [17, 'rsp+40'],
      [21, 'rsp+48 rbp@-48'],
      [25, 'rsp+56 rbp@-48'],
      [32, 'rsp+80 rbp@-48'],
      [50, 'rsp+88 rbp@-48'],
      [58, 'rsp+96 rbp@-48'],
      [63, 'rsp+104 rbp@-48'],
      [68, 'rsp+112 rbp@-48'],
      [72, 'rsp+120 rbp@-48'],
      [79, 'rsp+128 rbp@-48'],
      [93, 'rsp+80 rbp@-48'],
      [134, 'rsp+56 rbp@-48'],
      [138, 'rsp+48 rbp@-48'],
      [139, 'rsp+40'],
      [141, 'rsp+32'],
      [143, 'rsp+24'],
      [145, 'rsp+16'],
      [147, 'rsp+8'],
    ],
  },
  {
    what: 'a loop with a call in two places (-O2 -fno-omit-frame-pointer)',
    code: '554889e541554154534883ec0885ff7e4f4863ff4889f34531e44c8d2cbeeb094883c3044c39eb74248b3be8a0ffffff4101c44183fc647ee74489e74883c304e88bffffff4129c44c39eb75dc4883c4084489e05b415c415d5dc30f1f4400004883c4084531e45b4489e0415c415d5dc3',
    frames: [
      [0, 'rsp+8'],
      [1, 'rsp+16 rbp@-16'],
      [4, 'rbp+16 rbp@-16'],
      [90, 'rsp+8'],
      [96, 'rbp+16 rbp@-16'],
      [112, 'rsp+8'],
    ],
    unreached: [[91, 96]],
  },
  {
    what: 'a realigned array (-O2 -fno-omit-frame-pointer)',
    code: '5589fe31c04889e54883e4c04883c4804889e7e818ffffffc9c3',
    frames: [
      [0, 'rsp+8'],
      [1, 'rsp+16 rbp@-16'],
      [8, 'rbp+16 rbp@-16'],
      [25, 'rsp+8'],
    ],
  },
  {
    what: 'arguments on the stack (-O2 -fno-omit-frame-pointer)',
    code: '554889e541574989d741564989ce41554d89c541544d89cc534889fb4883ec284c8b5d104c8b55184c89d8490fafc2504c89c0490fafc150488d040a50488d04375031c041524c8955b84153488975c84c895dc0e857fdffff89df4883c430e83cfdffff488b75c848895d184d89f9488b7db84d89f04c89e94c89e248897510488b75c0488d65d831c05b415c415d415e415f5de917fdffff',
    frames: [
      [0, 'rsp+8'],
      [1, 'rsp+16 rbp@-16'],
      [4, 'rbp+16 rbp@-16'],
      [148, 'rsp+8'],
    ],
  },
  {
    what: 'a loop with a call in two places (-Os)',
    code: '41554989f541544189fc5531ed5331db514139ec7e1f418b7cad00e8b9ffffff01c383fb647e0989dfe8abffffff29c348ffc5ebdc5a89d85b5d415c415dc3',
    frames: [
      [0, 'rsp+8'],
      [2, 'rsp+16'],
      [7, 'rsp+24'],
      [11, 'rsp+32 rbp@-32'],
      [14, 'rsp+40 rbp@-32'],
      [17, 'rsp+48 rbp@-32'],
      [54, 'rsp+40 rbp@-32'],
      [57, 'rsp+32 rbp@-32'],
      [58, 'rsp+24'],
      [60, 'rsp+16'],
      [62, 'rsp+8'],
    ],
  },
];

const BASES = new Map<number, string>([
  [ORC_REG_SP, 'rsp'],
  [ORC_REG_BP, 'rbp'],
  [ORC_REG_R10, 'r10'],
]);

function frame({ type, sp_reg, sp_offset, bp_reg, bp_offset }: OrcEntry): string | null {
  if (type !== ORC_TYPE_CALL) return null;
  const signed = (offset: number): string => (offset < 0 ? `${offset}` : `+${offset}`);
  const base =
    sp_reg === ORC_REG_BP_INDIRECT
      ? `(rbp${signed(sp_offset)})+0`
      : `${BASES.get(sp_reg)}${signed(sp_offset)}`;
  if (bp_reg === ORC_REG_PREV_SP) return `${base} rbp@${bp_offset}`;
  return bp_reg === ORC_REG_BP ? `${base} rbp@(rbp${signed(bp_offset)})` : base;
}

describe('tables of compiled functions say what the compiler says', () => {
  test.each(COMPILED)('$what', ({ code, frames, unreached = [] }) => {
    const { entries } = validateCode(Buffer.from(code, 'hex'), [], () => 'unknown');
    const expected: (string | null)[] = [];
    for (const [i, [from, where]] of frames.entries()) {
      expected.push(...new Array<string>((frames[i + 1]?.[0] ?? entries.length) - from).fill(where));
    }
    for (const [from, to] of unreached) expected.fill(null, from, to);
    expect(entries.map(frame)).toEqual(expected);
  });
});
