"""Committing: scalars become a ledger entry, and the entry the next version of θ."""

from __future__ import annotations

from copy import copy

from fwdllm_common.ledger import LedgerEntry
from fwdllm_server.rounds.collecting import by_block
from fwdllm_server.rounds.training import RoundContext, Step
from fwdllm_server.store import assignments, ledger, rounds, scalars
from fwdllm_server.store.rounds import Phase

SNAPSHOT_EVERY = 20
"""Rounds between snapshots: a restart replays at most so many, each in milliseconds."""


def advance(context: RoundContext) -> Step:
    """Committing → committed. The same scalars give the same entry, however often this is begun."""
    connection, job = context.connection, context.job
    collected = by_block(context)
    recent = ledger.recent_scales(connection, job.id)
    entry = LedgerEntry(
        version=context.round.version + 1,
        updates=job.algorithm.update(context.round.plan, collected, recent),
        theta_digest=b"",
    )
    scales = job.algorithm.scales(context.round.plan, collected, recent)
    state = copy(job.state)  # until the transaction is on disk, the job's own stays at its version
    entry = state.advance(entry)
    if state.version % SNAPSHOT_EVERY == 0 or state.version == job.spec.rounds.count:
        ledger.add_snapshot(connection, job.id, state.version, context.artifacts.put(state.to_bytes()))
    ledger.append(connection, job.id, entry, scales, context.now)
    scalars.forget(connection, job.id, context.round.number)
    assignments.expire_open(connection, job.id, context.round.number)
    rounds.enter(connection, context.round, Phase.COMMITTED, context.now, context.round.reason)
    return Step(moved=True, state=state)
