/** Expectations about the state of the machine: registers, memory, page tables, arenas. */
import type { MemoryExpect, PteExpect, StateExpect } from '../format/schema-expect.js';
import type { Path } from '../format/source.js';
import { didYouMean } from '../format/suggest.js';
import { checkArenas, checkPages } from './check-arena.js';
import { checkKfence } from './check-kfence.js';
import type { Checks } from './failure.js';

/** Checks everything about state that `expect` says; `cpu` is the one whose registers are meant. */
export function checkState(checks: Checks, expect: StateExpect, path: Path, cpu: number): void {
  checkRegisters(checks, expect.registers ?? {}, [...path, 'registers'], cpu);
  expect.memory?.forEach((memory, i) => {
    checkMemory(checks, memory, [...path, 'memory', i], cpu);
  });
  expect.ptes?.forEach((pte, i) => {
    checkPte(checks, pte, [...path, 'ptes', i], cpu);
  });
  checkArenas(checks, expect.arenas ?? {}, [...path, 'arenas']);
  checkPages(checks, expect, path, cpu);
  checkKfence(checks, expect.kfence, [...path, 'kfence']);
  checks.equal('taint', [...path, 'taint'], expect.taint, checks.machine.taint());
}

function checkRegisters(
  checks: Checks,
  registers: NonNullable<StateExpect['registers']>,
  path: Path,
  cpu: number,
): void {
  for (const [name, expected] of Object.entries(registers)) {
    requireRegister(checks, name, [...path, name]);
    checks.number('registers', [...path, name], expected, checks.machine.readRegister(cpu, name));
  }
}

/** Throws a FixtureError when the CPU has no such register. */
export function requireRegister({ machine, source }: Checks, name: string, path: Path): void {
  if (machine.registerNames.includes(name)) return;
  throw source.error(
    source.keyPlace(path),
    `unknown register \`${name}\`${didYouMean(name, machine.registerNames)}`,
    `General registers of ${machine.arch.name}: ${machine.arch.generalRegisters.join(', ')}.`,
  );
}

function checkMemory(checks: Checks, memory: MemoryExpect, path: Path, cpu: number): void {
  const { machine } = checks;
  const at = memory.at.value(machine.scope);
  const [key, want] = wantedBytes(checks, memory);
  const got = machine.readMemory(cpu, at, want.length);
  if (got !== null && want.every((byte, i) => got[i] === byte)) return;
  checks.fail(
    'memory',
    [...path, key],
    bytesShown(want, key),
    got === null ? 'not mapped' : bytesShown(got, key),
    {
      notes: [`at ${checks.shown(at)}`],
    },
  );
}

type ByteValue = Pick<MemoryExpect, 'u8' | 'u16' | 'u32' | 'u64' | 'bytes'>;
type WidthKey = keyof ByteValue;

/** The bytes that a `u8` … `bytes` key stands for, and which key it was. */
export function wantedBytes({ machine }: Checks, value: ByteValue): [WidthKey, Uint8Array] {
  if (value.bytes !== undefined) return ['bytes', value.bytes];
  for (const [key, width] of [
    ['u8', 1],
    ['u16', 2],
    ['u32', 4],
    ['u64', 8],
  ] as const) {
    const expression = value[key];
    if (expression === undefined) continue;
    const number = expression.value(machine.scope);
    const signed = BigInt.asIntN(64, number);
    // A value may be given as what it is unsigned, or as the negative number it is signed.
    if (
      width < 8 &&
      number >> BigInt(8 * width) !== 0n &&
      (signed >= 0n || signed < -(1n << BigInt(8 * width - 1)))
    ) {
      throw expression.error(`0x${number.toString(16)} does not fit ${width} byte${width === 1 ? '' : 's'}`);
    }
    return [key, littleEndian(number, width)];
  }
  return ['bytes', new Uint8Array()];
}

function littleEndian(value: bigint, width: number): Uint8Array {
  return Uint8Array.from({ length: width }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}

function bytesShown(bytes: Uint8Array, key: WidthKey): string {
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'));
  return key === 'bytes'
    ? digits.join(' ')
    : `0x${digits
        .reverse()
        .join('')
        .replace(/^0+(?=.)/, '')}`;
}

function checkPte(checks: Checks, pte: PteExpect, path: Path, cpu: number): void {
  const { machine } = checks;
  const va = pte.va.value(machine.scope);
  const entry = machine.readEntry(cpu, va, pte.level ?? null);
  const valuePath = [...path, 'value'];
  const notes = [`entry of ${checks.shown(va)}`];
  if (entry === null) {
    const expected = typeof pte.value === 'string' ? pte.value : checks.shown(pte.value.value(machine.scope));
    checks.fail('ptes', valuePath, expected, `no ${pte.level ?? 'entry'}: the walk ends above it`, { notes });
    return;
  }
  const actual = `${checks.shown(entry.value)} at level ${entry.level}`;
  const { pgtable } = machine;
  if (pte.value === 'none') {
    if (!pgtable.pte_none(entry.value)) checks.fail('ptes', valuePath, 'none', actual, { notes });
  } else if (pte.value === 'page') {
    if (!pgtable.pte_present(entry.value) || machine.isScratch(entry.value)) {
      const what = machine.isScratch(entry.value) ? `${actual}, a scratch page` : actual;
      checks.fail('ptes', valuePath, 'a present page, not a scratch page', what, { notes });
    }
  } else {
    const want = pte.value.value(machine.scope);
    if (want !== entry.value) checks.fail('ptes', valuePath, checks.shown(want), actual, { notes });
  }
}
