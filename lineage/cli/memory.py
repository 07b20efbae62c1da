"""Memory settings of the command line's processes. Imports no torch."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h
_MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Have glibc keep memory that a training step frees for the next step, as torch does on GPUs.

    Without this every step on a CPU returns its activations to the system and waits for new pages, a sixth of
    its time. The setting holds for the whole process, so it is the command line's alone: programs that import
    ``lineage`` keep theirs. Nothing is changed where the user has set glibc's thresholds, or without glibc.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _MALLOC_VARIABLES):
        return
    mallopt = ctypes.CDLL(None).mallopt
    if not mallopt(_M_MMAP_THRESHOLD, 1 << 30):
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the highest that an older glibc takes
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
