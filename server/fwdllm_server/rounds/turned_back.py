"""A coordinator starts with an earlier clock than the one before it: the round's deadlines count from now."""

from __future__ import annotations

from dataclasses import replace

import structlog
from sqlalchemy import Connection

from fwdllm_server.clock import TOLERATED_S
from fwdllm_server.store import assignments, rounds
from fwdllm_server.store.rounds import RoundRecord

_log = structlog.get_logger()


def follow_clock(connection: Connection, record: RoundRecord, now: float, assignment_s: float) -> RoundRecord:
    """The round, whose phase did not begin in the future, and whose open assignments have their time from now.

    Else it would wait for whatever it waits for until the clock has caught up.
    """
    back = record.phase_since - now
    if back <= TOLERATED_S:
        return record
    _log.warning(
        "the clock was set back; the round's deadlines count from now", round=record.number, seconds=round(back)
    )
    rounds.enter(connection, record, record.phase, now, record.reason)
    for work in assignments.of_round(connection, record.job_id, record.number):
        if work.open:
            assignments.prolong(connection, work.id, now + assignment_s)
    return replace(record, phase_since=now)
