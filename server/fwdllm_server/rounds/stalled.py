"""Stalled: a round that waits for something that may never come, and why, for everyone who asks."""

from __future__ import annotations

import structlog
from sqlalchemy import Connection

from fwdllm_server.store import assignments, rounds, scalars
from fwdllm_server.store.jobs import UNFINISHED, JobRecord
from fwdllm_server.store.rounds import Phase, RoundRecord

STALLED_S = 30.0
"""Seconds of waiting after which it is not the ordinary course of things any more."""

_log = structlog.get_logger()


def why_stalled(connection: Connection, job: JobRecord, now: float) -> str:
    """What a job has been waiting for for long, in words; empty if it goes on, is paused or has ended."""
    current = rounds.latest(connection, job.id)
    if current is None or job.paused or job.state not in UNFINISHED or now - current.phase_since < STALLED_S:
        return ""
    if current.phase in (Phase.INITIALISING, Phase.SELECTING):
        return current.reason
    if current.phase == Phase.COLLECTING:
        return _without_devices(connection, current)
    return ""


def _without_devices(connection: Connection, current: RoundRecord) -> str:
    if any(work.open for work in assignments.of_round(connection, current.job_id, current.number)):
        return ""
    wanted = sum(plan.wanted for plan in current.plan)
    measured = scalars.count(connection, current.job_id, current.number)
    return (
        f"no device is at work on round {current.number}: {min(measured, wanted)} of {wanted} directions are in, "
        "and the next device that comes gets what is missing"
    )


class StallLog:
    """Tells the log once of each state that lasts."""

    def __init__(self, job_name: str) -> None:
        self._job_name = job_name
        self._why = ""

    def tell(self, why: str) -> None:
        """What the job waits for now, empty if it goes on."""
        if why == self._why:
            return
        if why:
            _log.warning("job waits", job=self._job_name, reason=why)
        else:
            _log.info("job goes on", job=self._job_name)
        self._why = why
