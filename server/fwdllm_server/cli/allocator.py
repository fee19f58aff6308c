"""Memory of a process that holds thousands of connections."""

from __future__ import annotations

import ctypes
import gc

_M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -2, -3, -8  # glibc's malloc.h
_THRESHOLD_BYTES = 8000


def allocate_buffers_separately() -> None:
    """Let malloc take blocks of 8 KB and more from the system one by one, where the C library can (glibc).

    gRPC and TLS hold five buffers of 8 to 17 KB for each connection, and an idle device's are nearly empty. From the
    heap they are made of what others have written to, and resident as a whole; as fresh pages only what is used counts.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
    mallopt(_M_TOP_PAD, 0)
    mallopt(_M_ARENA_MAX, 1)  # each thread's own would keep what handshakes have left of it


def collect_garbage_less_often() -> None:
    """Let Python's collector of cycles leave alone what there is now, and look at the rest less often.

    A call leaves no cycles behind; looking for them after every few hundred new objects, and now and then among the
    hundred thousands of the imports, took a tenth of each.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
