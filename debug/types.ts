/** Types of C by which numbers in memory are read. */
import type { Size } from '../vector/format/expression.js';

const SIZES: ReadonlyMap<string, Size> = new Map(
  Object.entries<Size>({
    u8: 1,
    s8: 1,
    char: 1,
    'unsigned char': 1,
    bool: 1,
    uint8_t: 1,
    int8_t: 1,
    __u8: 1,
    u16: 2,
    s16: 2,
    short: 2,
    'unsigned short': 2,
    uint16_t: 2,
    int16_t: 2,
    __u16: 2,
    u32: 4,
    s32: 4,
    int: 4,
    unsigned: 4,
    'unsigned int': 4,
    uint32_t: 4,
    int32_t: 4,
    __u32: 4,
    u64: 8,
    s64: 8,
    long: 8,
    'unsigned long': 8,
    'long long': 8,
    'unsigned long long': 8,
    size_t: 8,
    uint64_t: 8,
    int64_t: 8,
    __u64: 8,
    pte_t: 8,
    pmd_t: 8,
    pud_t: 8,
    pgd_t: 8,
  }),
);

/** Size of what a type is the name of, in bytes; null for what is no type. */
export function typeSize(name: string): Size | null {
  return SIZES.get(name) ?? null;
}
