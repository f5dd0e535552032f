/** The part of @alexaltea/capstone-js that is used; the package has no types of its own. */
declare module '@alexaltea/capstone-js' {
  export interface CapstoneInstruction {
    /** Signed: a kernel address is negative. */
    readonly address: bigint;
    readonly size: number;
    readonly mnemonic: string;
    readonly op_str: string;
  }

  export interface CapstoneHandle {
    /** Stops at the first undecodable byte; throws a string if it is the very first. */
    disasm(bytes: Uint8Array, address: bigint, max?: number): CapstoneInstruction[];
    close(): void;
  }

  export interface CapstoneModule {
    readonly Capstone: new (arch: number, mode: number) => CapstoneHandle;
    readonly ARCH_ARM64: number;
    readonly ARCH_X86: number;
    readonly MODE_LITTLE_ENDIAN: number;
    readonly MODE_64: number;
  }

  export default function MCapstone(): Promise<CapstoneModule>;
}
