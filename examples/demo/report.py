"""The report of ``make demo``: what ``report.json`` holds and what is printed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_KIB, _MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Report:
    """The figures of a run.

    Accuracies are fractions. Bytes are those of gRPC messages, of the device that used most.
    """

    accuracy_before: float
    accuracy_after: float
    accuracy_by_peft: float
    probe_accuracy: float
    head_init: str
    rounds: int
    directions: int
    example_passes: float
    bytes_up_per_device: int
    bytes_down_per_device: int
    model_bytes_per_device: int
    agent_peak_rss_bytes: int
    inference_peak_rss_bytes: int
    seconds: float
    adapter_dir: str


def lines(report: Report) -> Iterator[str]:
    """Yield the lines that the demo prints at its end."""
    rows = {
        "held-out accuracy": f"{report.accuracy_before:.1%} before, {report.accuracy_after:.1%} after, "
        f"{report.accuracy_by_peft:.1%} as PEFT loads it",
        "linear probe, for reference": f"{report.probe_accuracy:.1%} (ridge on frozen features, all data in one place)",
        "head began at": report.head_init,
        "rounds": f"{report.rounds}, {report.directions} directions, {report.example_passes:.0f} example-passes",
        "bytes per device": f"{report.bytes_up_per_device / _KIB:.0f} KiB up, "
        f"{report.bytes_down_per_device / _KIB:.0f} KiB down, and once the model, "
        f"{report.model_bytes_per_device / _MIB:.0f} MiB",
        "peak memory of an agent": f"{report.agent_peak_rss_bytes / _MIB:.0f} MiB; "
        f"inference alone {report.inference_peak_rss_bytes / _MIB:.0f} MiB",
        "time": f"{report.seconds:.0f} s",
        "adapter": report.adapter_dir,
    }
    for name, value in rows.items():
        yield f"{name:28} {value}"
