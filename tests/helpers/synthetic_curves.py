"""Curves of the convergence benchmark with round numbers."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.convergence.curves import Curve, Final, Point


def curve(
    method: str,
    points: Sequence[tuple[float, float]],
    *,
    task: str = "ag_news",
    population: str = "iid",
    seed: int = 1,
    final: float | None = None,
    rounds: int | None = None,
) -> Curve:
    """``points`` are example-passes and accuracy, a round each; complete if there is a ``final`` accuracy."""
    return Curve(
        task,
        method,
        population,
        seed,
        devices=10,
        rounds=rounds or len(points) - 1,
        complete=final is not None,
        points=tuple(
            Point(
                version, accuracy, 1.0, passes, bytes_up=40 * version, bytes_down=60 * version, cpu_seconds=passes / 10
            )
            for version, (passes, accuracy) in enumerate(points)
        ),
        final=None if final is None else Final(final, 0.5, 7600),
        made={"recipe": {"of": method}},
    )
