"""``--verbose`` shows what the agent does in order: check-ins, downloads, cache hits, retries and waits."""

from __future__ import annotations

import json

import pytest
from grpc import StatusCode

from fwdllm_common.logging import configure_logging


@pytest.mark.parametrize("verbose", [True, False])
def test_phases_cache_use_and_retries_are_debug_events(device, coordinator, job, new_stop, refuse, capsys, verbose):
    job.commit()
    answers = [job.answer(job.assignment("a1")), refuse(StatusCode.UNAVAILABLE), job.answer(job.assignment("a2"))]

    def answer(request):
        found = answers[len(coordinator.check_ins) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    coordinator.on_check_in = answer
    configure_logging(verbose=verbose)
    device.run(new_stop(last=3))  # the wait between the two check-ins, the back-off, the last wait

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    shown = [line["event"] for line in lines if line["level"] == "debug"]
    first = ["checked in", "work begins", "file is not in the cache, downloading it", "weights downloaded"]
    again = ["checked in", "work begins", "file is in the cache", "weights are current"]
    last = ["work ended", "waiting for the next check-in"]
    expected = [*first, *last, "retrying after a wait", *again, *last]
    assert [event for event, before in zip(shown, [None, *shown], strict=False) if event != before] == (
        expected if verbose else []
    )
