"""Tables of results, and their place in a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as Markdown that is aligned for terminals too, line by line."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"

    return [line(header), f"|{'|'.join('-' * (width + 2) for width in widths)}|", *map(line, rows)]


def write_results(path: Path, command: str, text: str) -> None:
    """Put ``text`` between the markers of a document for ``command``; the document is begun if it is not there.

    :raises ValueError: it is there without its markers.
    """
    begin, end = (f"<!-- results of {command}: {what} -->" for what in ("begin", "end"))
    document = path.read_text(encoding="utf-8") if path.exists() else f"{begin}\n{end}\n"
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{path} has lost the line {begin!r} or {end!r}")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
