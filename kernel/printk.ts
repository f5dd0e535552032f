/**
 * The console log: records of kernel/printk/printk.c and how a console writes them, info_print_prefix()
 * and record_print_text() (bpf-next merge 8496d9020ff3).
 *
 * Left out: the ring buffer and its limits, console levels (everything is kept), facilities.
 * A record that is continued (KERN_CONT) is one record here.
 */
import type { ThisCpu } from '../arch/arch.js';
import { Clock } from './clock.js';

/** One printk record. `text` may hold several lines and has no newline at its end. */
export interface ConsoleRecord {
  readonly level: number;
  readonly text: string;
  /** Microseconds since boot. */
  readonly time: number;
  /** Who printed: `T<pid>` in task context, else `C<cpu>`. */
  readonly caller: string;
}

/** What a console writes in front of each line. */
export interface ConsoleFormat {
  /** `<N>`, as the kernel log keeps it for those who read it raw. */
  readonly levels: boolean;
  /** `[%5lu.%06lu]`: printk.time. */
  readonly time: boolean;
  /** `[%6s]`: CONFIG_PRINTK_CALLER. */
  readonly caller: boolean;
}

/** Lines as they are. */
export const PLAIN: ConsoleFormat = { levels: false, time: false, caller: false };

/** All records of a machine since boot, in order. */
export class ConsoleLog {
  readonly records: ConsoleRecord[] = [];

  constructor(readonly clock: Clock = new Clock()) {}

  /** Adds a record; it is a `console` event as well. */
  printk(here: ThisCpu, level: number, text: string): void {
    const record = { level, text, time: this.clock.microseconds, caller: printk_caller_id(here) };
    this.records.push(record);
    here.trace.emit({ type: 'console', cpu: here.cpu.id, ...record });
  }

  /** The console's lines from record `from` on, without levels and time. */
  lines(from = 0): string[] {
    return this.#lines(from, PLAIN);
  }

  /** The same with `<level>` in front of each line. */
  linesWithLevels(from = 0): string[] {
    return this.#lines(from, { ...PLAIN, levels: true });
  }

  /** Everything as one text, with a newline behind each line. */
  text(from = 0): string {
    return this.lines(from)
      .map((line) => `${line}\n`)
      .join('');
  }

  #lines(from: number, format: ConsoleFormat): string[] {
    return this.records.slice(from).flatMap((record) => record_print_text(record, format));
  }
}

/** The lines of a record, each with the whole prefix. */
export function record_print_text(record: ConsoleRecord, format: ConsoleFormat): string[] {
  const prefix = info_print_prefix(record, format);
  return record.text.split('\n').map((line) => `${prefix}${line}`);
}

function info_print_prefix({ level, time, caller }: ConsoleRecord, format: ConsoleFormat): string {
  const stamp = format.time ? `[${print_time(time)}]` : '';
  const who = format.caller ? `[${caller.padStart(6)}]` : '';
  const blank = stamp === '' && who === '' ? '' : ' ';
  return `${format.levels ? `<${level}>` : ''}${stamp}${who}${blank}`;
}

/** `%5lu.%06lu`: seconds and microseconds. */
export function print_time(microseconds: number): string {
  const seconds = Math.floor(microseconds / 1_000_000);
  return `${String(seconds).padStart(5)}.${String(microseconds % 1_000_000).padStart(6, '0')}`;
}

function printk_caller_id({ current, cpu }: ThisCpu): string {
  return current.in_interrupt > 0 ? `C${cpu.id}` : `T${current.pid}`;
}
