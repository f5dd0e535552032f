/**
 * Which Unicorn library set-up installs, and what it must look like. Data only.
 *
 * To renew for version V, for each entry (the registry is whatever pip is configured to use):
 *   python3 -m pip download unicorn==V --only-binary=:all: --no-deps --python-version 3.7 \
 *     --implementation cp --abi abi3 --platform <pipPlatform> -d /tmp/<platform>
 *   sha256sum /tmp/<platform>/*.whl                                    -> wheel, wheelSha256
 *   unzip -p /tmp/<platform>/*.whl <member> | tee >(wc -c) | sha256sum -> librarySize, librarySha256
 * then change ENGINE_VERSION in emu/unicorn/library.ts and run the whole test suite: offsets in the
 * library's own structures are calibrated when it is opened, its behaviour is not.
 */

/** One platform's wheel and the library in it. Hashes are SHA-256 in lower-case hex. */
export interface EnginePin {
  /** The tag to ask pip for. */
  readonly pipPlatform: string;
  /** File name of the wheel. */
  readonly wheel: string;
  /** Bytes of the wheel. */
  readonly wheelSize: number;
  readonly wheelSha256: string;
  /** Path of the shared library inside the wheel. */
  readonly member: string;
  /** Bytes of the library. */
  readonly librarySize: number;
  readonly librarySha256: string;
}

/** Keys are `<process.platform>-<process.arch>`, with `-musl` behind it where the C library is musl. */
export const ENGINE_PINS: Readonly<Record<string, EnginePin>> = {
  'linux-x64': {
    pipPlatform: 'manylinux2014_x86_64',
    wheel: 'unicorn-2.1.4-cp37-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl',
    wheelSize: 16436886,
    wheelSha256: '9d6e6dea140560de4ebd8446661f7ef84a357d428c14a3ef09dacd306ec8c239',
    member: 'unicorn/lib/libunicorn.so.2',
    librarySize: 24507432,
    librarySha256: 'ddb196ec82b52e502c18e4a34478bf7b9f61c83c2ebaa95c74d8ded45a95da9c',
  },
  'linux-arm64': {
    pipPlatform: 'manylinux2014_aarch64',
    wheel: 'unicorn-2.1.4-cp37-abi3-manylinux_2_17_aarch64.manylinux2014_aarch64.whl',
    wheelSize: 15372569,
    wheelSha256: 'bd1fb0c9af5f57e356d8a96928b4fe045b2e18f308ef23b481d5f970008aa722',
    member: 'unicorn/lib/libunicorn.so.2',
    librarySize: 22824336,
    librarySha256: 'a0b99458a82e268aee258205a40590411c3a9f28e42abf2942ce4e87b7d9ac65',
  },
  'linux-x64-musl': {
    pipPlatform: 'musllinux_1_2_x86_64',
    wheel: 'unicorn-2.1.4-cp37-abi3-musllinux_1_2_x86_64.whl',
    wheelSize: 16925029,
    wheelSha256: 'd348a90ee90219d141cb115ef8ed7e3fd1af42afaee105f7580761d775b25e32',
    member: 'unicorn/lib/libunicorn.so.2',
    librarySize: 25430288,
    librarySha256: 'cc1a208c69b151fdd23439736b0fac9ac6e14409dae77deee900369e6daab302',
  },
  'linux-arm64-musl': {
    pipPlatform: 'musllinux_1_2_aarch64',
    wheel: 'unicorn-2.1.4-cp37-abi3-musllinux_1_2_aarch64.whl',
    wheelSize: 16089431,
    wheelSha256: '01d744ba01c5cc68f1d7afe3d183f1868720fd440ec4eaedc4d1d5d9bf54b84c',
    member: 'unicorn/lib/libunicorn.so.2',
    librarySize: 23665552,
    librarySha256: '52179305928b32c937d2d527ad6fef9d500c6fa7cdb14bf32abf7021d67271a2',
  },
  'darwin-arm64': {
    pipPlatform: 'macosx_11_0_arm64',
    wheel: 'unicorn-2.1.4-cp37-abi3-macosx_11_0_arm64.whl',
    wheelSize: 12142730,
    wheelSha256: 'd6c93e0f60328d8f4a1792af3f834137a28050fcc2305f2ec01efe8558a9844e',
    member: 'unicorn/lib/libunicorn.2.dylib',
    librarySize: 16232448,
    librarySha256: '7207c8e3d7a63118fb0bca73e01816797fd51b1d8a39a4cbc7abfd562ee59c85',
  },
  'darwin-x64': {
    pipPlatform: 'macosx_10_9_x86_64',
    wheel: 'unicorn-2.1.4-cp37-abi3-macosx_10_9_x86_64.whl',
    wheelSize: 12958220,
    wheelSha256: '2a6f738fab5fabffa56af1e7bbf16ea1e91466c342f8dc64f125bd70f36c6b80',
    member: 'unicorn/lib/libunicorn.2.dylib',
    librarySize: 17907488,
    librarySha256: '51c4a6f3ce22628ecd3acd1c49b921a818ffb989ca2c473134cc7eb06094f256',
  },
};
