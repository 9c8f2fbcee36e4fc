"""How this process keeps memory that it has freed."""

from __future__ import annotations

import ctypes
import functools
import sys


@functools.cache
def keep_freed_memory():
    """Tell glibc to keep freed memory instead of giving every large array back to the kernel.

    Networks and spectrograms allocate and free the same megabytes over and over; otherwise page faults are
    more than half the time of a training step on a CPU, and four fifths of a heatmap's. Holds for the whole
    process. Does nothing where the C library is not glibc.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 << 20)):  # MMAP_MAX, TRIM_THRESHOLD, TOP_PAD
                libc.mallopt(option, value)
