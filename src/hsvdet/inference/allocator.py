"""Memory of feature maps, kept between calls.

glibc maps every block over 32 MB anew and unmaps it when it is freed, so each large map of each call is memory the
system has to find and clear first: a twentieth of the time of a large network. ONNX Runtime keeps its own; PyTorch
on a CPU does not.
"""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # <malloc.h>


def keep_freed_memory() -> bool:
    """From now on this process keeps the memory it frees, for its next allocation; it stays as large as its peak.

    Whether that is so: with glibc, unless the environment sets its allocator (MALLOC_TRIM_THRESHOLD_,
    MALLOC_MMAP_THRESHOLD_, MALLOC_MMAP_MAX_, GLIBC_TUNABLES), whose word stands. Not to be undone.
    """
    chosen = any(name.startswith(("MALLOC_TRIM", "MALLOC_MMAP", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Nothing is mapped by itself, and the heap is not cut back.
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
