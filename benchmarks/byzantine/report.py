"""The table and the figures, from what the runs found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.byzantine.runs import ATTACKS, DEFENCES, HONEST
from benchmarks.reporting import Figure, make_figure

GOAL_POINTS = 2.0
"""How many points of accuracy a fifth of liars may cost."""

Results = Mapping[str, Mapping[str, Any]]
"""What was found, by a run's name."""


def rows(results: Results) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Header and rows: an attack each, the mean accuracy over the seeds by defence."""
    header = ["a fifth of the devices sends", *(defence.title for defence in DEFENCES.values())]
    words = {
        HONEST: "what it measured",
        "flip": "that with the sign flipped",
        "flip-large": "the largest number against the sign",
        "large": "the largest number with any sign",
        "random": "random numbers as large as the measured",
        "constant": "1, always",
        "nan": "NaN",
    }
    return header, [
        [words.get(attack, attack), *(_percent(accuracy(results, defence, attack)) for defence in DEFENCES)]
        for attack in (HONEST, *ATTACKS)
    ]


def accuracy(results: Results, defence: str, attack: str) -> float | None:
    """Mean accuracy over the seeds; None if it was not run."""
    found = [value["accuracy"] for name, value in results.items() if name.startswith(f"{defence}.{attack}.")]
    return sum(found) / len(found) if found else None


def figures(results: Results) -> list[Figure]:
    """Points lost by each attack against the default job without one, and the most that any costs."""
    clean = accuracy(results, "clip", HONEST)
    lost = {attack: _lost(clean, accuracy(results, "clip", attack)) for attack in ATTACKS}
    undefended = {attack: _lost(clean, accuracy(results, "off", attack)) for attack in ATTACKS}
    known = [points for points in lost.values() if points is not None]
    return [
        make_figure(
            "byzantine_points_lost",
            max(known, default=None),
            "points of accuracy lost to 20 % of lying devices, worst attack",
            GOAL_POINTS,
        )
        | {"by_attack": lost, "peer": {"without a defence": undefended}}
    ]


def _lost(clean: float | None, attacked: float | None) -> float | None:
    return None if clean is None or attacked is None else round(100 * (clean - attacked), 2)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
