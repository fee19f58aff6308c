"""What is going to happen, and when."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from math import inf
from typing import Literal, NamedTuple

Kind = Literal["fetch", "report", "return"]


class Event(NamedTuple):
    """Something that happens at a simulated time, seconds since 1970; of two at once the one that was planned first."""

    at: float
    number: int
    kind: Kind
    assignment_id: str


class Timeline:
    """Events in the order in which they happen."""

    def __init__(self, events: Iterable[Event] = (), next_number: int = 0) -> None:
        self._events = sorted(events)
        self.next_number = next_number

    @property
    def events(self) -> list[Event]:
        """All that is planned."""
        return sorted(self._events)

    @property
    def next_at(self) -> float:
        """When the next event happens; infinity if nothing is planned."""
        return self._events[0].at if self._events else inf

    def plan(self, at: float, kind: Kind, assignment_id: str) -> None:
        """Something will happen."""
        heapq.heappush(self._events, Event(at, self.next_number, kind, assignment_id))
        self.next_number += 1

    def take(self) -> Event:
        """The next event, which is planned no more."""
        return heapq.heappop(self._events)
