"""Draw devices: those with the least work today first, and uniformly among devices with equal work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from heapq import nsmallest


def draw(devices: Iterable[str], size: int, worked: Mapping[str, int], draw_key: str) -> list[str]:
    """Draw ``size`` of the ``devices`` (all if there are fewer), in sorted order.

    Each device has a pseudorandom number for ``draw_key``, and the smallest are drawn. The sample is uniform among
    devices with equal values of ``worked`` (assignments today), and does not depend on the order of ``devices``. A
    coordinator that is restarted draws the same devices.
    """
    return sorted(nsmallest(size, devices, key=lambda device: (worked.get(device, 0), draw_number(device, draw_key))))


def draw_number(device: str, draw_key: str) -> bytes:
    """Return a device's pseudorandom number in a draw: 8 uniform bytes."""
    return blake2b(f"{draw_key}/{device}".encode(), digest_size=8).digest()
