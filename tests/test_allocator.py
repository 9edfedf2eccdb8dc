import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# In a process of its own, as the settings last as long as the process. Counts the pages that are
# mapped anew when a large array is made for the second time.
SCRIPT = """
import resource, sys
import numpy as np
from nccleaner.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(64 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(64 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def printed_by(script: str, mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", script, mode],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout)


# Many blocks of 1 MB, of which every second is freed: gaps that only `malloc_trim` gives back.
GAPS = """
import sys
import numpy as np
from nccleaner.allocator import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
blocks = [np.ones(1 << 20, np.uint8) for _ in range(200)]
del blocks[::2]
if sys.argv[1] == "give back":
    give_back_freed_memory()
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again():
    assert printed_by(SCRIPT, "keep") * 10 < printed_by(SCRIPT, "default")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_gaps_are_given_back():
    assert printed_by(GAPS, "give back") < printed_by(GAPS, "keep") - 80_000  # kB
