"""Render the report as a table for people."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fwdllm_server.profiler.report import CandidateReport, Report

HEADINGS = ("candidate", "d", "f", "d·f", "passes to target", "loss", "gain over the head")
"""Of :func:`cells`, after which the score's metric heads the last."""


def render(report: Report) -> RenderableType:
    """Render the candidates, the best first, with an explanation of the columns."""
    settings = report.settings
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right")
    for heading in (*HEADINGS, settings.metric):
        table.add_column(heading, justify="left" if heading == "candidate" else "right")
    for candidate in report.candidates:
        table.add_row(str(candidate.rank), *cells(candidate))
    notes = [
        f"{settings.epochs} epochs of {settings.rows} rows by exact gradients; loss and {settings.metric} are of the "
        f"best epoch on {settings.validation_rows} others",
        "d·f: passes for each row of a forward gradient as good as that",
        "target: the least loss and twice the standard error of its gain",
        *(f"left out: {name} ({reason})" for name, reason in report.left_out.items()),
    ]
    return Group(table, *map(Text, notes))


def cells(candidate: CandidateReport) -> list[str]:
    """Return the cells of a candidate's row, without its rank."""
    size = sum(block.coordinates for block in candidate.blocks.values())
    passes, gain = candidate.passes_to_target, candidate.gain
    return [
        candidate.name,
        f"{size:,}",
        f"{candidate.gradient_passes / size:.2g}",
        f"{candidate.gradient_passes:,.3g}" if candidate.gradient_passes < 100 else f"{candidate.gradient_passes:,.0f}",
        "-" if passes is None else f"{passes:,.0f}",
        f"{candidate.loss:.3f}",
        "-" if gain is None else f"{gain.mean:+.3f} ± {gain.error:.3f}",
        f"{candidate.score:.3f}",
    ]
