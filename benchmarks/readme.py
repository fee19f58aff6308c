"""Write README's figures and the profiler's example from ``benchmarks/results``: ``make figures``. Tests compare them.

``demo.json`` is ``demo-output/report.json`` of ``make demo`` in a fresh clone; ``--keep-demo FILE`` copies it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from math import floor
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.convergence.curves import Curve, load_all
from benchmarks.convergence.figures import Curves, final_accuracy, until
from benchmarks.environment import REPOSITORY
from benchmarks.markdown import table, write_results
from examples.demo.report import Report as Demo
from examples.demo.report import lines
from fwdllm_server.profiler.report import Report
from fwdllm_server.profiler.table import HEADINGS, cells

RESULTS = REPOSITORY / "benchmarks" / "results"
PROFILE = "fwdllm-server profile"
_KIB, _MIB = 1024, 1024 * 1024


def main() -> None:
    """Write every block anew."""
    parser = argparse.ArgumentParser(prog="make figures", description=__doc__)
    parser.add_argument("--keep-demo", type=Path, metavar="FILE", help="report.json of a run of make demo to keep")
    arguments = parser.parse_args()
    if arguments.keep_demo:
        keep_demo(arguments.keep_demo)
    write(REPOSITORY / "README.md")
    write_results(REPOSITORY / "docs" / "profiler.md", PROFILE, profile_table(_read("profile")))


def write(document: Path) -> None:
    """Write the blocks of ``document`` between their markers.

    :raises ValueError: a marker is missing.
    """
    for command, text in blocks():
        write_results(document, command, text)


def profile_table(report: dict[str, Any]) -> str:
    """Return the candidates of a report of ``fwdllm-server profile`` as Markdown."""
    found = Report.model_validate(report)
    rows = [[str(each.rank), *cells(each)] for each in found.candidates]
    return "\n".join(table(("", *HEADINGS, found.settings.metric), rows))


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
    printed = lines(Demo(**report, adapter_dir="…/demo-output/adapter"))
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
    main, hard = curves.main.name, curves.hard.name
    rows = [_passes(curves, figures, percent) for percent in (80, 85)]
    published = figures["noniid_slowdown_default"]["peer"]
    skewed = {method: until(curves.of(main, method, "dirichlet-0.1"), curves.main.goal) for method in _OWN}
    alike = {method: until(curves.of(main, method), curves.main.goal) for method in _OWN}
    slower = [
        f"`{method}`: {spent.value / own.value:.2f} times those of devices alike"
        for method in _OWN
        if (spent := skewed[method]) is not None and (own := alike[method]) is not None
    ]
    rows.append(
        (
            "the same, devices whose labels are skewed (Dirichlet 0.1)",
            *(f"{spent.value:,.0f}" if spent else "–" for spent in skewed.values()),
            "; ".join([*slower, f"the paper reports {published['low']} to {published['high']}"]),
        )
    )
    rows += [_final(curves, main, "AG News"), _final(curves, hard, "Yelp sentences"), _bytes(curves)]
    totals = [_mean_of(curves, main, method, lambda curve: curve.last.example_passes) for method in _OWN]
    cached = "one for each row and what the head's directions cost on cached features"
    rows.append(("AG News, all example-passes of a run", *totals, cached))
    return "\n".join(table(("", *(f"`{method}`" for method in _OWN), "beside it"), rows))


def _passes(curves: Curves, figures: dict[str, Any], percent: int) -> tuple[str, ...]:
    figure = figures[f"passes_ratio_paper_over_default_{percent}"]
    own = [until(curves.of(curves.main.name, method), percent / 100) for method in _OWN]
    peer = figure["peer"]["name"]
    spent = figure["peer"]["passes"][peer]["value"]
    if figure.get("bound"):
        beside = f"not in {spent:,}, at least {floor(figure['value']):,} times as many"
    else:
        beside = f"{spent:,}, {figure['value']:,.0f} times as many"
    passes = (f"{each.value:,.0f}" if each else "–" for each in own)
    return f"AG News, example-passes to {percent} %", *passes, f"the paper's recipe (`{peer}`): {beside}"


def _bytes(curves: Curves) -> tuple[str, ...]:
    main = curves.main.name
    own = [_mean_of(curves, main, method, lambda curve: curve.bytes_per_device / 1000) for method in _OWN]
    peer = _mean_of(curves, main, "backprop-lora-fedsgd", lambda curve: curve.bytes_per_device / 1000)
    return "AG News, kB of a run for each device, up and down", *own, f"LoRA by backpropagation {peer}"


def _mean_of(curves: Curves, task: str, method: str, number: Callable[[Curve], float]) -> str:
    found = curves.of(task, method)
    return f"{mean(map(number, found)):,.0f}" if found else "–"


def _final(curves: Curves, task: str, name: str) -> tuple[str, ...]:
    own = [final_accuracy(curves.of(task, method)) for method in _OWN]
    found = {label: final_accuracy(curves.of(task, method)) for method, label in _REFERENCES.items()}
    beside = ", ".join(f"{label} {value:.1%}" for label, value in found.items() if value)
    return f"{name}, final accuracy", *(f"{each:.1%}" if each else "–" for each in own), beside


_OWN = ("default", "layer-means-4096")
_REFERENCES = {
    "probe-ridge": "ridge probe",
    "probe-ridge-layer-means": "ridge on what `default` reads",
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
