"""Ends what ONNX Runtime is at, from another thread: between two operators of a graph, or while one is loaded.

Of the whole process, since a device does one thing at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnxruntime


class RunEndedError(Exception):
    """A run of the model was ended before it had its outputs."""


class Interruption:
    """What runs and loads ask while they last; any thread may use it."""

    def __init__(self) -> None:
        self._run_options: Any = onnxruntime.RunOptions()
        self._loading: Sequence[Any] = ()

    @property
    def is_set(self) -> bool:
        """Whether everything is to end."""
        return bool(self._run_options.terminate)

    def set(self) -> None:
        """End what runs or loads now, and everything that begins before :meth:`clear`."""
        self._run_options.terminate = True
        for options in self._loading:
            options.set_load_cancellation_flag(True)

    def clear(self) -> None:
        """Let runs and loads be again."""
        self._run_options.terminate = False

    @property
    def run_options(self) -> Any:
        """For every run of a session."""
        return self._run_options

    @contextmanager
    def loading(self, options: Any) -> Iterator[None]:
        """What loads a session with these ``options`` goes inside."""
        self._loading = (*self._loading, options)
        try:
            if self.is_set:
                raise RunEndedError
            yield
        finally:
            self._loading = tuple(each for each in self._loading if each is not options)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Turn what ONNX Runtime raises inside into :class:`RunEndedError`, once it is set."""
        try:
            yield
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            if self.is_set:
                raise RunEndedError from error
            raise


INTERRUPTION = Interruption()
