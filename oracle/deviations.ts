/**
 * Where the engine's MMUs (Unicorn 2.1.4, which is QEMU 5.0) are no such CPUs as kfault's. Everything else in
 * which they differ is a disagreement. Each has a case of its own in `deviations.test.ts`.
 */
export { ARM64_DEVIATIONS } from './arm64-deviations.js';
export { X86_DEVIATIONS } from './x86-deviations.js';
