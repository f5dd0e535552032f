/**
 * An ordered list that stays fast with hundreds of thousands of entries: a B+ tree. Every operation is one binary
 * search on each level and moves at most NODE_MAX entries on each, so its cost grows with the logarithm of the
 * number of entries. Nodes are short arrays rather than pairs of pointers, because few long steps through memory
 * cost less than many short ones.
 */

/** Entries of a leaf, or children of an inner node. */
const NODE_MAX = 32;
/** With fewer, a node takes some of its neighbour's or is joined with it. */
const NODE_MIN = NODE_MAX / 4;

interface Leaf<T> {
  /** Ascending. */
  readonly entries: T[];
  readonly children: null;
}

interface Inner<T> {
  /** The last entry below each child. */
  readonly entries: T[];
  readonly children: Node<T>[];
}

type Node<T> = Leaf<T> | Inner<T>;

/** A list kept in the order of `compare`. No two entries may compare equal. */
export class SortedList<T> {
  readonly #compare: (a: T, b: T) => number;
  #root: Node<T> = { entries: [], children: null };
  #size = 0;

  /** @param compare negative when `a` comes before `b`; 0 only for the same entry */
  constructor(compare: (a: T, b: T) => number) {
    this.#compare = compare;
  }

  get size(): number {
    return this.#size;
  }

  insert(entry: T): void {
    const root = this.#root;
    const right = this.#insert(root, entry);
    if (right !== null) this.#root = { entries: [lastOf(root), lastOf(right)], children: [root, right] };
    this.#size += 1;
  }

  /** Takes the entry out that compares equal. Throws when there is none: the caller lost track of it. */
  remove(entry: T): void {
    this.#remove(this.#root, entry);
    this.#size -= 1;
    const { children } = this.#root;
    const [only] = children ?? [];
    if (only !== undefined && children?.length === 1) this.#root = only;
  }

  /** First entry for which `before` is false. `before` must be true for a beginning of the list only. */
  firstNot(before: (entry: T) => boolean): T | undefined {
    let node = this.#root;
    for (;;) {
      const at = partition(node.entries, before);
      if (node.children === null) return node.entries[at];
      const child = node.children[at];
      if (child === undefined) return undefined;
      node = child;
    }
  }

  /** Last entry for which `before` is true. `before` must be true for a beginning of the list only. */
  lastWhere(before: (entry: T) => boolean): T | undefined {
    let node = this.#root;
    let found: T | undefined;
    for (;;) {
      const at = partition(node.entries, before);
      // Of an inner node it is the last one below the child on the left.
      if (at > 0) found = node.entries[at - 1];
      const child = node.children?.[at];
      if (child === undefined) return found;
      node = child;
    }
  }

  clear(): void {
    this.#root = { entries: [], children: null };
    this.#size = 0;
  }

  *[Symbol.iterator](): IterableIterator<T> {
    const leaves: (readonly T[])[] = [];
    gather(this.#root, leaves);
    for (const entries of leaves) yield* entries;
  }

  /** Puts an entry below a node. What does not fit any more comes back as a node for its right. */
  #insert(node: Node<T>, entry: T): Node<T> | null {
    const { entries, children } = node;
    const at = partition(entries, (other) => this.#compare(other, entry) < 0);
    if (children === null) {
      entries.splice(at, 0, entry);
    } else {
      const index = Math.min(at, children.length - 1);
      const child = children[index] as Node<T>;
      const right = this.#insert(child, entry);
      entries[index] = lastOf(child);
      if (right === null) return null;
      children.splice(index + 1, 0, right);
      entries.splice(index + 1, 0, lastOf(right));
    }
    return entries.length > NODE_MAX ? cut(node, NODE_MAX / 2) : null;
  }

  #remove(node: Node<T>, entry: T): void {
    const { entries, children } = node;
    const at = partition(entries, (other) => this.#compare(other, entry) < 0);
    const found = entries[at];
    if (children === null) {
      if (found === undefined || this.#compare(found, entry) !== 0) {
        throw new Error('SortedList: the entry to remove is not in the list');
      }
      entries.splice(at, 1);
      return;
    }
    const child = children[at];
    if (child === undefined) throw new Error('SortedList: the entry to remove is not in the list');
    this.#remove(child, entry);
    // There is a neighbour: an inner node has two children at least.
    if (child.entries.length < NODE_MIN) fill(entries, children, at);
    else entries[at] = lastOf(child);
  }
}

/** Gives a child that has too few entries some of its neighbour's, or makes one node of both. */
function fill<T>(entries: T[], children: Node<T>[], at: number): void {
  const index = Math.max(0, at - 1);
  const left = children[index] as Node<T>;
  const right = children[index + 1] as Node<T>;
  left.entries.push(...right.entries);
  if (left.children !== null && right.children !== null) left.children.push(...right.children);
  const count = left.entries.length;
  if (count > NODE_MAX) {
    const other = cut(left, count >> 1);
    children[index + 1] = other;
    entries[index + 1] = lastOf(other);
  } else {
    children.splice(index + 1, 1);
    entries.splice(index + 1, 1);
  }
  entries[index] = lastOf(left);
}

/** Takes all but the first `count` of a node out, and makes a node of it. */
function cut<T>(node: Node<T>, count: number): Node<T> {
  const entries = node.entries.splice(count);
  return node.children === null
    ? { entries, children: null }
    : { entries, children: node.children.splice(count) };
}

/** Only the root may be empty, and only as a leaf. */
function lastOf<T>({ entries }: Node<T>): T {
  return entries[entries.length - 1] as T;
}

/** The leaves below a node, in order. */
function gather<T>({ entries, children }: Node<T>, leaves: (readonly T[])[]): void {
  if (children === null) leaves.push(entries);
  else for (const child of children) gather(child, leaves);
}

/** Number of leading entries for which `before` is true. */
function partition<T>(entries: readonly T[], before: (entry: T) => boolean): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (before(entries[middle] as T)) low = middle + 1;
    else high = middle;
  }
  return low;
}
