"""Memory of a process that holds thousands of connections."""

from __future__ import annotations

import ctypes

_M_TOP_PAD, _M_MMAP_THRESHOLD = -2, -3  # glibc's malloc.h
_THRESHOLD_BYTES = 8000


def give_buffers_pages_of_their_own() -> None:
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
