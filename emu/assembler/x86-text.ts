/**
 * x86 instructions as text, Intel syntax: taken apart into a form in which the usual spellings of one
 * instruction (objdump's, Capstone's, a person's) are the same.
 */
import { u64 } from '../address.js';
import { evaluate, objdumpAddress, type Scope } from './expression.js';
import { splitOperands } from './source.js';

export type X86Operand =
  | { readonly kind: 'register'; readonly name: string; readonly bits: number }
  | { readonly kind: 'immediate'; readonly value: bigint; readonly symbol: 'none' | 'bare' | 'offset' }
  | X86Memory
  /** Anything else, compared letter by letter: `st(1)`, `zmm0{k1}{z}`. */
  | { readonly kind: 'other'; readonly text: string };

export interface X86Memory {
  readonly kind: 'memory';
  /** `dword` in `dword ptr`, in Intel's words; null if not said. */
  readonly size: string | null;
  readonly segment: string | null;
  readonly base: string | null;
  readonly index: string | null;
  readonly scale: number;
  /** Unsigned 64-bit. With base `rip`: the distance, or the address meant if `symbolic`. */
  readonly displacement: bigint;
  readonly symbolic: boolean;
}

export interface X86Text {
  /** Sorted; without those that change nothing one sees in the text. */
  readonly prefixes: readonly string[];
  readonly mnemonic: string;
  readonly operands: readonly X86Operand[];
}

const PREFIXES = new Set(
  'lock rep repe repz repne repnz bnd notrack xacquire xrelease data16 data32 addr32 rex.w cs ds es fs gs ss'.split(
    ' ',
  ),
);
/** Disassemblers differ in whether they show these. */
const SILENT_PREFIXES = new Set('data16 data32 addr32 rex.w cs ds es ss'.split(' '));

const SIZES: ReadonlyMap<string, number> = new Map(
  Object.entries({
    byte: 8,
    word: 16,
    dword: 32,
    fword: 48,
    qword: 64,
    tbyte: 80,
    xmmword: 128,
    ymmword: 256,
    zmmword: 512,
  }),
);
const SIZE_ALIASES: ReadonlyMap<string, string> = new Map(
  Object.entries({ oword: 'xmmword', tword: 'tbyte', xword: 'tbyte' }),
);

const CONDITION_ALIASES: ReadonlyMap<string, string> = new Map(
  Object.entries({
    z: 'e',
    nz: 'ne',
    c: 'b',
    nae: 'b',
    nc: 'ae',
    nb: 'ae',
    na: 'be',
    nbe: 'a',
    pe: 'p',
    po: 'np',
    nge: 'l',
    nl: 'ge',
    ng: 'le',
    nle: 'g',
  }),
);
const MNEMONIC_ALIASES: ReadonlyMap<string, string> = new Map(
  Object.entries({
    movabs: 'mov',
    sal: 'shl',
    retn: 'ret',
    retq: 'ret',
    callq: 'call',
    jmpq: 'jmp',
    leaveq: 'leave',
    lretq: 'retfq',
    lret: 'retf',
    pushf: 'pushfq',
    popf: 'popfq',
    iret: 'iretd',
    wait: 'fwait',
    loopz: 'loope',
    loopnz: 'loopne',
    xlat: 'xlatb',
    sysretl: 'sysret',
    sysexitl: 'sysexit',
    icebp: 'int1',
  }),
);

const REGISTER_BITS = registerBits();

function registerBits(): ReadonlyMap<string, number> {
  const bits = new Map<string, number>();
  const add = (width: number, names: string): void => {
    for (const name of names.split(' ')) bits.set(name, width);
  };
  for (const name of ['ax', 'bx', 'cx', 'dx', 'si', 'di', 'bp', 'sp', 'ip']) {
    bits.set(`r${name}`, 64);
    bits.set(`e${name}`, 32);
    bits.set(name, 16);
  }
  add(8, 'al bl cl dl ah bh ch dh sil dil bpl spl');
  add(16, 'cs ds es fs gs ss');
  add(64, 'riz');
  for (let i = 0; i < 32; i++) {
    if (i >= 8 && i < 16) {
      add(64, `r${i}`);
      add(32, `r${i}d`);
      add(16, `r${i}w`);
      add(8, `r${i}b r${i}l`);
    }
    if (i < 16) add(64, `cr${i} dr${i}`);
    if (i < 8) add(64, `mm${i} k${i} bnd${i}`);
    add(128, `xmm${i}`);
    add(256, `ymm${i}`);
    add(512, `zmm${i}`);
  }
  return bits;
}

export function isX86Register(name: string): boolean {
  return name === 'st' || REGISTER_BITS.has(name.toLowerCase());
}

/** jmp, call, jcc, loop and so on: a number as operand is an address in code. */
export function isX86Branch(mnemonic: string): boolean {
  return /^(?:j[a-z]+|callq?|loop(?:n?[ez])?|xbegin)$/.test(mnemonic);
}

/** Prefixes, mnemonic (lower case) and operands as written. */
export function splitX86(text: string): { prefixes: string[]; mnemonic: string; operands: string[] } {
  const words = text.trim().split(/\s+/);
  const prefixes: string[] = [];
  let mnemonic = (words.shift() ?? '').toLowerCase();
  while (PREFIXES.has(mnemonic) && words.length > 0) {
    prefixes.push(mnemonic);
    mnemonic = (words.shift() ?? '').toLowerCase();
  }
  return { prefixes, mnemonic, operands: splitOperands(words.join(' ')) };
}

/** Takes an instruction apart; null if an operand makes no sense at all. */
export function parseX86(text: string, scope: Scope): X86Text | null {
  const { prefixes, mnemonic, operands: written } = splitX86(text);
  const operands: X86Operand[] = [];
  for (const word of written) {
    const operand = parseOperand(mnemonic, word, scope);
    if (operand === null) return null;
    operands.push(operand);
  }
  return canonical(prefixes, mnemonic, operands);
}

const POINTER =
  /^(?:([a-z]+)\s+(?:(?:ptr|bcst)\s*)?)?(?:([cdefgs]s)\s*:)?\s*(?:([a-z_.$][\w.$]*)\s*)?\[([^[\]]*)\]$/i;
const ABSOLUTE = /^(?:([a-z]+)\s+ptr\s+)?([cdefgs]s)\s*:\s*([^[\]]+)$/i;

/** One operand; null if it makes no sense. `mnemonic` tells branches, whose operand is an address. */
export function parseOperand(mnemonic: string, written: string, scope: Scope): X86Operand | null {
  const text = written.trim();
  const lower = text.toLowerCase();
  const bits = REGISTER_BITS.get(lower);
  if (bits !== undefined) return { kind: 'register', name: lower, bits };
  const pointer = POINTER.exec(text);
  if (pointer !== null) {
    const [, size, segment, outside, inside = ''] = pointer;
    const sum = outside === undefined ? inside : `${inside}+${outside}`;
    return parseMemory(size, segment, sum, scope);
  }
  const absolute = ABSOLUTE.exec(text);
  if (absolute !== null) return parseMemory(absolute[1], absolute[2], absolute[3] ?? '', scope);
  if (isX86Branch(mnemonic)) {
    const address = objdumpAddress(text);
    if (address !== null) return { kind: 'immediate', value: address, symbol: 'none' };
  }
  const near = isX86Branch(mnemonic) ? text.replace(/^(?:short|near(?:\s+ptr)?)\s+/i, '') : text;
  const offset = /^offset\s+/i.exec(near);
  const value = evaluate(offset === null ? near : near.slice(offset[0].length), scope);
  if (value !== null) {
    const symbol = value.symbolic ? (offset === null ? 'bare' : 'offset') : 'none';
    return { kind: 'immediate', value: value.value, symbol };
  }
  // Brackets are left over only from broken memory operands and from AVX-512's `[rax]{1to16}`.
  return /[[\]](?!.*\}$)/.test(text) ? null : { kind: 'other', text: lower.replace(/\s+/g, '') };
}

function parseMemory(
  sizeWord: string | undefined,
  segmentWord: string | undefined,
  sum: string,
  scope: Scope,
): X86Memory | null {
  const size = sizeWord === undefined ? null : sizeName(sizeWord.toLowerCase());
  if (size === undefined) return null;
  let segment = segmentWord?.toLowerCase() ?? null;
  let inside = sum.trim();
  // NASM writes the segment inside: [gs:0x28].
  const within = /^([cdefgs]s)\s*:/i.exec(inside);
  if (within !== null && segment === null) {
    segment = (within[1] ?? '').toLowerCase();
    inside = inside.slice(within[0].length);
  }
  let base: string | null = null;
  let index: string | null = null;
  let scale = 1;
  let displacement = 0n;
  let symbolic = false;
  for (const term of inside.match(/[+-]?[^+-]+/g) ?? []) {
    const negative = term.startsWith('-');
    const factor = term.replace(/^[+-]/, '').trim();
    const scaled = scaledRegister(factor);
    if (scaled === null) {
      const value = evaluate(factor, scope);
      if (value === null) return null;
      displacement += negative ? -value.value : value.value;
      symbolic ||= value.symbolic;
    } else {
      if (negative) return null;
      if (scaled.name === 'riz' || scaled.name === 'eiz') continue;
      if (base === null && scaled.scale === null) base = scaled.name;
      else if (index === null) {
        index = scaled.name;
        scale = scaled.scale ?? 1;
      } else if (base === null) base = scaled.name;
      else return null;
    }
  }
  if (index === 'rsp' && scale === 1) [base, index] = [index, base];
  return { kind: 'memory', size, segment, base, index, scale, displacement: u64(displacement), symbolic };
}

function sizeName(word: string): string | undefined {
  const name = SIZE_ALIASES.get(word) ?? word;
  return SIZES.has(name) ? name : undefined;
}

function scaledRegister(factor: string): { name: string; scale: number | null } | null {
  const lower = factor.toLowerCase().replace(/\s+/g, '');
  if (isX86Register(lower) || lower === 'eiz') return { name: lower, scale: null };
  const match = /^(?:([a-z0-9]+)\*([1248])|([1248])\*([a-z0-9]+))$/.exec(lower);
  const name = match?.[1] ?? match?.[4];
  if (name === undefined || !(isX86Register(name) || name === 'eiz')) return null;
  return { name, scale: Number(match?.[2] ?? match?.[3]) };
}

const STRING = /^(movs|cmps|stos|lods|scas|ins|outs)([bwdq]?)$/;
const STRING_SIZES: ReadonlyMap<string, string> = new Map(
  Object.entries({ byte: 'b', word: 'w', dword: 'd', qword: 'q' }),
);

function canonical(prefixes: readonly string[], written: string, given: readonly X86Operand[]): X86Text {
  let mnemonic = MNEMONIC_ALIASES.get(written) ?? conditionAlias(written);
  let operands = given.map((operand) => withoutDefaultSegment(operand));
  const string = stringInstruction(mnemonic, operands);
  if (string !== null) [mnemonic, operands] = [string.mnemonic, string.operands];
  if (mnemonic === 'xlatb') operands = [];
  if (mnemonic === 'xchg' && written === 'xchg' && isAxTwice(operands)) [mnemonic, operands] = ['nop', []];
  if (mnemonic === 'imul' && operands.length === 2 && operands[1]?.kind === 'immediate') {
    operands = [...operands.slice(0, 1), ...operands];
  }
  if (/^(?:sh[lr]|sar|ro[lr]|rc[lr])$/.test(mnemonic) && operands.length === 1) {
    operands = [...operands, { kind: 'immediate', value: 1n, symbol: 'none' }];
  }
  const repeats = string !== null && !/^(?:cmps|scas)/.test(mnemonic);
  const shown = prefixes
    .map((prefix) => ({ repz: 'repe', repnz: 'repne' })[prefix] ?? prefix)
    .map((prefix) => (prefix === 'rep' && !repeats ? 'repe' : prefix === 'repe' && repeats ? 'rep' : prefix))
    .filter((prefix) => !SILENT_PREFIXES.has(prefix))
    .sort();
  if (mnemonic === 'nop') {
    operands = operands.map((o) => (o.kind === 'memory' ? { ...o, segment: null } : o));
    return { prefixes: [], mnemonic, operands };
  }
  return { prefixes: shown, mnemonic, operands };
}

function conditionAlias(mnemonic: string): string {
  const match = /^(j|set|cmov)([a-z]+)$/.exec(mnemonic);
  const alias = match === null ? undefined : CONDITION_ALIASES.get(match[2] ?? '');
  return match === null || alias === undefined ? mnemonic : `${match[1]}${alias}`;
}

function withoutDefaultSegment(operand: X86Operand): X86Operand {
  if (operand.kind !== 'memory' || operand.segment === null) return operand;
  const stack = operand.base === 'rsp' || operand.base === 'rbp';
  return operand.segment === (stack ? 'ss' : 'ds') ? { ...operand, segment: null } : operand;
}

/** `movs byte ptr [rdi], byte ptr [rsi]` is `movsb`; operands stay only where they say something else. */
function stringInstruction(
  mnemonic: string,
  operands: readonly X86Operand[],
): { mnemonic: string; operands: X86Operand[] } | null {
  const match = STRING.exec(mnemonic);
  if (match === null) return null;
  const memory = operands.filter((operand) => operand.kind === 'memory');
  // movsd and cmpsd are also SSE instructions: those have a register xmm.
  if (operands.length > 0 && memory.length === 0) return null;
  if (operands.some((o) => o.kind === 'register' && o.bits > 64)) return null;
  const [, stem = '', suffix = ''] = match;
  const size = memory.map((operand) => STRING_SIZES.get(operand.size ?? '')).find((s) => s !== undefined);
  const standard = memory.every((operand) => {
    const rest = operand.index === null && operand.displacement === 0n;
    if (operand.base === 'rdi') return rest && (operand.segment === null || operand.segment === 'es');
    return operand.base === 'rsi' && rest && operand.segment === null;
  });
  const full = `${stem}${suffix === '' ? (size ?? '') : suffix}`;
  return { mnemonic: full, operands: standard ? [] : [...operands] };
}

function isAxTwice(operands: readonly X86Operand[]): boolean {
  return operands.length === 2 && operands.every((o) => o.kind === 'register' && /^r?ax$/.test(o.name));
}

/** Instructions whose operand size is known only from a register or from `… ptr`. */
const NEEDS_SIZE = new RegExp(
  '^(?:mov|add|or|adc|sbb|and|sub|xor|cmp|test|inc|dec|not|neg|i?mul|i?div|sh[lr]|sar|ro[lr]|rc[lr]|bt[src]?' +
    '|movzx|movsx|f(?:ld|stp?|add|sub|subr|mul|div|divr|comp?|i[a-z]+))$',
);

/**
 * Do the two say the same?
 * @param text what the author wrote
 * @param actual the same instruction as the disassembler shows it
 * @param next address of the instruction behind it
 */
export function sameX86(text: X86Text, actual: X86Text, next: bigint): boolean {
  if (text.mnemonic !== actual.mnemonic) return false;
  if (text.prefixes.join(' ') !== actual.prefixes.join(' ')) return false;
  if (text.operands.length !== actual.operands.length) return false;
  if (sizeIsMissing(text, actual)) return false;
  const bits = operationBits(actual);
  const agree = (order: readonly X86Operand[]): boolean =>
    order.every((operand, i) => {
      const other = actual.operands[i];
      return (
        other !== undefined && sameOperand(text.mnemonic, operand, other, immediateBits(text, i, bits), next)
      );
    });
  if (agree(text.operands)) return true;
  // One encoding, two orders.
  return (text.mnemonic === 'xchg' || text.mnemonic === 'test') && agree([...text.operands].reverse());
}

function sizeIsMissing(text: X86Text, actual: X86Text): boolean {
  const at = text.operands.findIndex((operand) => operand.kind === 'memory');
  const memory = text.operands[at];
  if (memory?.kind !== 'memory' || memory.size !== null) return false;
  const shown = actual.operands[at];
  const size = shown?.kind === 'memory' ? shown.size : null;
  if (/^(?:push|pop|call|jmp)$/.test(text.mnemonic)) return size !== null && size !== 'qword';
  if (!NEEDS_SIZE.test(text.mnemonic)) return false;
  if (/^mov[sz]x$/.test(text.mnemonic)) return true;
  // cl of a shift says nothing about what is shifted.
  const shift = /^(?:sh[lr]|sar|ro[lr]|rc[lr])$/.test(text.mnemonic);
  return shift || !text.operands.some((operand) => operand.kind === 'register');
}

function operationBits(text: X86Text): number {
  for (const operand of text.operands) {
    if (operand.kind === 'register') return Math.min(operand.bits, 64);
    if (operand.kind === 'memory' && operand.size !== null)
      return Math.min(SIZES.get(operand.size) ?? 64, 64);
  }
  return 64;
}

/** Capstone shows the unsigned immediates of enter and xabort as negative numbers. */
function immediateBits(text: X86Text, at: number, bits: number): number {
  if (isX86Branch(text.mnemonic)) return 64;
  if (text.mnemonic === 'enter') return at === 0 ? 16 : 8;
  return text.mnemonic === 'xabort' ? 8 : bits;
}

function sameOperand(mnemonic: string, a: X86Operand, b: X86Operand, bits: number, next: bigint): boolean {
  switch (a.kind) {
    case 'register':
      return b.kind === 'register' && a.name.replace(/^(r\d+)l$/, '$1b') === b.name;
    case 'immediate':
      return b.kind === 'immediate' && BigInt.asUintN(bits, a.value) === BigInt.asUintN(bits, b.value);
    case 'memory':
      return b.kind === 'memory' && sameMemory(mnemonic, a, b, next);
    case 'other':
      return b.kind === 'other' && a.text === b.text;
  }
}

function sameMemory(mnemonic: string, a: X86Memory, b: X86Memory, next: bigint): boolean {
  if (a.size !== null && b.size !== null && a.size !== b.size && mnemonic !== 'lea') return false;
  if (a.segment !== b.segment) return false;
  if (place(a, next) !== place(b, next)) return false;
  if (isPlace(a) && isPlace(b)) return true;
  return a.base === b.base && a.index === b.index && (a.index === null || a.scale === b.scale);
}

/** An operand that names one address: absolute, or relative to RIP (which of both is not in the text). */
function isPlace(memory: X86Memory): boolean {
  return memory.index === null && (memory.base === 'rip' || memory.base === null);
}

function place(memory: X86Memory, next: bigint): bigint {
  const relative = memory.base === 'rip' && memory.index === null && !memory.symbolic;
  return relative ? u64(memory.displacement + next) : memory.displacement;
}
