"""An assignment in a simulated device's hands: when each of its scalars is there, and when it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.counts import Counts
from fwdllm_common.protocol import MAX_PACKED_PER_REPORT, MAX_SCALARS_PER_REPORT

GROUP_S = 0.5
"""As in the agent: scalars wait about this long, seconds, for others to share a message with."""


class Stretch(NamedTuple):
    """Directions that cost the same: ``before`` the first one, ``each``, in example-passes, and how many they are.

    Their scalars may be ``packed``.
    """

    before: float
    each: float
    directions: int
    packed: bool = False


class Message(NamedTuple):
    """The scalars ``[first, end)`` of an assignment: what they cost and when they are sent, seconds after its start."""

    first: int
    end: int
    seconds: float
    example_passes: float
    sent_at: float
    packed: bool = False


@dataclass
class Work:
    """One assignment from its start, in simulated seconds since 1970, to its last message.

    Nothing is begun ``closes_s`` seconds after the start or later, nothing is sent ``vanishes_s`` seconds after it.
    ``evaluation`` is what a federated evaluation found. The scalars before ``next_index`` are sent;
    where ``feature_sums`` are asked for, they stand for a single one. ``masked`` scalars are sent all together.
    """

    assignment_id: str
    device_id: str
    started: float
    passes_per_s: float
    stretches: Sequence[Stretch]
    closes_s: float
    vanishes_s: float | None
    evaluation: Counts | None
    feature_sums: bool = False
    masked: bool = False
    next_index: int = 0

    @property
    def next_message(self) -> Message | None:
        """What the device sends next; None when nothing more comes from it."""
        if self.finished:
            return None
        first, seconds = self.next_index, self._seconds
        if self.masked:
            is_whole = self.sendable == len(seconds)
            return Message(0, len(seconds), self.total_s, float(self._passes[-1]), self.total_s) if is_whole else None
        opened = float(seconds[first - 1]) if first else 0.0
        full = int(np.searchsorted(seconds, opened + GROUP_S)) + 1
        packed, stretch_end = self._stretch_at(first)
        most = MAX_PACKED_PER_REPORT if packed else MAX_SCALARS_PER_REPORT
        end = min(full, first + most, stretch_end, self._begun)
        sent_at = float(seconds[end - 1])
        if self.vanishes_s is not None and sent_at > self.vanishes_s:
            return None
        passes = float(self._passes[end - 1]) - (float(self._passes[first - 1]) if first else 0.0)
        return Message(first, end, sent_at - opened, passes, sent_at, packed)

    def _stretch_at(self, index: int) -> tuple[bool, int]:
        """Whether this scalar is packed, and the end of those that it may share a message with."""
        single = sum(part.directions for part in self.stretches if not part.packed)  # they come first
        if index < single:
            return False, single
        ends = accumulate((part.directions for part in self.stretches if part.packed), initial=single)
        return True, next((end for end in ends if index < end), index)

    @property
    def finished(self) -> bool:
        """Whether the device has sent all that it computes before the round closes."""
        return self.next_index >= self._begun

    @property
    def sendable(self) -> int:
        """How many scalars there are before the device stops or vanishes."""
        if self.vanishes_s is None:
            return self._begun
        return min(self._begun, int(np.searchsorted(self._seconds, self.vanishes_s, side="right")))

    @property
    def total_s(self) -> float:
        """Seconds that all of it takes."""
        return float(self._seconds[-1])

    @cached_property
    def _passes(self) -> NDArray[np.float64]:
        """Example-passes spent when a scalar is there."""
        costs = np.concatenate([np.full(part.directions, part.each) for part in self.stretches])
        first = 0
        for part in self.stretches:
            costs[first] += part.before
            first += part.directions
        return np.cumsum(costs)

    @cached_property
    def _seconds(self) -> NDArray[np.float64]:
        return self._passes / self.passes_per_s

    @property
    def _begun(self) -> int:
        """How many scalars are computed by a device that looks at the clock before each."""
        if self.closes_s <= 0:
            return 0
        return min(len(self._seconds), int(np.searchsorted(self._seconds, self.closes_s)) + 1)

    def to_json(self) -> dict[str, Any]:
        """Return the work as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Work:
        """Return the inverse of :meth:`to_json`."""
        evaluation = value["evaluation"] and Counts(*value["evaluation"])
        return cls(**{**value, "stretches": [Stretch(*part) for part in value["stretches"]], "evaluation": evaluation})
