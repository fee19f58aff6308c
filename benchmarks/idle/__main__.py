"""The command line of ``make bench-idle``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.convergence.environment import REPOSITORY, environment
from benchmarks.idle import agent, flower
from benchmarks.markdown import table, write_results

_QUICK_SHARE = 0.02
_FLOWER_S = 180.0
_MB = 1e6

Results: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What was measured, by the name of the schedule; ``flower`` is the peer."""


def main() -> None:
    """A day of each schedule, and some minutes of Flower; then report."""
    parser = argparse.ArgumentParser(prog="make bench-idle", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half an hour of a day, without Flower; kept apart")
    parser.add_argument("--keep", action="store_true", help="write the results of the repository")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmark-output" / "idle")
    arguments = parser.parse_args()
    output: Path = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Mapping[str, Any]] = {}
    if not arguments.quick:
        print("Flower's SuperNode", flush=True)
        (output / "flower").mkdir(exist_ok=True)
        found["flower"] = flower.measured(output / "flower", _FLOWER_S)
    for name, schedule in agent.SCHEDULES.items():
        print(f"{schedule.title}: a day of {schedule.check_ins_a_day} check-ins", flush=True)
        found[name] = agent.measured(schedule, output / name, _QUICK_SHARE if arguments.quick else 1.0)
    figures, document = output / "idle.json", output / "idle.md"
    if arguments.keep:
        figures, document = REPOSITORY / "benchmarks/results/idle.json", REPOSITORY / "docs/device.md"
    text = "\n".join(report(found))
    value = {"environment": environment(), "figures": all_figures(found), "measurements": found}
    figures.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    write_results(document, "make bench-idle", text)
    print(text)


def report(found: Results) -> Iterator[str]:
    """A table, line by line."""
    rows = []
    for name, each in found.items():
        if name == "flower":
            title, often = f"Flower {each['version']}, SuperNode without a run", "-"
        else:
            title, often = f"fwdllm-client, {agent.SCHEDULES[name].title}", f"{each['check_ins_a_day']:,}"
        sizes = [f"{each[key] / _MB:.2f}" for key in ("bytes_a_day", "tls_bytes_a_day")]
        memory = [f"{each[key] / _MB:.1f}" for key in ("resident_bytes", "anonymous_bytes")]
        rows.append([title, often, *sizes, *memory])
    header = ["", "check-ins a day", "MB a day", "without headers", "resident MB", "of it anonymous MB"]
    yield from table(header, rows)


def all_figures(found: Results) -> list[dict[str, Any]]:
    """The figures with their goals: of the day that takes most."""
    ours = [each for name, each in found.items() if name != "flower"]
    peer = found.get("flower", {})
    return [
        {
            "name": "idle_mb_per_day",
            "value": max(each["bytes_a_day"] for each in ours) / _MB,
            "unit": "MB both ways, headers of TCP and IP included",
            "goal": 1.0,
            "better": "lower",
            "peer": {"flower": peer["bytes_a_day"] / _MB if peer else None},
        },
        {
            "name": "idle_rss_mb",
            "value": max(each["resident_bytes"] for each in ours) / _MB,
            "unit": "MB resident",
            "goal": 60.0,
            "better": "lower",
            "peer": {"flower": peer["resident_bytes"] / _MB if peer else None},
        },
    ]


if __name__ == "__main__":
    main()
