/** The console log: kernel/printk as far as anybody sees it. */
import type { ThisCpu } from '../arch/arch.js';

/** One printk record. `text` may hold several lines and has no newline at its end. */
export interface ConsoleRecord {
  readonly level: number;
  readonly text: string;
}

/** All records of a machine since boot, in order. */
export class ConsoleLog {
  readonly records: ConsoleRecord[] = [];

  /** Adds a record; it is a `console` event as well. */
  printk(here: ThisCpu, level: number, text: string): void {
    this.records.push({ level, text });
    here.trace.emit({ type: 'console', cpu: here.cpu.id, level, text });
  }

  /** The console's lines from record `from` on, without levels and time. */
  lines(from = 0): string[] {
    return this.records.slice(from).flatMap(({ text }) => text.split('\n'));
  }

  /** The same with `<level>` in front of each line, as a console that shows levels has them. */
  linesWithLevels(from = 0): string[] {
    return this.records
      .slice(from)
      .flatMap(({ level, text }) => text.split('\n').map((line) => `<${level}>${line}`));
  }

  /** Everything as one text, with a newline behind each line. */
  text(from = 0): string {
    return this.lines(from)
      .map((line) => `${line}\n`)
      .join('');
  }
}
