/** The part of @alexaltea/keystone-js that the worker uses; the package has no types of its own. */
declare module '@alexaltea/keystone-js' {
  export interface KeystoneHandle {
    option(option: number, value: number): void;
    asm(text: string, address: bigint): { readonly mc: Uint8Array; readonly failed: boolean };
    errno(): number;
    close(): void;
  }

  export interface KeystoneModule {
    readonly Keystone: new (arch: number, mode: number) => KeystoneHandle;
    readonly ARCH_ARM64: number;
    readonly ARCH_X86: number;
    readonly MODE_LITTLE_ENDIAN: number;
    readonly MODE_64: number;
    readonly OPT_SYNTAX: number;
    readonly OPT_SYNTAX_INTEL: number;
    strerror(code: number): string;
  }

  export default function MKeystone(): Promise<KeystoneModule>;
}
