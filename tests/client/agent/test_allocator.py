"""Memory that loading a model took goes back to the system."""

import subprocess
import sys

import pytest

_FREED = """
import ctypes, sys
from fwdllm_client.agent.allocator import return_freed_memory_to_system
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def anonymous_kb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def block():
    found = libc.malloc(4 << 20)
    ctypes.memset(found, 1, 4 << 20)
    return found

if sys.argv[1] == "given":
    return_freed_memory_to_system()
libc.free(block())  # after which glibc by itself takes blocks of this size from the heap
before = anonymous_kb()
blocks, last = [block() for _ in range(8)], libc.malloc(64 << 10)
for each in blocks:
    libc.free(each)
print(anonymous_kb() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_is_freed_below_what_is_kept_goes_back():
    kept, given = (
        int(subprocess.run([sys.executable, "-c", _FREED, how], capture_output=True, check=True, text=True).stdout)
        for how in ("kept", "given")
    )
    assert kept > 20_000
    assert given < 2_000
