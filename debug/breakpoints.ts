/** What a session can be made to stop at. */
import type { Node } from '../vector/format/expression.js';
import type { EntryLevel } from '../vector/machine/machine.js';
import { SessionError } from './session-error.js';
import { namedAddress } from './stop.js';

/** Where guest code or a path is to stop. */
export type BreakpointSpec =
  /** Guest code is about to execute the instruction at `address`. */
  | { readonly kind: 'address'; readonly address: bigint }
  /** A ported kernel function is entered. */
  | { readonly kind: 'function'; readonly fn: string }
  /** An exception was taken: any, or one by the architecture's name (`#PF`, `Data Abort`). */
  | { readonly kind: 'fault'; readonly exception: string | null }
  /** A fault in the KFENCE pool. */
  | { readonly kind: 'kfence' }
  /** The scratch page is put into a table entry. */
  | { readonly kind: 'scratch' }
  /** The kernel has printed an oops, or panics. */
  | { readonly kind: 'oops' }
  /** A line with this text in it is printed to the console. */
  | { readonly kind: 'console'; readonly text: string }
  /** A step of the fixture begins: any, or the one with this number, from 1. */
  | { readonly kind: 'fixture-step'; readonly number: number | null }
  /** `length` bytes from `address` are read, written (they change), or either. */
  | {
      readonly kind: 'watch';
      readonly address: bigint;
      /** 1 to 4096. */
      readonly length: number;
      readonly access: 'read' | 'write' | 'access';
    }
  /** The table entry of `va` changes: of that level, or null for the page. */
  | { readonly kind: 'entry'; readonly va: bigint; readonly level: EntryLevel | null };

/** A breakpoint, watchpoint or catchpoint that is set. Numbers count from 1 and are not used again. */
export interface Breakpoint {
  readonly id: number;
  readonly spec: BreakpointSpec;
  readonly enabled: boolean;
  /** Deleted when it has stopped the session. */
  readonly temporary: boolean;
  /** An expression as SessionViews.evaluate() takes it: it is a hit where that is not zero. Null: everywhere. */
  readonly condition: string | null;
  /** How many hits are still passed over, forwards. */
  readonly ignore: number;
  /** How often it was hit forwards, with those that were passed over. */
  readonly hits: number;
  /** What it is for people: `write_cmask+0x4`, `function exc_page_fault`, `write of a.page(3), 8 bytes`. */
  readonly text: string;
}

export interface BreakpointOptions {
  readonly temporary?: boolean;
  readonly condition?: string;
  readonly ignore?: number;
}

/** A breakpoint as the table keeps it. */
export interface Entry {
  readonly id: number;
  readonly spec: BreakpointSpec;
  readonly temporary: boolean;
  readonly text: string;
  enabled: boolean;
  condition: Condition | null;
  ignore: number;
  hits: number;
}

/** What has to hold, as it was typed and taken apart. */
export interface Condition {
  readonly text: string;
  readonly node: Node;
}

/** The longest range that can be watched, in bytes. */
export const WATCH_MAX = 4096;

/** Breakpoints and watchpoints of a session. */
export class BreakpointTable {
  readonly #entries: Entry[] = [];
  #last = 0;

  get all(): readonly Breakpoint[] {
    return this.#entries.map(viewOf);
  }

  get enabled(): readonly Entry[] {
    return this.#entries.filter(({ enabled }) => enabled);
  }

  add(entry: Omit<Entry, 'id' | 'enabled' | 'hits'>): Breakpoint {
    this.#last += 1;
    const added: Entry = { ...entry, id: this.#last, enabled: true, hits: 0 };
    this.#entries.push(added);
    return viewOf(added);
  }

  /** Throws a SessionError when there is none with this number. */
  get(id: number): Entry {
    const entry = this.#entries.find((each) => each.id === id);
    if (entry === undefined) throw new SessionError(`there is no breakpoint number ${id}`);
    return entry;
  }

  remove(id: number): void {
    this.#entries.splice(this.#entries.indexOf(this.get(id)), 1);
  }

  /** They have stopped the session. */
  stopped(ids: Iterable<number>): void {
    for (const id of ids) if (this.get(id).temporary) this.remove(id);
  }
}

function viewOf({ id, spec, enabled, temporary, condition, ignore, hits, text }: Entry): Breakpoint {
  return { id, spec, enabled, temporary, condition: condition?.text ?? null, ignore, hits, text };
}

/** A breakpoint in a few words. */
export function breakpointText(spec: BreakpointSpec, nameOf: (address: bigint) => string | null): string {
  const at = (address: bigint): string => namedAddress(address, nameOf);
  switch (spec.kind) {
    case 'address':
      return at(spec.address);
    case 'function':
      return `function ${spec.fn}`;
    case 'fault':
      return spec.exception === null ? 'any fault' : `fault ${spec.exception}`;
    case 'kfence':
      return 'KFENCE hit';
    case 'scratch':
      return 'scratch page installed';
    case 'oops':
      return 'oops or panic';
    case 'console':
      return `console line with ${JSON.stringify(spec.text)}`;
    case 'fixture-step':
      return spec.number === null ? 'any step of the fixture' : `step ${spec.number} of the fixture`;
    case 'watch': {
      const bytes = spec.length === 1 ? '1 byte' : `${spec.length} bytes`;
      return `${spec.access} of ${bytes} at ${at(spec.address)}`;
    }
    case 'entry':
      return `${(spec.level ?? 'pte').toUpperCase()} of ${at(spec.va)}`;
  }
}
