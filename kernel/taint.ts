/** Taint flags: taint_flags[], add_taint() and print_tainted() of kernel/panic.c (bpf-next merge 8496d9020ff3). */

interface TaintFlag {
  /** Letter when set, and when not. */
  readonly c_true: string;
  readonly c_false: string;
  readonly desc: string;
}

/** In the order of their bits, which is the order in which they are printed. */
const taint_flags: readonly TaintFlag[] = [
  { c_true: 'P', c_false: 'G', desc: 'PROPRIETARY_MODULE' },
  { c_true: 'F', c_false: ' ', desc: 'FORCED_MODULE' },
  { c_true: 'S', c_false: ' ', desc: 'CPU_OUT_OF_SPEC' },
  { c_true: 'R', c_false: ' ', desc: 'FORCED_RMMOD' },
  { c_true: 'M', c_false: ' ', desc: 'MACHINE_CHECK' },
  { c_true: 'B', c_false: ' ', desc: 'BAD_PAGE' },
  { c_true: 'U', c_false: ' ', desc: 'USER' },
  { c_true: 'D', c_false: ' ', desc: 'DIE' },
  { c_true: 'A', c_false: ' ', desc: 'OVERRIDDEN_ACPI_TABLE' },
  { c_true: 'W', c_false: ' ', desc: 'WARN' },
  { c_true: 'C', c_false: ' ', desc: 'CRAP' },
  { c_true: 'I', c_false: ' ', desc: 'FIRMWARE_WORKAROUND' },
  { c_true: 'O', c_false: ' ', desc: 'OOT_MODULE' },
  { c_true: 'E', c_false: ' ', desc: 'UNSIGNED_MODULE' },
  { c_true: 'L', c_false: ' ', desc: 'SOFTLOCKUP' },
  { c_true: 'K', c_false: ' ', desc: 'LIVEPATCH' },
  { c_true: 'X', c_false: ' ', desc: 'AUX' },
  { c_true: 'T', c_false: ' ', desc: 'RANDSTRUCT' },
  { c_true: 'N', c_false: ' ', desc: 'TEST' },
  { c_true: 'J', c_false: ' ', desc: 'FWCTL' },
];

/** The taint of a machine since boot. */
export class Taints {
  #mask = 0;

  /** @param letters flags that are set from the start, e.g. `OE`; RangeError for a letter that no flag has */
  constructor(letters = '') {
    for (const letter of letters) this.add_taint(letter);
  }

  /** Sets a flag for good. Throws a RangeError for a letter that no flag has. */
  add_taint(letter: string): void {
    this.#mask |= 1 << bitOf(letter);
  }

  /** test_taint() */
  test_taint(letter: string): boolean {
    return (this.#mask & (1 << bitOf(letter))) !== 0;
  }

  /** `Not tainted`, or `Tainted: ` and one character for each of the 20 flags. */
  print_tainted(): string {
    if (this.#mask === 0) return 'Not tainted';
    const flags = taint_flags.map((flag, bit) => (this.#isSet(bit) ? flag.c_true : flag.c_false));
    return `Tainted: ${flags.join('')}`;
  }

  /** `Tainted: [D]=DIE, …`: the flags that are set by name; null when there are none. */
  print_tainted_verbose(): string | null {
    if (this.#mask === 0) return null;
    const set = taint_flags.filter((_, bit) => this.#isSet(bit));
    return `Tainted: ${set.map(({ c_true, desc }) => `[${c_true}]=${desc}`).join(', ')}`;
  }

  #isSet(bit: number): boolean {
    return (this.#mask & (1 << bit)) !== 0;
  }
}

/** True for a letter that a flag has when it is set. */
export function isTaintLetter(letter: string): boolean {
  return taint_flags.some(({ c_true }) => c_true === letter);
}

function bitOf(letter: string): number {
  const bit = taint_flags.findIndex(({ c_true }) => c_true === letter);
  if (bit < 0) {
    const letters = taint_flags.map(({ c_true }) => c_true).join(' ');
    throw new RangeError(`no taint flag has the letter "${letter}"; there are ${letters}`);
  }
  return bit;
}
