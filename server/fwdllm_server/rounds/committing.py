"""Committing: scalars become a ledger entry, and the entry the next version of θ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import NamedTuple

from fwdllm_common.estimator import Scalar
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm.robust import Scales
from fwdllm_server.rounds.collecting import by_block
from fwdllm_server.rounds.drop_out import close_assignments
from fwdllm_server.rounds.training import RoundContext, Step
from fwdllm_server.store import ledger, rounds, scalars
from fwdllm_server.store.rounds import Phase

SNAPSHOT_EVERY = 20
"""Rounds between snapshots: a restart replays at most so many, each in milliseconds."""


class Commit(NamedTuple):
    """What a round leaves behind: its entry, the scales of its scalars, the next state, its snapshot if one is due."""

    entry: LedgerEntry
    scales: Scales
    state: ModelState
    snapshot_sha256: str | None


def advance(context: RoundContext) -> Step:
    """Committing → committed. The same scalars give the same entry, however often this is begun."""
    connection, job = context.connection, context.job
    collected = by_block(context)  # no more are taken in this phase
    recent = ledger.recent_scales(connection, job.id)
    commit = context.computed("commit", lambda: _compute(context, collected, recent))
    if commit.snapshot_sha256 is not None:
        ledger.add_snapshot(connection, job.id, commit.state.version, commit.snapshot_sha256)
    ledger.append(connection, job.id, commit.entry, commit.scales, context.now)
    scalars.forget(connection, job.id, context.round.number)
    close_assignments(context)
    rounds.enter(connection, context.round, Phase.COMMITTED, context.now, context.round.reason)
    return Step(moved=True, state=commit.state)


def _compute(context: RoundContext, collected: Mapping[str, Sequence[Scalar]], recent: Scales) -> Commit:
    job, plan = context.job, context.round.plan
    entry = LedgerEntry(
        version=context.round.version + 1,
        updates=job.algorithm.update(plan, collected, recent),
        theta_digest=b"",
    )
    scales = job.algorithm.scales(plan, collected, recent)
    state = copy(job.state)  # until the transaction is on disk, the job's own stays at its version
    entry = state.advance(entry)
    snapshot = None
    if state.version % SNAPSHOT_EVERY == 0 or state.version == job.spec.rounds.count:
        snapshot = context.artifacts.put(state.to_bytes())
    return Commit(entry, scales, state, snapshot)
