"""Phase initialising: before the first round, devices whose owners allow it send feature sums for the head.

A window opens when enough of these devices are present. Devices that check in within ``accept_s`` are asked too, and
all have until ``deadline_s`` to answer. If too few sums arrive, another window follows; stored sums are kept. This is
round 0 of a job with an uninitialised head: it has no header before its head is set (DESIGN §2, invariant 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf

from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest
from fwdllm_common.protocol import FEATURE_SUMS
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm.auto import direction_shares
from fwdllm_server.algorithm.class_means import MAX_DEVICES, ClassTotals, LinearHead, head_from_means
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.adoption import PreparedModel, save_prepared
from fwdllm_server.preparation.run_header import run_header
from fwdllm_server.rounds.context import MOVED, Computation, RoundContext, Step, wait
from fwdllm_server.rounds.dropout import expire_overdue
from fwdllm_server.store import assignments, feature_sums, rounds
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.rounds import Phase

_LEAST_CLASSES = 2


def advance(context: RoundContext) -> Step | Computation[ModelState]:
    """Move on to committed (version 0) when a window is over and enough sums are stored."""
    bounds, since = context.job.spec.rounds, context.round.phase_since
    work, next_expiry = expire_overdue(context)
    answering = {assignment.device_id for assignment in work if assignment.open}
    senders, classes = feature_sums.sources(context.connection, context.job.id)
    room = min(bounds.max_devices, MAX_DEVICES) - len(answering | senders)
    left = since + bounds.accept_s - context.now
    if work and left > 0 and room > 0:  # the window is open
        newcomers = _askable(context, work, since)[:room]
        _ask(context, newcomers)
        reason = f"{len(answering) + len(newcomers)} devices are asked for feature sums, {len(senders)} have sent some"
        rounds.set_reason(context.connection, context.round, reason)
        return wait(min(left, next_expiry))
    if answering:
        return wait(next_expiry)
    missing = bounds.min_devices - len(senders)
    if missing <= 0 and len(classes) >= _LEAST_CLASSES:
        return _finish(context, senders)
    return _open_window(context, work, max(1, missing), room)


def _askable(context: RoundContext, work: Sequence[AssignmentRecord], since: float) -> list[str]:
    """List idle devices to ask: those that neither answered nor failed in the window that began at ``since``.

    A device that gave its assignment back may be asked again.
    """
    asked = {
        found.device_id
        for found in work
        if found.state not in (AssignmentState.EXPIRED, AssignmentState.RETURNED)
        or (found.state == AssignmentState.EXPIRED and found.expires_at > since)
    }
    return [device for device in context.idle_devices(FEATURE_SUMS) if device not in asked]


def _open_window(context: RoundContext, work: Sequence[AssignmentRecord], needed: int, room: int) -> Step:
    here = _askable(context, work, context.now)
    if len(here) < needed:
        reason = f"waiting for devices whose owners allow feature sums: {len(here)} of {needed} are here"
        rounds.set_reason(context.connection, context.round, reason)
        return wait(inf)
    rounds.enter(context.connection, context.round, Phase.INITIALISING, context.now)
    _ask(context, here[: max(needed, room)])
    return MOVED


def _ask(context: RoundContext, devices: Sequence[str]) -> None:
    for device in devices:
        assignments.offer(
            context.connection,
            context.job.id,
            context.round.number,
            device,
            tasks=(),
            evaluate=False,
            expires_at=context.now + context.job.spec.rounds.accept_s,
        )
        context.presence.leave(device)


def _finish(context: RoundContext, senders: frozenset[str]) -> Computation[ModelState]:
    """Compute the head from the stored sums."""
    job = context.job
    totals = ClassTotals(LinearHead.of(job.manifest))
    for found in feature_sums.of_job(context.connection, job.id):
        totals.add(found.label, found.rows, found.features)
    known = f"{(totals.rows > 0).sum()} of {len(totals.rows)} classes"
    reason = f"head from the means of {known}: {totals.rows.sum()} rows on {len(senders)} devices"
    compute = partial(_with_head, job.spec, job.manifest, job.state.theta, totals)
    return Computation(context.round, compute, partial(_apply, reason))


def _with_head(spec: JobSpec, manifest: Manifest, theta: Float32Vector, totals: ClassTotals) -> ModelState:
    """Return version 0: θ₀ with the head made from the sums, and the run's header that names it."""
    theta = head_from_means(theta, LinearHead.of(manifest), totals)
    header = run_header(spec, manifest.layout, theta, direction_shares(manifest))
    return ModelState.initial(header, manifest.layout, theta)


def _apply(reason: str, context: RoundContext, state: ModelState) -> Step:
    """Store version 0 and the job's header."""
    connection, job = context.connection, context.job
    prepared = PreparedModel(state.header, job.manifest_sha256, state, job.spec.model.head)
    save_prepared(connection, context.artifacts, job.id, prepared)
    assignments.expire_open(connection, job.id, context.round.number)
    rounds.enter(connection, context.round, Phase.COMMITTED, context.now, reason)
    return Step(moved=True, state=state)
