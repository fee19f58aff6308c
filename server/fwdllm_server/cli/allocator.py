"""Settings of malloc and of the garbage collector for a process with thousands of connections."""

from __future__ import annotations

import ctypes
import gc

_M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -2, -3, -8  # glibc's malloc.h
_THRESHOLD_BYTES = 8000


def allocate_buffers_separately() -> None:
    """Set malloc's threshold so that it maps each block of 8 KB or more separately. Only glibc supports this.

    gRPC and TLS hold five buffers of 8 to 17 KB for each connection. Those of an idle device are nearly empty. A buffer
    from the heap reuses pages that were written before, so that all of it is resident. Of a fresh mapping, only the
    pages in use are resident.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
    mallopt(_M_TOP_PAD, 0)
    mallopt(_M_ARENA_MAX, 1)  # an arena of each thread would keep the memory that handshakes freed


def collect_garbage_less_often() -> None:
    """Exclude the existing objects from garbage collection, and collect the others less often.

    A call creates no reference cycles. With the default thresholds, the collector takes a tenth of the time of each
    call, because it also visits the objects that the imports created.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
