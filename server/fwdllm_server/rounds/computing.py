"""Run long computations between two transactions instead of inside one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class ComputationDue(Exception):  # noqa: N818 - not an error: the step is repeated
    """Raised inside a step's transaction to roll it back. Call :meth:`compute`, then repeat the step."""

    def __init__(self, desk: Desk, key: Hashable, function: Callable[[], object]) -> None:
        super().__init__(key)
        self._desk = desk
        self._key = key
        self._function = function

    def compute(self) -> None:
        """Run the computation, in any thread."""
        self._desk.keep(self._key, self._function())


class Desk:
    """The last computed result of one job."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._result: Any = None

    def keep(self, key: Hashable, result: object) -> None:
        """Store the result of ``key`` in place of the last one."""
        self._result = result
        self._key = key

    def result(self, key: Hashable, function: Callable[[], T], defer: bool) -> T:
        """Return the stored result of ``key``, or call ``function`` for it.

        :raises ComputationDue: the result is not stored and ``defer`` is set.
        """
        if key == self._key:
            found: T = self._result
            return found
        if defer:
            raise ComputationDue(self, key, function)
        return function()
