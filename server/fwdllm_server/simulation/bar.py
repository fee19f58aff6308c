"""Show on standard error how far a simulation is, and how long the rest takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def round_bar(rounds: int, done: int, shown: bool = True) -> Iterator[Callable[[int, str], None]]:
    """Yield a function that is told each new version and what to say beside the bar.

    Nothing is shown where standard error is neither a terminal nor a notebook with ipywidgets.

    :param done: the version that the simulation continues from.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("round"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
    visible = shown and (in_notebook or (console.is_terminal and not console.is_jupyter))
    piped = not sys.stdout.isatty()  # its lines are not for this console then
    with Progress(
        *columns, console=console, transient=True, disable=not visible, redirect_stdout=not piped
    ) as progress:
        task = progress.add_task("", total=rounds, completed=done)
        yield lambda version, said: progress.update(task, completed=version, description=said)
