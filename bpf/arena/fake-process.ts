/** Processes for tests: an address space with the system calls and faults of the task that runs in it. */
import { FAULT_FLAG_USER, FAULT_FLAG_VMA_LOCK, FAULT_FLAG_WRITE, type pt_regs } from '../../arch/kernel.js';
import { drain } from '../../emu/path.js';
import { UserMemory } from '../../mm/fault.js';
import { create_mm, type UserMm, vma_lookup } from '../../mm/mmap.js';
import { vm_mmap_pgoff } from '../../mm/mmap_call.js';
import { MAP_SHARED, PROT_READ, PROT_WRITE } from '../../mm/mmap_flags.js';
import { do_mremap } from '../../mm/mmap_remap.js';
import { vm_munmap } from '../../mm/mmap_unmap.js';
import { vmalloc_to_page } from '../../mm/pgtable_walk.js';
import type { FakeMachine } from '../fake-machine.js';
import type { bpf_map } from './arena_struct.js';
import { BpfMapFile } from './map_file.js';

const USER: pt_regs = { instruction_pointer: 0x40_0000n, stack_pointer: 0n, user_mode: true };

export class FakeProcess {
  readonly mm: UserMm;

  constructor(
    readonly machine: FakeMachine,
    name = 'user',
    mm: UserMm | null = create_mm(machine.here, machine.memory, name),
  ) {
    if (mm === null) throw new Error('no memory for a process');
    this.mm = mm;
  }

  mmap(
    map: bpf_map,
    addr: bigint,
    len: bigint,
    flags = MAP_SHARED,
    prot = PROT_READ | PROT_WRITE,
    pgoff = 0n,
  ): bigint {
    const { here, env } = this.machine;
    return drain(vm_mmap_pgoff(here, this.mm, new BpfMapFile(env, map), addr, len, prot, flags, pgoff));
  }

  munmap(addr: bigint, len: bigint): number {
    return drain(vm_munmap(this.machine.here, this.mm, addr, len));
  }

  mremap(addr: bigint, oldLen: bigint, newLen: bigint, flags = 0, newAddr = 0n): bigint {
    return drain(do_mremap(this.machine.here, this.mm, addr, oldLen, newLen, flags, newAddr));
  }

  /** An access: VM_FAULT_* bits of handle_mm_fault(), under the mmap lock unless told otherwise. */
  fault(addr: bigint, write = false, underVmaLock = false): number {
    const vma = vma_lookup(this.mm, addr);
    if (vma === null) throw new Error('no mapping there');
    const flags = FAULT_FLAG_USER | (write ? FAULT_FLAG_WRITE : 0) | (underVmaLock ? FAULT_FLAG_VMA_LOCK : 0);
    if (underVmaLock) vma.readers += 1;
    else this.mm.readers += 1;
    const bits = drain(
      new UserMemory(this.machine.memory).handle_mm_fault(this.machine.here, vma, addr, flags, USER),
    );
    if (!underVmaLock) this.mm.readers -= 1;
    return bits;
  }

  /** Physical page that a user address maps to, or null. */
  pageAt(addr: bigint): number | null {
    const { here, memory } = this.machine;
    // The walk is the same whoever owns the root.
    const view = Object.create(memory, { init_mm: { value: this.mm } });
    return vmalloc_to_page(here, view, addr);
  }
}
