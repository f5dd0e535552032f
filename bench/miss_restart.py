"""The bare miss-stop-restart loop through the Python binding of the engine's own wheel.

The same guest code as in bare-loop.ts stores to one page after the other. Each page is refused once: the
engine stops, the same instruction is started again, the fill is granted and the code runs on to the next
page. Nothing else happens. Usage: miss_restart.py x86-64|arm64 ROUNDS SECONDS.
Prints nanoseconds per round, the median of all batches.
"""
import statistics
import sys
import time

from unicorn import UC_ARCH_ARM64, UC_ARCH_X86, UC_HOOK_TLB_FILL, UC_MEM_FETCH, UC_MODE_64, UC_MODE_ARM
from unicorn import UC_PROT_ALL, UC_PROT_READ, UC_PROT_WRITE, UC_TLB_VIRTUAL, Uc, UcError
from unicorn.arm64_const import UC_ARM64_REG_PC, UC_ARM64_REG_X0, UC_CPU_ARM64_MAX
from unicorn.x86_const import UC_CPU_X86_BROADWELL, UC_X86_REG_RDI, UC_X86_REG_RIP

CODE = 0x401000

arch, rounds, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
if arch == "x86-64":
    engine = Uc(UC_ARCH_X86, UC_MODE_64)
    engine.ctl_set_cpu_model(UC_CPU_X86_BROADWELL)
    # 1: mov [rdi], rax; add rdi, 4096; jmp 1b
    code = bytes.fromhex("488907" "4881c700100000" "ebf4")
    address, program_counter = UC_X86_REG_RDI, UC_X86_REG_RIP
else:
    engine = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    engine.ctl_set_cpu_model(UC_CPU_ARM64_MAX)
    engine.ctl_set_page_size(4096)
    # 1: str x1, [x0]; add x0, x0, #1, lsl #12; b 1b
    code = bytes.fromhex("010000f9" "00044091" "feffff17")
    address, program_counter = UC_ARM64_REG_X0, UC_ARM64_REG_PC

engine.ctl_tlb_mode(UC_TLB_VIRTUAL)
engine.mem_map(0, 0x10000)
engine.mem_write(0x1000, code)
granted = False


def fill(_engine, _address, access, entry, _data):
    global granted
    if access == UC_MEM_FETCH:
        entry.paddr = 0x1000
        entry.perms = UC_PROT_ALL
        return True
    if granted:
        granted = False
        entry.paddr = 0x2000
        entry.perms = UC_PROT_READ | UC_PROT_WRITE
        return True
    return False


engine.hook_add(UC_HOOK_TLB_FILL, fill)
engine.reg_write(address, 0x7F0000000000)
pc = CODE


def batch():
    global granted, pc
    begin = time.perf_counter_ns()
    for _ in range(rounds):
        try:
            engine.emu_start(pc, 0)
            sys.exit("the refused fill did not stop the engine")
        except UcError:
            pass
        pc = engine.reg_read(program_counter)
        granted = True
    return (time.perf_counter_ns() - begin) / rounds


batch()
results = []
deadline = time.perf_counter() + seconds
while not results or time.perf_counter() < deadline:
    results.append(batch())
print(statistics.median(results))
