/**
 * Instructions in the words that Keystone understands: without names, and with distances worked out where
 * it would work them out wrongly (RIP-relative operands, adr, loads of literals).
 */
import { hex } from '../address.js';
import type { Isa } from '../disassembler.js';
import { isArm64Keyword, isLiteralLoad, isPcRelative } from './arm64-text.js';
import { evaluate, objdumpAddress, parseNumber, type Scope } from './expression.js';
import type { KeystoneItem } from './keystone.js';
import { quote, splitOperands, splitWords } from './source.js';
import { isX86Branch, isX86Register, parseOperand, splitX86, type X86Memory } from './x86-text.js';

/** Says why an instruction cannot be made sense of. */
export class OperandError extends Error {
  override name = 'OperandError';
}

/**
 * @param address where the instruction will stand
 * @param length its length as far as known; matters for RIP-relative operands
 * @throws OperandError for a name that nobody knows, or that can be read in two ways
 */
export function concreteItem(
  isa: Isa,
  text: string,
  address: bigint,
  length: number,
  scope: Scope,
): KeystoneItem {
  switch (isa) {
    case 'x86-64':
      return { text: concreteX86(text, address + BigInt(length), scope), address };
    case 'arm64':
      return concreteArm64(text, address, scope);
  }
}

/** Keystone runs forever over lines that do not begin with a word, and over some lone signs. */
function refuseNonsense(mnemonic: string, operands: readonly string[]): void {
  if (!/^[a-z][\w.]*$/.test(mnemonic)) throw new OperandError(`${quote(mnemonic)} is no instruction`);
  for (const operand of operands) {
    const sign = /[^\w\s.,:+\-*#!=<>$%()[\]{}/|&~^]/.exec(operand);
    if (sign !== null) throw new OperandError(`an instruction has no "${sign[0]}" in it`);
    if (operand === '') throw new OperandError('an operand is missing');
  }
}

function concreteX86(text: string, next: bigint, scope: Scope): string {
  const { prefixes, mnemonic, operands } = splitX86(text);
  refuseNonsense(mnemonic, operands);
  const concrete = operands.map((written) => {
    const operand = parseOperand(mnemonic, written, scope);
    if (operand === null) throw noOperand(written, scope);
    if (operand.kind === 'memory' && operand.symbolic) return memoryText(operand, next);
    if (operand.kind === 'immediate') {
      if (operand.symbol === 'bare' && !isX86Branch(mnemonic) && mnemonic !== 'movabs') {
        throw new OperandError(
          `"${written}" can be read in two ways: write "offset ${written}" for its address, ` +
            `or "[rip + ${written}]" for what stands there`,
        );
      }
      return operand.symbol === 'none' && !written.includes('<') ? inHex(written) : hex(operand.value);
    }
    if (operand.kind === 'other' && isX86Branch(mnemonic)) throw unknownName(written);
    return inHex(written);
  });
  return `${[...prefixes, mnemonic].join(' ')} ${concrete.join(', ')}`.trim();
}

/** Keystone takes some decimal numbers for hexadecimal ones: `cmp rax, 10` compares with 16. */
function inHex(written: string): string {
  return written.replace(/(?<![\w.$])\w+(?![\w.$])/g, (word) => {
    const value = parseNumber(word);
    return value === null || value < 10n ? word : hex(value);
  });
}

function memoryText(memory: X86Memory, next: bigint): string {
  const alone = memory.base === null && memory.index === null && memory.segment === null;
  const relative = memory.base === 'rip' || alone;
  const distance = BigInt.asIntN(64, relative ? memory.displacement - next : memory.displacement);
  const terms = [
    relative ? 'rip' : memory.base,
    memory.index === null ? null : `${memory.index}*${memory.scale}`,
  ].filter((term) => term !== null);
  const sign = distance < 0n ? '-' : '+';
  const sum = `${terms.join(' + ')} ${sign} ${hex(distance < 0n ? -distance : distance)}`;
  const size = memory.size === null ? '' : `${memory.size} ptr `;
  return `${size}${memory.segment === null ? '' : `${memory.segment}:`}[${sum.replace(/^ \+ /, '')}]`;
}

function concreteArm64(text: string, address: bigint, scope: Scope): KeystoneItem {
  const { mnemonic, operands } = splitWords(text);
  refuseNonsense(mnemonic, operands);
  if (operands.some((operand) => operand.startsWith('='))) {
    throw new OperandError('there are no literal pools: use mov and movk, or adrp and add with :lo12:');
  }
  const relative = isPcRelative(mnemonic, operands);
  // Keystone takes these as distances, whatever the address.
  const byDistance = mnemonic === 'adr' || isLiteralLoad(mnemonic, operands);
  const concrete = operands.map((operand, i) => {
    if (!relative || i < operands.length - 1) return concreteOperand(operand, scope);
    const value = evaluate(operand.replace(/^#/, ''), scope);
    const target = objdumpAddress(operand) ?? value?.value;
    if (target === undefined) throw unknownName(operand);
    if (byDistance) return `#${BigInt.asIntN(64, target - address)}`;
    return `#${hex(mnemonic === 'adrp' && value?.symbolic ? target & ~0xfffn : target)}`;
  });
  return {
    text: `${mnemonic} ${concrete.join(', ')}`.trim(),
    address: byDistance ? 0n : address,
  };
}

function concreteOperand(operand: string, scope: Scope): string {
  const bracket = /^\[(.*)\](!?)$/.exec(operand);
  if (bracket !== null) {
    const inside = splitOperands(bracket[1] ?? '').map((part) => concreteOperand(part, scope));
    return `[${inside.join(', ')}]${bracket[2]}`;
  }
  const text = operand.replace(/^#\s*/, '');
  const low = /^:lo12:\s*(.+)$/i.exec(text);
  const value = evaluate(low?.[1] ?? text, scope);
  if (low !== null) {
    if (value === null) throw unknownName(low[1] ?? '');
    return `#${hex(value.value & 0xfffn)}`;
  }
  const name = isArm64Keyword(text.toLowerCase());
  return value?.symbolic && !name ? `#${hex(value.value)}` : operand;
}

function noOperand(written: string, scope: Scope): OperandError {
  const word = unknownX86Word(written, scope);
  return word === null ? new OperandError(`${quote(written)} is no operand`) : unknownName(word);
}

function unknownName(written: string): OperandError {
  return new OperandError(`${quote(written)} is neither a label of this function nor a known symbol`);
}

const X86_WORDS =
  /^(?:ptr|offset|short|near|byte|[dfqtxyzo]?word|tbyte|(?:xmm|ymm|zmm)word|rep(?:n?[ez])?|lock|st)$/;

/** The first word of the operands that is no register and no known name, for messages. */
export function unknownWord(isa: Isa, text: string, scope: Scope): string | null {
  const operands = isa === 'x86-64' ? splitX86(text).operands : splitWords(text).operands;
  for (const operand of operands) {
    const word =
      isa === 'x86-64' ? unknownX86Word(operand, scope) : unknownIn(operand, scope, isArm64Keyword);
    if (word !== null) return word;
  }
  return null;
}

function unknownX86Word(operand: string, scope: Scope): string | null {
  return unknownIn(operand, scope, (word) => isX86Register(word) || X86_WORDS.test(word));
}

function unknownIn(operand: string, scope: Scope, known: (word: string) => boolean): string | null {
  const words = operand.match(/(?<![\w.$])[A-Za-z_.$][\w.$]*/g) ?? [];
  return words.find((word) => scope.resolve(word) === undefined && !known(word.toLowerCase())) ?? null;
}
