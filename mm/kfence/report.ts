/**
 * Port of mm/kfence/report.c (bpf-next merge 8496d9020ff3): what KFENCE prints, and what a report leads to.
 *
 * Left out: __kfence_obj_info(), lockdep, trace events.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { KERN_DEFAULT, KERN_ERR, PAGE_SIZE, type pt_regs } from '../../arch/kernel.js';
import { pageOf } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import { type KfenceFrame, placeIn } from './frames.js';
import {
  KFENCE_CANARY_PATTERN_U8,
  KFENCE_ERROR_CORRUPTION,
  KFENCE_ERROR_INVALID,
  KFENCE_ERROR_INVALID_FREE,
  KFENCE_ERROR_OOB,
  KFENCE_ERROR_UAF,
  KFENCE_OBJECT_FREED,
  KFENCE_OBJECT_RCU_FREEING,
  KFENCE_OBJECT_UNUSED,
  type kfence_error_type,
  type kfence_fault,
  type kfence_metadata,
} from './kfence.js';
import { type Kfence, stack_trace_save_regs } from './state.js';

const RULER = '='.repeat(66);
const NSEC_PER_SEC = 1_000_000_000;
/** Bytes behind a bad one that a report shows at the most, itself included. */
const CANARY_BYTES_SHOWN = 16;
/** Line of BUG() in kfence_handle_fault(), chosen: no report of the modelled version was found. */
const BUG_SITE = 'mm/kfence/report.c:345';

/** Where text goes: a record of the console, or a file of debugfs. Text ends in a newline. */
type Print = (text: string) => void;

/** early_kfence_fault(): the setting that `kfence.fault=<arg>` asks for, or null for -EINVAL. */
export function early_kfence_fault(arg: string | null): Kfence['kfence_fault'] | null {
  return arg === 'report' || arg === 'oops' || arg === 'panic' ? arg : null;
}

/** Functions of KFENCE and of the allocators that are no entry points, by the beginning of their names. */
const INTERNAL = ['kfence_', '__kfence_', '__kmem_cache_free'];
/** Entry points of the allocators. */
const ENTRIES = ['kfree', 'kmem_cache_free', '__kmalloc', 'kmem_cache_alloc'];

/**
 * Entries of a stack that are not shown, so that it begins with the caller of the allocator.
 * @param names what %ps says of each entry
 * @param type null for the stack of an allocation or a free
 */
export function get_stack_skipnr(names: readonly string[], type: kfence_error_type | null): number {
  switch (type) {
    case KFENCE_ERROR_UAF:
    case KFENCE_ERROR_OOB:
    case KFENCE_ERROR_INVALID:
      return 0;
    case KFENCE_ERROR_CORRUPTION:
    case KFENCE_ERROR_INVALID_FREE:
    case null:
      break;
  }
  const count = names.length;
  let fallback = 0;
  for (const [k, name] of names.entries()) {
    if (INTERNAL.some((prefix) => name.startsWith(prefix)) || '__slab_free'.startsWith(name))
      fallback = k + 1;
    if (ENTRIES.some((prefix) => name.startsWith(prefix))) return k + 1 < count ? k + 1 : 0;
  }
  return fallback < count ? fallback : 0;
}

/** %ps: the symbol without an offset. */
function symbolNames(here: ThisCpu, entries: readonly bigint[]): string[] {
  return entries.map((entry) => here.kernel.sprint_symbol(entry).replace(/\+0x.*$/, ''));
}

/** %lu.%06lu of nanoseconds. */
function seconds(nsec: number): string {
  const micro = Math.floor((nsec % NSEC_PER_SEC) / 1000);
  return `${Math.floor(nsec / NSEC_PER_SEC)}.${String(micro).padStart(6, '0')}`;
}

function kfence_print_stack(
  here: ThisCpu,
  kfence: Kfence,
  print: Print,
  meta: kfence_metadata,
  show_alloc: boolean,
): void {
  const track = show_alloc ? meta.alloc_track : meta.free_track;
  const freed = meta.state === KFENCE_OBJECT_RCU_FREEING ? 'rcu freeing' : 'freed';
  const at = `${seconds(track.ts_nsec)}s (${seconds(kfence.local_clock() - track.ts_nsec)}s ago)`;
  print(`${show_alloc ? 'allocated' : freed} by task ${track.pid} on cpu ${track.cpu} at ${at}:\n`);
  const { stack_entries } = track;
  if (stack_entries.length === 0) {
    print(` no ${show_alloc ? 'allocation' : 'deallocation'} stack\n`);
    return;
  }
  const skipnr = get_stack_skipnr(symbolNames(here, stack_entries), null);
  for (const entry of stack_entries.slice(skipnr)) print(` ${here.kernel.sprint_symbol(entry)}\n`);
}

/** Prints what is known of an object. */
export function kfence_print_object(
  here: ThisCpu,
  kfence: Kfence,
  print: Print,
  meta: kfence_metadata,
): void {
  const { index, addr: start, size } = meta;
  if (meta.state === KFENCE_OBJECT_UNUSED) {
    print(`kfence-#${index} unused\n`);
    return;
  }
  const pointer = (address: bigint): string => `0x${here.kernel.hashed_pointer(address)}`;
  const range = `${pointer(start)}-${pointer(start + BigInt(size - 1))}`;
  const cache = meta.cache?.name ?? '<destroyed>';
  print(`kfence-#${index}: ${range}, size=${size}, cache=${cache}\n\n`);
  kfence_print_stack(here, kfence, print, meta, true);
  if (meta.state === KFENCE_OBJECT_FREED || meta.state === KFENCE_OBJECT_RCU_FREEING) {
    print('\n');
    kfence_print_stack(here, kfence, print, meta, false);
  }
}

/** The file `objects` of debugfs. */
export function show_objects(here: ThisCpu, kfence: Kfence): string {
  let text = '';
  for (const meta of kfence.kfence_metadata ?? []) {
    kfence_print_object(here, kfence, (line) => (text += line), meta);
    text += `${'-'.repeat(33)}\n`;
  }
  return text;
}

/** Bytes from a bad one on: a dot for each that is right. Neither the object nor the next page is shown. */
function print_diff_canary(here: ThisCpu, kfence: Kfence, address: bigint, meta: kfence_metadata): string {
  const { ram } = kfence.deps.memory;
  const limit = address < meta.addr ? meta.addr : pageOf(address + BigInt(PAGE_SIZE - 1));
  const shown = address + BigInt(CANARY_BYTES_SHOWN);
  const end = shown < limit ? shown : limit;
  let text = '[';
  for (let cur = address; cur < end; cur++) {
    const byte = ram.bytes[kfence.physical(cur) - ram.base] ?? 0;
    if (byte === KFENCE_CANARY_PATTERN_U8(cur)) text += ' .';
    else if (here.kernel.config.no_hash_pointers) text += ` 0x${byte.toString(16).padStart(2, '0')}`;
    else text += ' !';
  }
  return `${text} ]`;
}

/** The records with which a report of a type begins. */
function header(
  here: ThisCpu,
  kfence: Kfence,
  address: bigint,
  is_write: boolean,
  meta: kfence_metadata | null,
  type: kfence_error_type,
  place: string,
): [title: string, detail: string] {
  const access = is_write ? 'write' : 'read';
  const title = (what: string): string => `BUG: KFENCE: ${what} in ${place}\n`;
  const at = `0x${here.kernel.hashed_pointer(address)}`;
  if (meta === null) return [title(`invalid ${access}`), `Invalid ${access} at ${at}:`];
  const object = `kfence-#${meta.index}`;
  switch (type) {
    case KFENCE_ERROR_OOB: {
      const left = address < meta.addr;
      const distance = `${left ? meta.addr - address : address - meta.addr}B ${left ? 'left' : 'right'}`;
      return [
        title(`out-of-bounds ${access}`),
        `Out-of-bounds ${access} at ${at} (${distance} of ${object}):`,
      ];
    }
    case KFENCE_ERROR_UAF:
      return [title(`use-after-free ${access}`), `Use-after-free ${access} at ${at} (in ${object}):`];
    case KFENCE_ERROR_CORRUPTION: {
      const bytes = print_diff_canary(here, kfence, address, meta);
      return [title('memory corruption'), `Corrupted memory at ${at} ${bytes} (in ${object}):`];
    }
    case KFENCE_ERROR_INVALID:
      return [title(`invalid ${access}`), `Invalid ${access} at ${at}:`];
    case KFENCE_ERROR_INVALID_FREE:
      return [title('invalid free'), `Invalid free of ${at} (in ${object}):`];
  }
}

/**
 * Prints a report.
 * @param regs of the access; null when it was no access that was found out
 * @param frames functions of KFENCE between here and the code that called it, innermost first
 * @returns what kfence_handle_fault() is to do
 */
export const kfence_report_error = port(
  'kfence_report_error',
  ['kfence', 'address', 'is_write', 'regs', 'meta', 'type'],
  function* (
    here: ThisCpu,
    kfence: Kfence,
    address: bigint,
    is_write: boolean,
    regs: pt_regs | null,
    meta: kfence_metadata | null,
    type: kfence_error_type,
    frames: readonly KfenceFrame[],
  ): Path<kfence_fault> {
    const { kernel, trace } = here;
    const fn = 'kfence_report_error';
    const hasRegs = yield* trace.decide(fn, 'regs', regs !== null);
    const entries = hasRegs ? stack_trace_save_regs(here) : kfence.stack_trace_save(here, frames);
    const skipnr = hasRegs ? 0 : get_stack_skipnr(symbolNames(here, entries), type);
    const contradiction = type !== KFENCE_ERROR_INVALID && meta === null;
    if (yield* trace.decide(fn, 'WARN_ON(type != KFENCE_ERROR_INVALID && !meta)', contradiction)) {
      kernel.warn(here, 'mm/kfence/report.c:215', fn, null);
      return 'none';
    }

    const err: Print = (text) => kernel.printk(here, KERN_ERR, text);
    err(RULER);
    const place = kernel.sprint_symbol(entries[skipnr] ?? 0n);
    const [title, detail] = header(here, kfence, address, is_write, meta, type, place);
    err(title);
    err(detail);
    for (const entry of entries.slice(skipnr)) {
      kernel.printk(here, KERN_DEFAULT, ` ${kernel.sprint_symbol(entry)}`);
    }
    if (yield* trace.decide(fn, 'meta', meta !== null)) {
      err('');
      // A record has no newline at its end.
      const print: Print = (text) => kernel.printk(here, KERN_DEFAULT, text.replace(/\n$/, ''));
      if (meta !== null) kfence_print_object(here, kfence, print, meta);
    }
    err('');
    const full = regs !== null && kernel.config.no_hash_pointers;
    if (yield* trace.decide(fn, 'no_hash_pointers && regs', full)) {
      if (regs !== null) here.arch.show_regs(here, regs);
    } else kernel.dump_stack_print_info(here, KERN_ERR);
    err(RULER);
    kernel.check_panic_on_warn(here, 'KFENCE');
    kernel.add_taint('B');
    return kfence.kfence_fault;
  },
);

/** What kfence.fault= asks for. Does not return for `oops` and `panic`. */
export const kfence_handle_fault = port(
  'kfence_handle_fault',
  ['kfence', 'fault'],
  function* (here: ThisCpu, kfence: Kfence, fault: kfence_fault): Path<void> {
    yield* here.trace.decide('kfence_handle_fault', 'fault', fault);
    switch (fault) {
      case 'none':
      case 'report':
        return;
      case 'oops':
        here.arch.die_bug(here, BUG_SITE, placeIn('kfence_handle_fault'));
        return;
      case 'panic':
        // So that the scan of the canaries does not panic again.
        kfence.kfence_enabled = false;
        here.kernel.panic(here, 'kfence.fault=panic set ...');
    }
  },
);
