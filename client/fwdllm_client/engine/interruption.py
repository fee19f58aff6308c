"""Interruption of ONNX Runtime from another thread, between two operators of a graph or during loading.

It applies to the whole process, because a device does one assignment at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnxruntime


class RunEndedError(Exception):
    """A run of the model was ended before it returned its outputs."""


class Interruption:
    """The flag that runs and loads check; any thread may use it."""

    def __init__(self) -> None:
        self._run_options: Any = onnxruntime.RunOptions()
        self._loading: Sequence[Any] = ()

    @property
    def is_set(self) -> bool:
        """Whether runs and loads are to end."""
        return bool(self._run_options.terminate)

    def set(self) -> None:
        """End all present runs and loads, and those that begin before :meth:`clear`."""
        self._run_options.terminate = True
        for options in self._loading:
            options.set_load_cancellation_flag(True)

    def clear(self) -> None:
        """Allow runs and loads again."""
        self._run_options.terminate = False

    @property
    def run_options(self) -> Any:
        """The run options, to be passed to every run of a session."""
        return self._run_options

    @contextmanager
    def loading(self, options: Any) -> Iterator[None]:
        """Make the loading of a session with these ``options`` inside interruptible."""
        self._loading = (*self._loading, options)
        try:
            if self.is_set:
                raise RunEndedError
            yield
        finally:
            self._loading = tuple(each for each in self._loading if each is not options)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Turn ONNX Runtime's exceptions inside into :class:`RunEndedError` if the flag is set."""
        try:
            yield
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            if self.is_set:
                raise RunEndedError from error
            raise


INTERRUPTION = Interruption()
