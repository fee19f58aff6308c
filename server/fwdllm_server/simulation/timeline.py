"""The queue of simulated events."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from math import inf
from typing import Literal, NamedTuple

Kind = Literal["fetch", "report", "return"]


class Event(NamedTuple):
    """An event at a simulated time, seconds since 1970. Simultaneous events occur in the order of planning."""

    at: float
    number: int
    kind: Kind
    assignment_id: str


class Timeline:
    """Planned events, by ascending time."""

    def __init__(self, events: Iterable[Event] = (), next_number: int = 0) -> None:
        self._events = sorted(events)
        self.next_number = next_number

    @property
    def events(self) -> list[Event]:
        """All planned events, by ascending time."""
        return sorted(self._events)

    @property
    def next_at(self) -> float:
        """The time of the next event; infinity if none is planned."""
        return self._events[0].at if self._events else inf

    def plan(self, at: float, kind: Kind, assignment_id: str) -> None:
        """Plan an event at a simulated time, seconds since 1970."""
        heapq.heappush(self._events, Event(at, self.next_number, kind, assignment_id))
        self.next_number += 1

    def take(self) -> Event:
        """Remove the next event and return it."""
        return heapq.heappop(self._events)
