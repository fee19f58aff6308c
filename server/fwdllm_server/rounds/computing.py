"""Computing beside the store: what takes long happens between two transactions and not inside one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class ComputationDue(Exception):  # noqa: N818 - no error: a step that has to begin again
    """Raised inside a step's transaction, which is undone: :meth:`compute` first, and then begin again."""

    def __init__(self, desk: Desk, key: Hashable, function: Callable[[], object]) -> None:
        super().__init__(key)
        self._desk = desk
        self._key = key
        self._function = function

    def compute(self) -> None:
        """Do the computation, in any thread."""
        self._desk.keep(self._key, self._function())


class Desk:
    """One job's last result; the steps of its rounds come for it one after the other."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._result: Any = None

    def keep(self, key: Hashable, result: object) -> None:
        """Have the result of ``key`` ready, and forget any other."""
        self._result = result
        self._key = key

    def result(self, key: Hashable, function: Callable[[], T], defer: bool) -> T:
        """What ``function`` returned for ``key``, or returns now unless that is to be deferred.

        :raises ComputationDue: it is.
        """
        if key == self._key:
            found: T = self._result
            return found
        if defer:
            raise ComputationDue(self, key, function)
        return function()
