"""Drawing devices: those that have worked least today, and among equals any with the same probability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from heapq import nsmallest


def draw(devices: Iterable[str], size: int, worked: Mapping[str, int], draw_key: str) -> list[str]:
    """``size`` of the ``devices`` (all, if there are fewer), in a fixed order.

    A reservoir: each device has a number of its own in the draw of this key, and the smallest are taken. So the sample
    is uniform among those that have ``worked`` equally often, whatever the order in which they came, and a coordinator
    that dies and draws again draws the same.
    """
    return sorted(nsmallest(size, devices, key=lambda device: (worked.get(device, 0), lot(device, draw_key))))


def lot(device: str, draw_key: str) -> bytes:
    """The device's number in a draw, 8 uniform bytes."""
    return blake2b(f"{draw_key}/{device}".encode(), digest_size=8).digest()
