"""Committing: scalars become a ledger entry, and the entry the next version of θ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import NamedTuple

import numpy as np
import structlog

from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import BlockPlan, Measured, Run, measured_by_device
from fwdllm_server.algorithm.forward_gradient import update
from fwdllm_server.algorithm.robust_aggregation import (
    Reputations,
    Scales,
    contradicting,
    exclude_outliers,
    reputations_after,
    scales_after,
)
from fwdllm_server.rounds import diverged
from fwdllm_server.rounds.collecting import by_block
from fwdllm_server.rounds.context import Computation, RoundContext, Step
from fwdllm_server.rounds.dropout import close_assignments
from fwdllm_server.store import aggregations, job_devices, ledger, rounds, scalar_spans, scalars
from fwdllm_server.store.rounds import Phase

_log = structlog.get_logger()

SNAPSHOT_EVERY = 20
"""Rounds between snapshots: a restart replays at most so many."""
MOST_REPLAYED = 1 << 31
"""Directions times weights that a restart replays at most, about a second's work, unless one round has more."""
_SNAPSHOTS_KEPT = 3
"""The newest, and some for a coordinator that is reading one now, or for the case that a file is damaged."""


class Known(NamedTuple):
    """What earlier rounds have left: scales of scalars, reputations of this round's devices, the last entry."""

    scales: Scales
    reputations: Reputations
    last: LedgerEntry | None


class Commit(NamedTuple):
    """What a round leaves behind, the next state and its snapshot, if one is due, among it."""

    entry: LedgerEntry
    scales: Scales
    reputations: Reputations
    state: ModelState
    snapshot_sha256: str | None


def advance(context: RoundContext) -> Computation[Commit]:
    """Read what the next version follows from. The same scalars give the same entry, however often this is repeated."""
    connection, job = context.connection, context.job
    collected = by_block(context)  # no more are taken in this phase
    measured = measured_by_device(collected.values())
    known = Known(
        ledger.recent_scales(connection, job.id),
        job_devices.reputations(connection, job.id, sorted(measured)),
        ledger.last_entry(connection, job.id),
    )
    store_snapshot = context.artifacts.put if _snapshot_due(context, measured.total()) else None
    compute = partial(_compute, job.run, job.state, context.round.plan, collected, known, store_snapshot)
    return Computation(context.round, compute, partial(_apply, known))


def _apply(known: Known, context: RoundContext, commit: Commit) -> Step:
    """Append the entry to the ledger and move on to committed, or fail the job if its weights are no longer finite."""
    connection, job = context.connection, context.job
    if not _is_finite(commit.state):
        return diverged.fail(context, "the next step leads to weights that are not finite", context.round.version)
    if commit.snapshot_sha256 is not None:
        ledger.add_snapshot(connection, job.id, commit.state.version, commit.snapshot_sha256)
        # If this transaction is undone, those that it keeps are still there.
        for sha256 in ledger.forget_snapshots(connection, job.id, _SNAPSHOTS_KEPT):
            context.artifacts.remove(sha256)
    ledger.append(connection, job.id, commit.entry, commit.scales, context.now)
    job_devices.set_reputations(connection, job.id, commit.reputations)
    # Once when it begins to last, not in every round.
    if left_out := contradicting(commit.reputations) - contradicting(known.reputations):
        _log.warning(
            "devices left out: their scalars contradict the others'",
            job=job.name,
            round=context.round.number,
            devices=sorted(left_out),
        )
    scalars.forget(connection, job.id, context.round.number)
    scalar_spans.forget(connection, job.id, context.round.number)
    aggregations.forget(connection, job.id, context.round.number)
    close_assignments(context)
    rounds.enter(connection, context.round, Phase.COMMITTED, context.now, context.round.reason)
    return Step(moved=True, state=commit.state)


def _snapshot_due(context: RoundContext, directions: int) -> bool:
    """Whether the version that the round leads to is to be a snapshot."""
    job, version = context.job, context.round.version + 1
    if version % SNAPSHOT_EVERY == 0 or version == job.spec.rounds.count:
        return True
    newest, _ = ledger.latest_snapshot(context.connection, job.id) or (0, "")
    directions += ledger.directions_since(context.connection, job.id, newest)
    return directions * job.manifest.layout.size > MOST_REPLAYED


def _compute(
    run: Run,
    state: ModelState,
    plans: Sequence[BlockPlan],
    collected: Mapping[str, Measured],
    known: Known,
    store_snapshot: Callable[[bytes], str] | None,
) -> Commit:
    changed = reputations_after(run, plans, collected, state, known.last, known.reputations)
    reputations = {**known.reputations, **changed}
    trusted = {block: exclude_outliers(measured, reputations) for block, measured in collected.items()}
    entry = LedgerEntry(state.version + 1, update(run, plans, trusted, known.scales), theta_digest=b"")
    scales = scales_after(plans, collected, known.scales)
    state = copy(state)  # until the transaction is on disk, the job's own stays at its version
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at before it counts
        entry = state.advance(entry, run.estimate)
    snapshot = store_snapshot(state.to_bytes()) if store_snapshot and _is_finite(state) else None
    return Commit(entry, scales, reputations, state, snapshot)


def _is_finite(state: ModelState) -> bool:
    return bool(np.isfinite(state.theta).all())
