"""Plot the cosine of forward and true gradient against directions, for each candidate, with its expected value."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO

import numpy as np

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
    ordered = sorted(report.candidates, key=lambda candidate: -candidate.similarities[-1].cosine)
    for index, candidate in enumerate(ordered):
        counts = np.array([each.directions for each in candidate.similarities])
        cosines = np.array([each.cosine for each in candidate.similarities])
        laws = np.array([each.law for each in candidate.similarities])
        grey = str(_DARKEST + (_LIGHTEST - _DARKEST) * index / max(1, len(ordered) - 1))
        axes.plot(counts, laws, "--", color=grey, linewidth=0.8)
        axes.plot(
            counts,
            np.where(cosines > 0, cosines, np.nan),
            "-",
            color=grey,
            marker=_MARKS[index % len(_MARKS)],
            markerfacecolor=grey if index % 2 else "white",
            linewidth=1.4,
            markersize=6,
            label=f"{candidate.name} (d = {candidate.coordinates})",
        )
    axes.plot([], [], "--", color="0.3", linewidth=0.8, label="√(K/(K + d))")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="directions K",
        ylabel="cosine of forward and true gradient",
        title=f"{report.settings.job}: {report.settings.rows} rows, mean over disjoint groups",
    )
    axes.grid(which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    image = BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
