"""Pace steering on a fleet that grows to a million devices, with an outage: ``make bench-pacing``.

Every window comes from the coordinator's own function (:class:`fwdllm_server.rpc.pace.Pace`), every wait after a failed
call from the agent's bounds. A second is one step: who calls in it is answered, in random order, up to the
coordinator's capacity; the others' calls fail.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import REPOSITORY, environment
from benchmarks.reporting import Figure, make_figure, print_figures
from fwdllm_client.connection.retry import BASE_S, CAP_S
from fwdllm_server.config.server_config import CheckInSection
from fwdllm_server.rpc.pace import Pace

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Scene:
    """A fleet and what happens to it; times are seconds, ``capacity`` answers a second."""

    devices: int = 1_000_000
    rate: float = 500.0
    capacity: int = 2000
    grown_at: int = 3 * 3600
    outage: tuple[int, int] = (4 * 3600, 4 * 3600 + 1800)
    end: int = 7 * 3600


QUICK = Scene(devices=20_000, rate=50.0, capacity=200, grown_at=1080, outage=(1440, 1620), end=2520)


@dataclass(frozen=True)
class Traffic:
    """By second: devices in the fleet, calls tried, calls answered."""

    fleet: Counts
    tried: Counts
    answered: Counts


def simulate(scene: Scene, seed: int = 7) -> Traffic:
    """Simulate the whole scene; the coordinator loses its calendar in the outage."""
    random = np.random.default_rng(seed)
    window = CheckInSection()
    least_s, most_s = window.idle_min_ms / 1000, window.idle_max_ms / 1000
    fleet = np.minimum(np.arange(scene.end) / scene.grown_at, 1.0) * scene.devices
    fleet = np.floor(fleet).astype(np.int64)
    newcomers = np.diff(fleet, prepend=0)
    tried, answered = np.zeros(scene.end, np.int64), np.zeros(scene.end, np.int64)
    due: dict[int, list[Counts]] = defaultdict(list)  # failures so far of those who call in a second
    pace = Pace(scene.rate)
    for now in range(scene.end):
        callers = np.concatenate([*due.pop(now, []), np.zeros(newcomers[now], np.int64)])
        random.shuffle(callers)
        if now == scene.outage[0]:
            pace = Pace(scene.rate)
        down = scene.outage[0] <= now < scene.outage[1]
        served = 0 if down else min(len(callers), scene.capacity)
        tried[now], answered[now] = len(callers), served
        windows = np.array([pace.window(now, least_s, most_s) for _ in range(served)]).reshape(-1, 2)
        failures = callers[served:]
        waits = np.concatenate(
            [
                random.uniform(windows[:, 0], windows[:, 1]),
                random.uniform(0, np.minimum(CAP_S, BASE_S * 2.0 ** np.minimum(failures, 20))),
            ]
        )
        _plan(due, now + 1 + waits.astype(np.int64), np.concatenate([np.zeros(served, np.int64), failures + 1]))
    return Traffic(fleet, tried, answered)


def _plan(due: dict[int, list[Counts]], at: Counts, failures: Counts) -> None:
    if not len(at):
        return
    order = np.argsort(at, kind="stable")
    moments, starts = np.unique(at[order], return_index=True)
    for moment, group in zip(moments.tolist(), np.split(failures[order], starts[1:]), strict=True):
        due[moment].append(group)


def figures(scene: Scene, traffic: Traffic) -> list[Figure]:
    """Return the figures of the curves; rates are means over a minute, relative to the target."""
    minute = np.convolve(traffic.answered, np.ones(60) / 60, "valid") / scene.rate
    before, back = scene.outage
    full = round(scene.devices / scene.rate)
    late = minute[back + 2 * full : scene.end]
    failed = np.flatnonzero((traffic.tried > traffic.answered)[back:])
    return [
        make_figure("highest_rate_growing", round(float(minute[:before].max()), 3), "of the target", 1.3),
        make_figure("mean_rate_grown", round(float(minute[scene.grown_at : before].mean()), 3), "of the target", 1.0),
        make_figure("highest_rate_after_outage", round(float(late.max()), 3), "of the target", 1.3),
        make_figure("refused_until_after_outage", float(failed.max(initial=-1) + 1), "s", 1200),
    ]


def plot(scene: Scene, traffic: Traffic, path: Path) -> None:
    """Rates over the hours, in minutes' means, as a PNG."""
    from matplotlib.figure import Figure as Drawing

    window = CheckInSection()
    fixed = traffic.fleet / ((window.idle_min_ms + window.idle_max_ms) / 2000)
    hours = np.arange(scene.end) / 3600
    drawing = Drawing(figsize=(9, 5), layout="constrained")
    axes = drawing.add_subplot()
    for rates, style, label in (
        (fixed, "0.6", f"windows of {window.idle_min_ms // 1000} to {window.idle_max_ms // 1000} s (computed)"),
        (traffic.tried, "C1", "calls tried"),
        (traffic.answered, "C0", "check-ins answered"),
    ):
        axes.plot(hours, np.convolve(rates, np.ones(60) / 60, "same"), color=style, label=label, linewidth=1.3)
    axes.axhline(scene.rate, color="0.3", linestyle="--", linewidth=0.8, label=f"target: {scene.rate:g} a second")
    axes.axvspan(scene.outage[0] / 3600, scene.outage[1] / 3600, color="0.92", label="outage")
    axes.set(xlabel="hours", ylabel="calls a second", yscale="log", ylim=(scene.rate / 50, None))
    axes.set_title(f"a fleet that grows to {scene.devices:,} devices in {scene.grown_at / 3600:g} hours")
    axes.grid(which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(loc="outside lower center", frameon=False, fontsize="small", ncols=3)
    drawing.savefig(path, format="png", dpi=110)


def main() -> None:
    """Simulate, draw, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small fleet, a short time")
    parser.add_argument("--output", type=Path, help="where to put picture and figures instead of the repository")
    arguments = parser.parse_args()
    scene = QUICK if arguments.quick else Scene()
    folder = arguments.output or (REPOSITORY / "benchmark-output" if arguments.quick else None)
    results, images = (folder, folder) if folder else (REPOSITORY / "benchmarks/results", REPOSITORY / "docs/images")
    results.mkdir(parents=True, exist_ok=True)
    traffic = simulate(scene)
    found = figures(scene, traffic)
    plot(scene, traffic, images / "pacing.png")
    value = {"environment": environment(), "scene": asdict(scene), "figures": found}
    (results / "pacing.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    print_figures(found)


if __name__ == "__main__":
    main()
