"""Show changing facts: as a live picture on a terminal, and as lines elsewhere."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live


class Display:
    """A context manager that shows a live picture on a terminal. Elsewhere it prints each line once.

    :param whole_screen: use the terminal's alternate screen, and restore the terminal at the end.
    """

    def __init__(self, console: Console, *, whole_screen: bool = False) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, screen=whole_screen) if console.is_terminal else None
        self._shown: frozenset[Hashable] = frozenset()

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
        """Show the current state: ``picture`` on a terminal, elsewhere those ``lines`` whose keys are new."""
        if self._live:
            self._live.update(picture, refresh=True)
            return
        for key, line in lines.items():
            if key not in self._shown:
                self._console.out(line, highlight=False)
        self._shown = frozenset(lines)
