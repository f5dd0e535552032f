/**
 * How the registers of an architecture are reached: by number, or inside a small structure that names
 * them. `x86-registers.ts` and `arm64-registers.ts` fill the tables.
 */

/** A register that the library reads and writes by number. Narrow ones come out zero-extended. */
export interface PlainRegister {
  readonly kind: 'plain';
  readonly id: number;
  readonly bytes: 2 | 4 | 8;
}

/** A register inside a structure: `prepare` names it, the value is at `offset`. */
export interface StructureRegister {
  readonly kind: 'structure';
  readonly id: number;
  readonly size: number;
  readonly offset: number;
  readonly bytes: 2 | 4 | 8;
  prepare(structure: DataView): void;
  /** True when the structure holds other state, so that a write has to read it first. */
  readonly shared: boolean;
}

export type RegisterPlace = PlainRegister | StructureRegister;

export interface RegisterTable {
  /** Names in the order people list them; aliases last. */
  readonly places: ReadonlyMap<string, RegisterPlace>;
  readonly pc: PlainRegister;
  readonly sp: PlainRegister;
}

export function plain(id: number, bytes: 2 | 4 | 8 = 8): PlainRegister {
  return { kind: 'plain', id, bytes };
}
