"""Explain stalled rounds: what a round waits for that may never come."""

from __future__ import annotations

import structlog
from sqlalchemy import Connection

from fwdllm_server.store import assignments, rounds, scalars
from fwdllm_server.store.jobs import UNFINISHED, JobRecord
from fwdllm_server.store.rounds import Phase, RoundRecord

STALLED_S = 30.0
"""Seconds of waiting after which a round counts as stalled."""

_log = structlog.get_logger()


def why_stalled(connection: Connection, job: JobRecord, now: float) -> str:
    """Return what a stalled job waits for. Return an empty text if it progresses, is paused or has ended."""
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
        f"no device works on round {current.number}: {min(measured, wanted)} of {wanted} directions are measured, "
        "and the next device that checks in gets the missing ones"
    )


class StallLog:
    """Logs when a job stalls and when it continues, each once."""

    def __init__(self, job_name: str) -> None:
        self._job_name = job_name
        self._why = ""

    def update(self, why: str) -> None:
        """Log a change of what the job waits for. ``why`` is empty if the job progresses."""
        if why == self._why:
            return
        if why:
            _log.warning("job waits", job=self._job_name, reason=why)
        else:
            _log.info("job continues", job=self._job_name)
        self._why = why
