/**
 * Processes of a fixture besides the tasks of its CPUs: each has an address space of its own, with the user text of
 * the fixture and a stack in it, and what it maps itself; or what another one had when it forked.
 */

import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE, type task_struct, VM_EXEC, VM_READ, VM_SHARED, VM_WRITE } from '../../arch/kernel.js';
import type { System } from '../../boot/system.js';
import type { Delegate, Path } from '../../emu/path.js';
import { ENOMEM } from '../../kernel/errno.js';
import { createTask } from '../../kernel/task.js';
import { map_page } from '../../mm/map.js';
import { create_mm, mmap_region, type UserMm } from '../../mm/mmap.js';
import { dup_mmap } from '../../mm/mmap_fork.js';
import { exit_mmap } from '../../mm/mmap_unmap.js';
import { alloc_thread_stack, free_thread_stack, type ThreadStack } from '../../mm/vmalloc.js';
import { USER_STACK_END, USER_STACK_SIZE } from '../build/data-pages.js';
import { StepRefusal } from './machine.js';

interface Process {
  readonly task: task_struct;
  readonly mm: UserMm;
  readonly stack: ThreadStack;
}

export class Processes {
  readonly #system: System;
  /** Null for one that has exited. */
  readonly #known = new Map<string, Process | null>();
  /** Pages of user text: address and physical address. */
  readonly #text: [va: bigint, pa: number][] = [];
  /** Own tasks of the CPUs that are in the middle of a process's step. */
  readonly #own = new Map<ThisCpu, task_struct>();
  #lastPid = 0;

  constructor(system: System) {
    this.#system = system;
  }

  /**
   * Lets processes made from now on have this text, which CPU 0's task has. It stays where it is when all have unmapped
   * it, as pages of a program's file do.
   */
  shareText(start: bigint, size: number): void {
    const { mmu } = this.#system.here();
    const { pages } = this.#system.memory;
    for (let offset = 0; offset < size; offset += PAGE_SIZE) {
      const va = start + BigInt(offset);
      const pa = mmu.peek(va);
      pages.get_page(pa);
      this.#text.push([va, pa]);
    }
  }

  /** The address space of a process; null for one that has not been named yet. */
  mm(name: string): UserMm | null {
    return this.#known.get(name)?.mm ?? null;
  }

  /** Does something in a process on a CPU, whose task is back afterwards. With null: in the CPU's own task. */
  *as<T>(cpu: number, name: string | null, work: (mm: UserMm) => Delegate<T>): Path<T> {
    const { arch } = this.#system;
    const here = this.#system.here(cpu);
    const before = here.current;
    const own = this.#own.get(here) ?? before;
    if (name === null && before === own) return yield* work(this.#ownMm(here));
    const process = name === null ? null : this.#process(name);
    this.#own.set(here, own);
    here.current = process?.task ?? own;
    try {
      const mm = process?.mm ?? this.#ownMm(here);
      arch.switch_mm(here, mm);
      return yield* work(mm);
    } finally {
      here.current = before;
      arch.switch_mm(here, before.mm ?? (before.active_mm === here.kernel.init_mm ? null : before.active_mm));
      if (before === own) this.#own.delete(here);
    }
  }

  /** What the CPU's own task, which runs, has in user memory; switched to when it is first asked for. */
  #ownMm(here: ThisCpu): UserMm {
    const mm = this.#system.userMm();
    if (here.current.mm !== mm) {
      here.current.mm = mm;
      here.current.active_mm = mm;
      this.#system.arch.switch_mm(here, mm);
    }
    return mm;
  }

  /** Refuses a name that a process has, or had: a child is a process of its own. */
  requireNew(name: string): void {
    const process = this.#known.get(name);
    if (process === undefined) return;
    throw new StepRefusal(`process ${name} ${process === null ? 'has exited' : 'is there already'}`);
  }

  /**
   * fork() of the task that runs on a CPU, see `as`: kernel_clone() as far as it is about memory. The child has its
   * comm. Returns the child's pid or -ENOMEM.
   */
  *fork(cpu: number, parent: UserMm, name: string): Path<number> {
    const { memory, arch } = this.#system;
    const here = this.#system.here(cpu);
    const { comm } = here.current;
    const stack = alloc_thread_stack(here, memory, 'kernel stack', arch.layout.THREAD_ALIGN);
    if (stack === null) return -ENOMEM;
    const mm = yield* dup_mmap(here, parent, name);
    if (mm === null) {
      free_thread_stack(here, memory, stack);
      return -ENOMEM;
    }
    const task = this.#task(here, comm, mm, stack);
    this.#known.set(name, { task, mm, stack });
    return task.pid;
  }

  /** do_exit() of a process, as far as it is about memory. */
  *exit(cpu: number, name: string): Path<undefined> {
    const { memory, cpus } = this.#system;
    if (!this.#known.has(name)) {
      throw new StepRefusal(
        `there is no process ${name}: a step with \`process: ${name}\` or \`fork: ${name}\` makes it`,
      );
    }
    const { task, stack } = this.#process(name);
    const on = cpus.find(({ current }) => current === task);
    if (on !== undefined)
      throw new StepRefusal(`process ${name} is in the middle of a step on CPU ${on.cpu.id}`);
    yield* this.as(cpu, name, (mm) => exit_mmap(this.#system.here(cpu), mm));
    // The task that comes behind it does this.
    free_thread_stack(this.#system.here(cpu), memory, stack);
    this.#known.set(name, null);
    return undefined;
  }

  #process(name: string): Process {
    let process = this.#known.get(name);
    if (process === null) throw new StepRefusal(`process ${name} has exited`);
    if (process === undefined) {
      process = this.#make(name);
      this.#known.set(name, process);
    }
    return process;
  }

  #task(here: ThisCpu, comm: string, mm: UserMm, { stack, size }: ThreadStack): task_struct {
    const pids = this.#system.cpus.map(({ current }) => current.pid);
    this.#lastPid = Math.max(this.#lastPid, ...pids) + 1;
    const { uid } = here.current;
    return createTask({ comm, pid: this.#lastPid, uid, mm, stack, stackSize: size });
  }

  #make(name: string): Process {
    const { memory, arch } = this.#system;
    const here = this.#system.here();
    const mm = create_mm(here, memory, name);
    const stack = alloc_thread_stack(here, memory, 'kernel stack', arch.layout.THREAD_ALIGN);
    if (mm === null || stack === null) throw new StepRefusal(`the ram is full: no room for process ${name}`);
    const task = this.#task(here, name, mm, stack);
    const { pages } = memory;
    for (const [va, pa] of this.#text) {
      pages.get_page(pa);
      this.#map(mm, va, pa, VM_READ | VM_EXEC);
    }
    const bottom = USER_STACK_END - BigInt(USER_STACK_SIZE);
    for (let offset = 0; offset < USER_STACK_SIZE; offset += PAGE_SIZE) {
      const pa = pages.alloc_page(here, 'user stack');
      if (pa === null) throw new StepRefusal(`the ram is full: no stack for process ${name}`);
      this.#map(mm, bottom + BigInt(offset), pa, VM_READ | VM_WRITE);
    }
    return { task, mm, stack };
  }

  #map(mm: UserMm, va: bigint, pa: number, vm_flags: number): void {
    const { memory, arch } = this.#system;
    const vma = mmap_region(mm, va, PAGE_SIZE, vm_flags);
    vma.anon_vma = true;
    const prot = arch.vm_get_page_prot(memory.pgtable, vm_flags | VM_SHARED, 0);
    const err = map_page(this.#system.here(), memory, mm, va, pa, prot);
    if (err !== 0) throw new StepRefusal('the ram is full: no page for the tables of a process');
    memory.pages.page_add_rmap(pa);
  }
}
