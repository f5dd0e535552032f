/**
 * A64 instructions as text: brought into one form in which the usual spellings of an instruction (the
 * preferred alias and what it stands for, objdump's and Capstone's) are the same.
 */
import { u64 } from '../address.js';
import { evaluate, objdumpAddress, parseNumber, type Scope } from './expression.js';
import { splitOperands, splitWords } from './source.js';

export interface Arm64Text {
  readonly mnemonic: string;
  /** Canonical: lower case, no blanks, immediates as `#` and an unsigned decimal. */
  readonly operands: readonly string[];
}

const REGISTER =
  /^(?:[xw](?:[12]?\d|30|zr)|w?sp|fp|lr|ip[01]|[bhsdqvz](?:[12]?\d|3[01])(?:\.\w+)?|p\d+(?:[./]\w+)?)$/;
const REGISTER_ALIASES: ReadonlyMap<string, string> = new Map(
  Object.entries({ fp: 'x29', lr: 'x30', ip0: 'x16', ip1: 'x17' }),
);
const CONDITION_ALIASES: ReadonlyMap<string, string> = new Map(Object.entries({ hs: 'cs', lo: 'cc' }));
const INVERSE: ReadonlyMap<string, string> = new Map(
  Object.entries({
    eq: 'ne',
    ne: 'eq',
    cs: 'cc',
    cc: 'cs',
    mi: 'pl',
    pl: 'mi',
    vs: 'vc',
    vc: 'vs',
    hi: 'ls',
    ls: 'hi',
    ge: 'lt',
    lt: 'ge',
    gt: 'le',
    le: 'gt',
  }),
);
const HINTS: ReadonlyMap<number, string> = new Map([
  [0, 'nop'],
  [1, 'yield'],
  [2, 'wfe'],
  [3, 'wfi'],
  [4, 'sev'],
  [5, 'sevl'],
  [7, 'xpaclri'],
  [8, 'pacia1716'],
  [12, 'autia1716'],
  [16, 'esb'],
  [17, 'psb csync'],
  [20, 'csdb'],
  [24, 'paciaz'],
  [25, 'paciasp'],
  [28, 'autiaz'],
  [29, 'autiasp'],
  [32, 'bti'],
  [34, 'bti c'],
  [36, 'bti j'],
  [38, 'bti jc'],
]);
/** Unscaled forms that assemblers choose by themselves when the offset asks for them. */
const UNSCALED = /^(ld|st)ur(s?[bhw])?$/;

function isArm64Register(name: string): boolean {
  return REGISTER.test(name.toLowerCase());
}

/** Words that stand for something in operands, so that no label may be called so. */
export function isArm64Keyword(name: string): boolean {
  return isArm64Register(name) || INVERSE.has(name) || CONDITION_ALIASES.has(name) || SHIFT.test(name);
}

const SHIFT = /^(?:lsl|lsr|asr|ror|msl|[us]xt[bhwx])$/;

/** True if the last operand is an address that the instruction encodes relative to itself. */
export function isPcRelative(mnemonic: string, operands: readonly string[]): boolean {
  if (/^(?:bl?|b\.[a-z]+|cbn?z|tbn?z|adrp?)$/.test(mnemonic)) return true;
  return isLiteralLoad(mnemonic, operands);
}

/** `ldr x0, label` */
export function isLiteralLoad(mnemonic: string, operands: readonly string[]): boolean {
  const last = operands[1] ?? '';
  return /^(?:ldr|ldrsw|prfm)$/.test(mnemonic) && operands.length === 2 && !/^[[=]/.test(last);
}

/** `text` with its immediates worked out, or null if an operand makes no sense at all. */
export function parseArm64(text: string, scope: Scope): Arm64Text | null {
  const { mnemonic, operands: written } = splitWords(text);
  const page = mnemonic === 'adrp';
  const operands: string[] = [];
  for (const operand of written) {
    const last = operands.length === written.length - 1;
    const address = last && isPcRelative(mnemonic, written) ? addressOperand(operand, page, scope) : null;
    const token = address ?? operandToken(operand, scope);
    if (token === null) return null;
    if (token !== 'lsl#0') operands.push(token);
  }
  return canonical(mnemonic, operands);
}

function addressOperand(operand: string, page: boolean, scope: Scope): string | null {
  const objdump = objdumpAddress(operand);
  if (objdump !== null) return immediate(objdump);
  const value = evaluate(operand.replace(/^#/, ''), scope);
  if (value === null) return null;
  return immediate(page && value.symbolic ? value.value & ~0xfffn : value.value);
}

function immediate(value: bigint): string {
  return `#${u64(value)}`;
}

function operandToken(operand: string, scope: Scope): string | null {
  const lower = operand.toLowerCase();
  const bracket = /^\[(.*)\](!?)$/.exec(operand);
  if (bracket !== null) {
    const parts: string[] = [];
    for (const part of splitOperands(bracket[1] ?? '')) {
      const token = operandToken(part, scope);
      if (token === null) return null;
      if (token !== '#0' && token !== 'lsl#0') parts.push(token);
    }
    return `[${parts.join(',')}]${bracket[2]}`;
  }
  const shift = /^([a-z]+)\s*#?\s*(\S+)$/.exec(lower);
  if (shift !== null && SHIFT.test(shift[1] ?? '')) {
    const amount = evaluate(shift[2] ?? '', scope);
    return amount === null ? null : `${shift[1]}#${amount.value}`;
  }
  if (isArm64Register(lower)) return REGISTER_ALIASES.get(lower) ?? lower;
  const value = immediateValue(operand, scope);
  if (value !== null) return value;
  if (operand.startsWith('#') || /^[-+\d]/.test(operand)) return null;
  return CONDITION_ALIASES.get(lower) ?? lower.replace(/\s+/g, '');
}

function immediateValue(operand: string, scope: Scope): string | null {
  const text = operand.replace(/^#\s*/, '');
  const low = /^:lo12:\s*(.+)$/i.exec(text);
  if (low !== null) {
    const value = evaluate(low[1] ?? '', scope);
    return value === null ? null : immediate(value.value & 0xfffn);
  }
  if (/^-?\d+\.\d+(?:e[+-]?\d+)?$/i.test(text)) return `#${Number(text)}f`;
  // Names of conditions, barriers and system registers come before symbols of the same name.
  if (/^[a-z_]/i.test(text) && !operand.startsWith('#') && isArm64Keyword(text.toLowerCase())) return null;
  const value = evaluate(text, scope);
  return value === null ? null : immediate(value.value);
}

/** The alias that the manual prefers, where more than one name is in use. */
function canonical(mnemonic: string, given: readonly string[]): Arm64Text {
  const o = given;
  const [a = '', b = '', c = '', d = ''] = o;
  const as = (name: string, ...operands: string[]): Arm64Text => canonical(name, operands);
  const unscaled = UNSCALED.exec(mnemonic);
  if (unscaled !== null) return as(`${unscaled[1]}r${unscaled[2] ?? ''}`, ...o);
  if (mnemonic === 'prfum') return as('prfm', ...o);
  const branch = /^b\.?(hs|lo|[a-z]{2})$/.exec(mnemonic);
  const condition = branch === null ? '' : (CONDITION_ALIASES.get(branch[1] ?? '') ?? branch[1] ?? '');
  if (INVERSE.has(condition)) return { mnemonic: `b.${condition}`, operands: o };

  if (mnemonic === 'hint') {
    const name = HINTS.get(Number(a.slice(1)));
    if (name !== undefined) return { mnemonic: name, operands: [] };
  }
  if (mnemonic === 'bti' || mnemonic === 'psb') {
    return { mnemonic: a === '' ? mnemonic : `${mnemonic} ${a}`, operands: [] };
  }
  // Bits of the lower half are tested in the w register; both names are one encoding.
  if (/^tbn?z$/.test(mnemonic) && a.startsWith('x') && (immediateOf(b) ?? 64n) < 32n) {
    return as(mnemonic, `w${a.slice(1)}`, ...o.slice(1));
  }
  if (mnemonic === 'ret' && a === 'x30') return as('ret');
  if (mnemonic === 'isb' && (a === 'sy' || a === '#15')) return as('isb');
  if (mnemonic === 'clrex' && a === '#15') return as('clrex');
  if (/^dcps[123]$/.test(mnemonic) && a === '#0') return as(mnemonic);

  if (mnemonic === 'movz' || mnemonic === 'movn') {
    const value = (immediateOf(b) ?? 0n) << shiftOf(c);
    return as('mov', a, immediate(mnemonic === 'movn' ? ~value : value));
  }
  if (isZero(b)) {
    if (mnemonic === 'orr' && !SHIFTED.test(d)) return as('mov', a, c);
    if (mnemonic === 'orn') return as('mvn', a, c, ...rest(d));
    if (mnemonic === 'sub') return as('neg', a, c, ...rest(d));
    if (mnemonic === 'subs') return as('negs', a, c, ...rest(d));
    if (mnemonic === 'sbc') return as('ngc', a, c);
    if (mnemonic === 'sbcs') return as('ngcs', a, c);
  }
  if (mnemonic === 'add' && c === '#0' && d === '' && (isSp(a) || isSp(b))) return as('mov', a, b);
  if (isZero(a)) {
    if (mnemonic === 'subs') return as('cmp', b, c, ...rest(d));
    if (mnemonic === 'adds') return as('cmn', b, c, ...rest(d));
    if (mnemonic === 'ands') return as('tst', b, c, ...rest(d));
  }
  if (isZero(d)) {
    if (mnemonic === 'madd') return as('mul', a, b, c);
    if (mnemonic === 'msub') return as('mneg', a, b, c);
    const wide = /^([us])m(add|sub)l$/.exec(mnemonic);
    if (wide !== null) return as(`${wide[1]}m${wide[2] === 'add' ? 'ul' : 'neg'}l`, a, b, c);
  }
  const select = /^cs(inc|inv|neg)$/.exec(mnemonic);
  if (select !== null && b === c && INVERSE.has(d)) {
    const inverse = INVERSE.get(d) ?? d;
    if (isZero(b) && select[1] !== 'neg') return as(select[1] === 'inc' ? 'cset' : 'csetm', a, inverse);
    return as(`c${select[1]}`, a, b, inverse);
  }
  const atomic = /^ld(add|clr|eor|set|[su]max|[su]min)(l?[bh]?)$/.exec(mnemonic);
  if (atomic !== null && isZero(b)) return as(`st${atomic[1]}${atomic[2]}`, a, c);
  return { mnemonic, operands: inWidth(mnemonic, o) };
}

const SHIFTED = /^(?:lsl|lsr|asr|ror)#/;

function rest(operand: string): string[] {
  return operand === '' ? [] : [operand];
}

function isZero(operand: string): boolean {
  return operand === 'xzr' || operand === 'wzr';
}

function isSp(operand: string): boolean {
  return operand === 'sp' || operand === 'wsp';
}

function immediateOf(operand: string): bigint | null {
  return operand.startsWith('#') ? parseNumber(operand.slice(1)) : null;
}

function shiftOf(operand: string): bigint {
  return operand.startsWith('lsl#') ? BigInt(operand.slice(4)) : 0n;
}

/** `mov w0, #-1` and `mov w0, #0xffffffff` are one; shifted immediates are worked out. */
function inWidth(mnemonic: string, operands: readonly string[]): string[] {
  const [first = '', ...others] = operands;
  if (isPcRelative(mnemonic, operands)) return [...operands];
  const [last = '', before = ''] = [...others].reverse();
  const value = immediateOf(before);
  if (/^(?:adds?|subs?|cmp|cmn)$/.test(mnemonic) && value !== null && last.startsWith('lsl#')) {
    const shifted = immediate(value << shiftOf(last));
    return [first, ...others.slice(0, -2), shifted];
  }
  if (!first.startsWith('w')) return [...operands];
  return operands.map((operand) => {
    const number = immediateOf(operand);
    return number === null ? operand : `#${BigInt.asUintN(32, number)}`;
  });
}

export function sameArm64(text: Arm64Text, actual: Arm64Text): boolean {
  return (
    text.mnemonic === actual.mnemonic &&
    text.operands.length === actual.operands.length &&
    text.operands.every((operand, i) => operand === actual.operands[i])
  );
}
