"""Render the report as a table for people."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fwdllm_server.profiler.report import CandidateReport, Report, SimilarityReport
from fwdllm_server.profiler.scalars import PARTS

_HEADINGS = (
    "candidate",
    "d",
    "ms/dir",
    "passes/dir",
    "cosine",
    "law",
    "‖g‖²",
    "K",
    "drop",
    "drop/s",
    "drop/pass",
    "check",
    "kB",
)


def render(report: Report) -> RenderableType:
    """Render the candidates, the best first, with an explanation of the columns."""
    compared, settings = _compared(report.candidates[0]), report.settings
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading == "candidate" else "right")
    for candidate in report.candidates:
        table.add_row(str(candidate.rank), *cells(candidate))
    notes = [
        f"{settings.rows} rows; cosine of forward and true gradient at {compared.directions} directions, mean and "
        f"standard deviation of {compared.groups} groups; its law is √(K/(K + d))",
        f"K directions fit into {report.budget_seconds:.3g} s; drop: expected decrease of the loss with them; kB: sent "
        "and received; check: measured over expected drop",
        *(f"left out: {name} ({reason})" for name, reason in report.left_out.items()),
    ]
    return Group(table, *map(Text, notes))


def cells(candidate: CandidateReport) -> list[str]:
    """Return the cells of a candidate's row, without its rank."""
    compared, budget = _compared(candidate), candidate.at_budget
    drop = budget.drop
    drops = ["-", "-", "-"]
    if drop is not None:
        drops = [f"{drop.expected:.2g} ± {drop.error:.1g}", f"{drop.per_second:.2g}", f"{drop.per_pass:.2g}"]
    return [
        candidate.name,
        f"{candidate.coordinates}",
        f"{1e3 * candidate.seconds_per_direction:.3g}",
        f"{candidate.passes_per_direction:.3g}",
        f"{compared.cosine:.3f} ± {compared.std or 0:.3f}",
        f"{compared.law:.3f}",
        f"{candidate.gradient_norm**2:.2g}",
        f"{budget.directions}",
        *drops,
        "-" if candidate.check is None else f"{candidate.check:.2f}",
        f"{(budget.bytes_up + budget.bytes_down) / 1000:.1f}",
    ]


def _compared(candidate: CandidateReport) -> SimilarityReport:
    """Return the similarity with the most directions for which there are :data:`PARTS` groups."""
    return [each for each in candidate.similarities if each.groups >= PARTS][-1]
