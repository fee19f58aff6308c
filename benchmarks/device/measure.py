"""One method in this process alone, given its name and a place as JSON; prints as JSON what it took."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from benchmarks.device.memory import Watch
from benchmarks.device.work import FIRST_START, METHODS
from benchmarks.device.workplace import Workplace


def main(name: str, place_json: str) -> None:
    """Warm up, work a few times, report the least."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    value = json.loads(place_json)
    place = Workplace(**{**value, "bundle": Path(value["bundle"]), "cache": Path(value["cache"])})
    method = METHODS["derivative" if name == FIRST_START else name]
    times: list[tuple[float, float]] = []

    def timed(work: Callable[[], object]) -> None:
        began = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - began[0], time.process_time() - began[1]))

    with Watch() as watch:
        if name == FIRST_START:
            units = 1
            timed(lambda: method.make(place)())
        else:
            units = method.units(place)
            step = method.make(place)
            step()
            for _ in range(place.steps):
                timed(step)
    found = {
        "seconds": min(seconds for seconds, _ in times) / units,
        "cpu_seconds": min(cpu_seconds for _, cpu_seconds in times) / units,
        "peak_rss_bytes": watch.peak_rss_bytes,
        "peak_anonymous_bytes": watch.peak_anonymous_bytes,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
