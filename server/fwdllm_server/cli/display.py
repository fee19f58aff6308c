"""Facts as they change: a live picture on a terminal, lines where something has changed elsewhere."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live


class Display:
    """A context manager; outside of a terminal it prints a line whenever what the line tells is new.

    :param whole_screen: take the whole terminal, and give it back at the end.
    """

    def __init__(self, console: Console, *, whole_screen: bool = False) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, screen=whole_screen) if console.is_terminal else None
        self._told: frozenset[Hashable] = frozenset()

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, picture: RenderableType, lines: Mapping[Hashable, str]) -> None:
        """Show what there is now, as a picture or as those of the ``lines`` whose keys were not there the last time."""
        if self._live:
            self._live.update(picture, refresh=True)
            return
        for key, line in lines.items():
            if key not in self._told:
                self._console.out(line, highlight=False)
        self._told = frozenset(lines)
