"""The command line of ``make bench-idle``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from benchmarks.environment import environment
from benchmarks.idle import agent, flower
from benchmarks.markdown import table
from benchmarks.reporting import Figure, make_figure, output_folder, parser, write_report

_QUICK_SHARE = 0.02
_FLOWER_S = 180.0
_MB = 1e6

Results: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What was measured, by the name of the schedule; ``flower`` is the peer."""


def main() -> None:
    """Measure a day of each schedule and some minutes of Flower, then report."""
    arguments = parser("idle", __doc__, quick="half an hour of a day, without Flower").parse_args()
    output = output_folder("idle", arguments)
    found: dict[str, Mapping[str, Any]] = {}
    if not arguments.quick:
        print("Flower's SuperNode", flush=True)
        (output / "flower").mkdir(exist_ok=True)
        found["flower"] = flower.measured(output / "flower", _FLOWER_S)
    for name, schedule in agent.SCHEDULES.items():
        print(f"{schedule.title}: a day of {schedule.check_ins_a_day} check-ins", flush=True)
        found[name] = agent.measured(schedule, output / name, _QUICK_SHARE if arguments.quick else 1.0)
    text = "\n".join(report(found))
    value = {"environment": environment(), "figures": all_figures(found), "measurements": found}
    write_report("idle", "device.md", None if arguments.keep else output, value, text)


def report(found: Results) -> Iterator[str]:
    """Yield a table, line by line."""
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


def all_figures(found: Results) -> list[Figure]:
    """Return the figures with their goals, of the schedule that takes most."""
    ours = [each for name, each in found.items() if name != "flower"]
    peer = found.get("flower", {})
    return [
        make_figure(
            "idle_mb_per_day",
            max(each["bytes_a_day"] for each in ours) / _MB,
            "MB both ways, headers of TCP and IP included",
            1.0,
        )
        | {"peer": {"flower": peer["bytes_a_day"] / _MB if peer else None}},
        make_figure("idle_rss_mb", max(each["resident_bytes"] for each in ours) / _MB, "MB resident", 60.0)
        | {"peer": {"flower": peer["resident_bytes"] / _MB if peer else None}},
    ]


if __name__ == "__main__":
    main()
