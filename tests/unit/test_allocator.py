"""Large blocks keep going back to the system, whatever was freed before."""

import platform
import subprocess
import sys

import pytest

LOOK = """
import ctypes, sys
from facedetd import allocator
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in names]
libc.mallinfo2.restype = Mallinfo2
if sys.argv[1] == "steady":
    allocator.keep_steady()
libc.free(libc.malloc(1 << 20))
before = libc.mallinfo2().hblks
block = libc.malloc(1 << 20)
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc")
@pytest.mark.parametrize(("how", "mapped"), [("steady", 1), ("as it is", 0)])
def test_a_large_block_is_mapped_though_one_was_freed_before(how, mapped):
    done = subprocess.run([sys.executable, "-c", LOOK, how], capture_output=True, text=True, check=True)
    assert int(done.stdout) == mapped
