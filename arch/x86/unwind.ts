/** What both unwinders offer: arch/x86/include/asm/unwind.h, bpf-next merge 8496d9020ff3. */

/** Registers of an interrupted frame that lie on the stack. */
export interface EntryRegs {
  /** Address of the (whole) struct pt_regs: a signed number. */
  readonly address: number;
  /** Only what hardware pushed is there. */
  readonly partial: boolean;
}

/** What show_trace_log_lvl() needs of an unwinder. */
export interface TraceUnwinder {
  /** True when there is no further frame. */
  readonly done: boolean;
  /** unwind_next_frame(). False when there is none. */
  next(): boolean;
  /** unwind_get_return_address(): the frame's address if it is kernel text, else null. */
  readonly returnAddress: bigint | null;
  /** unwind_get_return_address_ptr(): where on the stack the frame's address is; NaN when it is not there. */
  readonly returnAddressSlot: number;
  /** unwind_get_entry_regs() */
  readonly entryRegs: EntryRegs | null;
}
