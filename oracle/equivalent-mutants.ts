/** Mutants that nothing can notice, because they change no result. */

export interface Equivalent {
  readonly file: string;
  /** Function or method. */
  readonly where: string;
  /** Part of the source line. */
  readonly line: string;
  /** `from -> to`; all changes of the line if left out. */
  readonly changes?: readonly string[];
  readonly why: string;
}

export const EQUIVALENT: readonly Equivalent[] = [];
