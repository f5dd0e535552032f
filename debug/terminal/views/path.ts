/** The kernel's path as a tree: calls, their decisions, and where it stands now. */
import { hex, hex16 } from '../../../emu/address.js';
import { resultText, valueText } from '../../stop.js';
import type { PathCall, PathView } from '../../views.js';
import { dim, hanging, here, type Line, line, name, type Span } from '../lines.js';

export interface PathOptions {
  /** Calls that have returned are one line each. */
  readonly brief: boolean;
  readonly columns: number | null;
  nameOf(address: bigint): string | null;
}

/** `=>` marks the decision, call or return at which the path stands. */
export function pathLines(path: PathView, options: PathOptions): Line[] {
  const { fault, calls, over } = path;
  const out: Line[] = [];
  if (fault !== null) {
    const address = options.nameOf(fault.address);
    out.push(
      hanging(
        2,
        `${fault.exception}: ${fault.access} of ${hex16(fault.address)}`,
        address === null ? '' : name(` <${address}>`),
        dim(`, code ${hex(fault.code)}, at ${options.nameOf(fault.pc) ?? hex(fault.pc)}`),
      ),
    );
  }
  if (calls.length === 0) {
    out.push(
      line(
        dim(
          over
            ? 'No fault has been handled, and nothing of the kernel was called.'
            : 'The path has just begun.',
        ),
      ),
    );
    return out;
  }
  // Deep paths must leave room for their words.
  const depth = Math.max(...calls.map(depthOf));
  const step = options.columns !== null && depth * 2 > options.columns / 3 ? 1 : 2;
  const tree = new Tree(options, step, over ? null : currentOf(path));
  for (const call of calls) tree.call(call, 0);
  return [...out, ...tree.lines, ...(over ? [line(dim('The path is over.'))] : [])];
}

function depthOf(call: PathCall): number {
  return 1 + Math.max(0, ...call.items.map((item) => (item.kind === 'call' ? depthOf(item) : 0)));
}

/** The item that the path came to last: the innermost open call, or the last thing in it. */
function currentOf({ calls, stack }: PathView): unknown {
  const inner = stack.at(-1);
  if (inner === undefined) return calls.at(-1) ?? null;
  return inner.items.at(-1) ?? inner;
}

class Tree {
  readonly lines: Line[] = [];
  constructor(
    readonly options: PathOptions,
    readonly step: number,
    readonly current: unknown,
  ) {}

  call(call: PathCall, depth: number): void {
    const args = call.args.map((arg) => `${arg.name}=${arg.value}`).join(', ');
    const folded = this.options.brief && !call.open && call !== this.current;
    const leaf = call.items.length === 0 || folded;
    const returned = call.result === null ? null : resultText(call.result);
    const result = returned !== null && leaf ? ` = ${returned}` : '';
    this.#add(
      call,
      depth,
      name(call.fn),
      `(${args})${result}${folded && call.items.length > 0 ? '  …' : ''}`,
    );
    if (folded) return;
    for (const item of call.items) {
      if (item.kind === 'call') this.call(item, depth + 1);
      else this.#add(item, depth + 1, '? ', item.test, ' ', valueSpan(item === this.current, item.value));
    }
    if (returned !== null && !leaf) this.#add(null, depth + 1, dim('returns '), returned);
  }

  #add(item: unknown, depth: number, ...parts: readonly (string | Span)[]): void {
    const isHere = item !== null && item === this.current;
    const guide = `|${' '.repeat(this.step - 1)}`.repeat(depth);
    const head = [isHere ? here('=> ') : '   ', dim(guide)];
    this.lines.push(hanging(5 + guide.length, ...head, ...(isHere ? parts.map(highlighted) : parts)));
  }
}

function highlighted(part: string | Span): Span {
  return here(typeof part === 'string' ? part : part.text);
}

function valueSpan(current: boolean, value: unknown): Span {
  return { text: `→ ${resultText(valueText(value))}`, style: current ? 'here' : 'strong' };
}

/** Where a path stands, in a line: the innermost functions. */
export function pathTrail({ stack }: PathView): Line[] {
  if (stack.length === 0) return [];
  const shown = stack
    .slice(-3)
    .reverse()
    .map(({ fn }) => fn);
  const more = stack.length - shown.length;
  const rest = more > 0 ? ` <- ${more} more (bt)` : '';
  return [hanging(3, dim(`in ${shown.join(' <- ')}${rest}`))];
}
