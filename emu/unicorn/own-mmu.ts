/**
 * The library's own memory management units, as a second opinion on ours: an engine that walks the tables
 * in its memory itself (`UC_TLB_CPU`). Nothing of kfault answers for it.
 *
 * One of them serves any number of questions: state is set, the TLB is emptied, one address is asked for.
 */
import koffi from 'koffi';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, type AccessCode, EngineError } from '../cpu.js';
import { type Address, NativeBuffer } from './bindings.js';
import { CalibrationError } from './calibration.js';
import {
  UC_ERR_FETCH_PROT,
  UC_ERR_OK,
  UC_ERR_READ_PROT,
  UC_ERR_WRITE_PROT,
  UC_PROT_EXEC,
  UC_PROT_READ,
  UC_PROT_WRITE,
} from './constants.js';
import type { UnicornLibrary } from './library.js';
import type { RawEngine } from './raw-engine.js';

/** What the library's walk came to. */
export type OwnAnswer =
  | { readonly translates: true; readonly pa: number }
  /**
   * An exception. `code` is the error code of a #PF or NOT_CANONICAL on x86-64, and the syndrome on arm64;
   * `address` is CR2 or FAR, null where the exception has none.
   */
  | { readonly translates: false; readonly code: number; readonly address: bigint | null };

/** The code of a #GP, which has no address. */
export const NOT_CANONICAL = -1;

/** `uc_vmem_translate`, and how it says no. */
export interface TranslateCall {
  readonly prot: number;
  readonly refused: number;
}

function translateCall(access: AccessCode): TranslateCall {
  switch (access) {
    case ACCESS_READ:
      return { prot: UC_PROT_READ, refused: UC_ERR_READ_PROT };
    case ACCESS_WRITE:
      return { prot: UC_PROT_WRITE, refused: UC_ERR_WRITE_PROT };
    case ACCESS_FETCH:
      return { prot: UC_PROT_EXEC, refused: UC_ERR_FETCH_PROT };
  }
}

type VmemTranslate = (uc: Address, va: bigint, prot: number, pa: Address) => number;

/** Asks an engine for translations by its own tables. */
export class Translator {
  private readonly translate: VmemTranslate;
  private readonly result = new NativeBuffer(8);

  /** Throws a CalibrationError when the library has no `uc_vmem_translate`: 2.1.2 is the first that has. */
  constructor(
    library: UnicornLibrary,
    private readonly engine: RawEngine,
  ) {
    try {
      this.translate = koffi
        .load(library.path)
        .func('int uc_vmem_translate(uintptr_t, uint64_t, int, uintptr_t)');
    } catch {
      throw new CalibrationError(
        `${library.path} (Unicorn ${library.version}) has no uc_vmem_translate, so its own MMU cannot be asked`,
      );
    }
  }

  /** The physical address, or null when an exception came of it. The TLB is emptied first. */
  ask(va: bigint, access: AccessCode): number | null {
    const { engine } = this;
    const { prot, refused } = translateCall(access);
    engine.flushTlb();
    const rc = this.translate(engine.handle, va, prot, this.result.address);
    if (rc === refused) return null;
    if (rc !== UC_ERR_OK) {
      throw new EngineError(`the engine's own MMU: ${engine.bindings.uc_strerror(rc)} (${rc})`);
    }
    return Number(this.result.view.getBigUint64(0, true));
  }
}

/** The places where a context holds `value`, in 4 or 8 bytes. */
export function placesOf(context: Uint8Array, value: bigint, bytes: 4 | 8): Set<number> {
  const view = new DataView(context.buffer, context.byteOffset, context.length);
  const found = new Set<number>();
  for (let offset = 0; offset + bytes <= context.length; offset += bytes) {
    const word = bytes === 4 ? BigInt(view.getUint32(offset, true)) : view.getBigUint64(offset, true);
    if (word === value) found.add(offset);
  }
  return found;
}

/** The one place that every look had in common. Throws a CalibrationError when it is not exactly one. */
export function onlyPlace(looks: readonly ReadonlySet<number>[], what: string): number {
  const [first = new Set<number>(), ...rest] = looks;
  const common = [...first].filter((offset) => rest.every((look) => look.has(offset)));
  const [found] = common;
  if (found === undefined || common.length !== 1) {
    throw new CalibrationError(
      `the engine's own MMU: ${common.length} places for ${what}, expected exactly one`,
    );
  }
  return found;
}
