"""Tune the C library's memory allocator. Opt-in: importing or using the library never does it by itself."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

# glibc's options with their numbers for mallopt(3); it also reads them from the environment, as MALLOC_..._.
_OPTIONS = {"MMAP_MAX": (-4, 0), "TRIM_THRESHOLD": (-1, 2**31 - 1), "TOP_PAD": (-2, 256 << 20)}


@functools.cache
def tune_malloc():
    """Have glibc keep freed memory in this process, and in processes that it starts, instead of returning it to the system.

    Networks and spectrograms allocate and free the same megabytes over and over; page faults are then more than half
    the time of a training step on a CPU, and four fifths of a heatmap's. The process keeps its largest amount of memory
    until it ends. Does nothing where the C library is not glibc. All chapters use it; the page on speed measures it.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            for name, (option, value) in _OPTIONS.items():
                libc.mallopt(option, value)
                os.environ[f"MALLOC_{name}_"] = str(value)
