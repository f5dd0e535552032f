"""The bare miss-stop-restart loop through the Python binding of the engine's own wheel.

Guest code stores to one page after the other. Each page is refused once: the engine stops, the same
instruction is started again, the fill is granted and the code runs on to the next page. Nothing else
happens. Prints nanoseconds per round, the median of several batches.
"""
import statistics
import sys
import time

from unicorn import UC_ARCH_X86, UC_HOOK_TLB_FILL, UC_MEM_FETCH, UC_MODE_64, UC_PROT_ALL
from unicorn import UC_PROT_READ, UC_PROT_WRITE, UC_TLB_VIRTUAL, Uc, UcError
from unicorn.x86_const import UC_X86_REG_RDI, UC_X86_REG_RIP

BATCHES = 7
ROUNDS = 5000
CODE = 0x401000

engine = Uc(UC_ARCH_X86, UC_MODE_64)
engine.ctl_tlb_mode(UC_TLB_VIRTUAL)
engine.mem_map(0, 0x10000)
engine.mem_write(0x1000, bytes.fromhex("488907" "4881c700100000" "ebf4"))  # 1: mov [rdi], rax; add rdi, 4096; jmp 1b
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
engine.reg_write(UC_X86_REG_RDI, 0x7F0000000000)
pc = CODE
results = []
for _ in range(BATCHES):
    begin = time.perf_counter_ns()
    for _ in range(ROUNDS):
        try:
            engine.emu_start(pc, 0)
            sys.exit("the refused fill did not stop the engine")
        except UcError:
            pass
        pc = engine.reg_read(UC_X86_REG_RIP)
        granted = True
    results.append((time.perf_counter_ns() - begin) / ROUNDS)
print(round(statistics.median(results)))
