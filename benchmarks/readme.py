"""Write README's figures from ``benchmarks/results``: ``make figures``. A test compares README with them.

``demo.json`` is ``demo-output/report.json`` of ``make demo`` in a fresh clone; ``--keep-demo FILE`` copies it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from math import floor
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.convergence.curves import load_all
from benchmarks.convergence.figures import Curves, final_accuracy, until
from benchmarks.environment import REPOSITORY
from benchmarks.markdown import table, write_results
from examples.demo.report import Report, lines

RESULTS = REPOSITORY / "benchmarks" / "results"
_KIB, _MIB = 1024, 1024 * 1024


def main() -> None:
    """Write every block of README anew."""
    parser = argparse.ArgumentParser(prog="make figures", description=__doc__)
    parser.add_argument("--keep-demo", type=Path, metavar="FILE", help="report.json of a run of make demo to keep")
    arguments = parser.parse_args()
    if arguments.keep_demo:
        keep_demo(arguments.keep_demo)
    write(REPOSITORY / "README.md")


def write(document: Path) -> None:
    """Write the blocks of ``document`` between their markers.

    :raises ValueError: a marker is missing.
    """
    for command, text in blocks():
        write_results(document, command, text)


def keep_demo(report: Path) -> None:
    """Keep a report of ``make demo``, without the path of its adapter."""
    values = json.loads(report.read_text(encoding="utf-8"))
    values.pop("adapter_dir", None)
    (RESULTS / "demo.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def blocks() -> Iterator[tuple[str, str]]:
    """Yield each block: the command whose results it shows, and its Markdown."""
    yield "make demo, its last lines", _last_lines(_read("demo"))
    yield "make demo", _demo(_read("demo"))
    yield "make bench-convergence", _convergence(Curves(load_all(RESULTS / "convergence")), _read("convergence"))
    yield "make bench-idle and make bench-device", _device(_read("idle"), _read("device"))


def _last_lines(report: dict[str, Any]) -> str:
    printed = lines(Report(**report, adapter_dir="…/demo-output/adapter"))
    return "\n".join(("```text", *printed, "```"))


def _demo(report: dict[str, Any]) -> str:
    per_scalar = report["bytes_up_per_device"] * 4 / report["directions"]
    rows = [
        (
            "held-out accuracy",
            f"{report['accuracy_before']:.1%} before, {report['accuracy_after']:.1%} after {report['rounds']} rounds; "
            f"ridge probe on frozen features with all data in one place: {report['probe_accuracy']:.1%}",
        ),
        (
            "sent by a device",
            f"{report['bytes_up_per_device'] / _KIB:,.0f} KiB, {per_scalar:.1f} bytes a scalar with all overhead",
        ),
        (
            "received by a device",
            f"{report['bytes_down_per_device'] / _KIB:,.0f} KiB of weights, seeds and acknowledgements; once "
            f"{report['model_bytes_per_device'] / _MIB:.0f} MiB of model",
        ),
        (
            "peak resident memory of an agent",
            f"{report['agent_peak_rss_bytes'] / _MIB:.0f} MiB with gRPC, TLS and the journal; a process that "
            f"only predicts with the same engine: {report['inference_peak_rss_bytes'] / _MIB:.0f} MiB",
        ),
    ]
    return "\n".join(table(("", ""), rows))


def _convergence(curves: Curves, results: dict[str, Any]) -> str:
    figures = {figure["name"]: figure for figure in results["figures"]}
    main = curves.main.name
    rows = [_passes(curves, figures, percent) for percent in (80, 85)]
    skewed = until(curves.of(main, "default", "dirichlet-0.1"), curves.main.goal)
    published = figures["noniid_slowdown_default"]["peer"]
    if skewed is not None:
        slower = figures["noniid_slowdown_default"]["by_population"]["dirichlet-0.1"]
        rows.append(
            (
                "the same, devices whose labels are skewed (Dirichlet 0.1)",
                f"{skewed.value:,.0f}",
                f"{slower:.2f} times those of devices alike; the paper reports {published['low']} to "
                f"{published['high']}",
            )
        )
    rows.append(_final(curves, main, "AG News"))
    int4 = final_accuracy(curves.of(main, "default-int4"))
    if int4 is not None:
        rows.append(("the same, frozen weights in int4 (one seed)", f"{int4:.1%}", ""))
    rows.append(_final(curves, curves.hard.name, "Yelp sentences"))
    spent = [f"{_passes_of_a_run(curves, task):,.0f}" for task in (main, curves.hard.name)]
    cached = "one for each row: the head's directions run on cached features"
    rows.append(("all example-passes of a run", " and ".join(spent), cached))
    return "\n".join(table(("", "the preset `layer-means-4096`", "beside it"), rows))


def _passes(curves: Curves, figures: dict[str, Any], percent: int) -> tuple[str, str, str]:
    figure = figures[f"passes_ratio_paper_over_default_{percent}"]
    own = until(curves.of(curves.main.name, "default"), percent / 100)
    peer = figure["peer"]["name"]
    spent = figure["peer"]["passes"][peer]["value"]
    if figure.get("bound"):
        beside = f"not in {spent:,}, at least {floor(figure['value']):,} times as many"
    else:
        beside = f"{spent:,}, {figure['value']:,.0f} times as many"
    passes = f"{own.value:,.0f}" if own else "–"
    return f"AG News, example-passes to {percent} %", passes, f"the paper's recipe (`{peer}`): {beside}"


def _passes_of_a_run(curves: Curves, task: str) -> float:
    return mean(curve.last.example_passes for curve in curves.of(task, "default"))


def _final(curves: Curves, task: str, name: str) -> tuple[str, str, str]:
    own = final_accuracy(curves.of(task, "default"))
    found = {label: final_accuracy(curves.of(task, method)) for method, label in _REFERENCES.items()}
    beside = ", ".join(f"{label} {value:.1%}" for label, value in found.items() if value)
    return f"{name}, final accuracy", f"{own:.1%}" if own else "–", beside


_REFERENCES = {
    "probe-ridge": "ridge probe",
    "probe-sgd": "SGD probe",
    "backprop-lora-fedsgd": "LoRA by backpropagation",
}


def _device(idle: dict[str, Any], device: dict[str, Any]) -> str:
    idle_figures = {figure["name"]: figure for figure in idle["figures"]}
    device_figures = {figure["name"]: figure for figure in device["figures"]}
    traffic, memory = idle_figures["idle_mb_per_day"], idle_figures["idle_rss_mb"]
    large = device_figures["rss_gb_roberta_large"]
    whole = f"backpropagation of all weights: {large['peer']['torch-full']:.1f} GB"
    rows = [
        (
            "an agent without work",
            f"{memory['value']:.0f} MB resident, {traffic['value']:.1f} MB a day both ways",
            f"Flower's SuperNode: {memory['peer']['flower']:.0f} MB, {traffic['peer']['flower']:.0f} MB a day",
        ),
        (
            "training RoBERTa-large in int4",
            f"{large['value']:.2f} GB resident at most",
            whole,
        ),
    ]
    return "\n".join(table(("", "measured", "beside it"), rows))


def _read(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


if __name__ == "__main__":
    main()
