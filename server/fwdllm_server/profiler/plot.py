"""Plot the loss of each candidate against the example-passes that forward gradients would take."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO

from fwdllm_common.errors import BadInputError
from fwdllm_server.profiler.report import Report

_MARKS = "osD^v<>pPX*h"
_DARKEST, _LIGHTEST = 0.0, 0.55


def require_plotting() -> None:
    """Check that matplotlib is installed.

    :raises BadInputError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise BadInputError("the plot needs matplotlib: pip install 'fwdllm[plot]', or leave out --out")


def plot(report: Report) -> bytes:
    """Return the plot as a PNG in greys. The legend is in the order of the lines' right ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    ordered = sorted(report.candidates, key=lambda candidate: -candidate.epochs[-1].loss)
    for index, candidate in enumerate(ordered):
        grey = str(_DARKEST + (_LIGHTEST - _DARKEST) * index / max(1, len(ordered) - 1))
        axes.plot(
            [epoch.passes for epoch in candidate.epochs],
            [epoch.loss for epoch in candidate.epochs],
            "-",
            color=grey,
            marker=_MARKS[index % len(_MARKS)],
            markerfacecolor=grey if index % 2 else "white",
            linewidth=1.4,
            markersize=6,
            label=f"{candidate.name} (d·f = {candidate.gradient_passes:.3g})",
        )
    axes.set(
        xscale="log",
        xlabel="example-passes of forward gradients, by the law",
        ylabel="loss on validation rows, nats",
        title=f"{report.settings.job}: {report.settings.rows} rows to train on, a mark after each epoch",
    )
    axes.grid(which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    image = BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
