"""TLB fills through the Python binding of the engine's own wheel, with an empty callback.

The same loop as in tlb-fill.ts loads from one page after the other; the callback grants a constant. The TLB
is emptied before it comes again, and that is not timed. Usage: tlb_fill.py x86-64|arm64 PAGES SECONDS.
Prints nanoseconds per fill, the median of all batches.
"""
import statistics
import sys
import time

from unicorn import UC_ARCH_ARM64, UC_ARCH_X86, UC_CTL_IO_WRITE, UC_CTL_TLB_FLUSH, UC_HOOK_TLB_FILL
from unicorn import UC_MODE_64, UC_MODE_ARM, UC_PROT_ALL, UC_TLB_VIRTUAL, Uc
from unicorn.arm64_const import UC_ARM64_REG_X0, UC_ARM64_REG_X1, UC_ARM64_REG_X2, UC_CPU_ARM64_MAX
from unicorn.x86_const import UC_CPU_X86_BROADWELL, UC_X86_REG_RDI, UC_X86_REG_RDX, UC_X86_REG_RSI

CODE = 0x401000
FIRST = 0x7F0000000000
COUNT = 10_000_000  # more than it takes: a counted run, as the other side has it

arch, pages, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
if arch == "x86-64":
    engine = Uc(UC_ARCH_X86, UC_MODE_64)
    engine.ctl_set_cpu_model(UC_CPU_X86_BROADWELL)
    # 1: mov rax, [rdi]; add rdi, rdx; dec rsi; jnz 1b; hlt
    code = bytes.fromhex("488b07" "4801d7" "48ffce" "75f5" "f4")
    address, count, distance = UC_X86_REG_RDI, UC_X86_REG_RSI, UC_X86_REG_RDX
else:
    engine = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    engine.ctl_set_cpu_model(UC_CPU_ARM64_MAX)
    engine.ctl_set_page_size(4096)
    # 1: ldr x3, [x0]; add x0, x0, x2; subs x1, x1, #1; b.ne 1b; wfi
    code = bytes.fromhex("030040f9" "0000028b" "210400f1" "a1ffff54" "7f2003d5")
    address, count, distance = UC_ARM64_REG_X0, UC_ARM64_REG_X1, UC_ARM64_REG_X2

engine.ctl_tlb_mode(UC_TLB_VIRTUAL)
engine.mem_map(0, 0x10000)
engine.mem_write(0x1000, code)
engine.reg_write(distance, 4096)
asked = 0


def counting(_engine, _address, _access, entry, _data):
    global asked
    asked += 1
    entry.paddr = 0x1000
    entry.perms = UC_PROT_ALL
    return True


def empty(_engine, _address, _access, entry, _data):
    entry.paddr = 0x1000
    entry.perms = UC_PROT_ALL
    return True


def batch():
    engine.reg_write(address, FIRST)
    engine.reg_write(count, pages)
    begin = time.perf_counter_ns()
    engine.emu_start(CODE, 0, 0, COUNT)
    end = time.perf_counter_ns()
    if engine.reg_read(count) != 0:
        sys.exit(f"the loop stopped with {engine.reg_read(count)} pages left")
    engine.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)
    return (end - begin) / pages


hook = engine.hook_add(UC_HOOK_TLB_FILL, counting)
batch()
batch()
if asked < 2 * pages:
    sys.exit(f"the engine asked {asked} times for {2 * pages} pages")
engine.hook_del(hook)
engine.hook_add(UC_HOOK_TLB_FILL, empty)
batch()
results = []
deadline = time.perf_counter() + seconds
while not results or time.perf_counter() < deadline:
    results.append(batch())
print(statistics.median(results))
