"""Selecting: gather devices, choose the cohort, divide the round's directions among it."""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from random import Random

import structlog

from fwdllm_server.rounds.distribution import Share, hand_out
from fwdllm_server.rounds.load import Load
from fwdllm_server.rounds.training import MOVED, RoundContext, Step, wait
from fwdllm_server.store import assignments, jobs, ledger, rounds
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.rounds import Phase

_log = structlog.get_logger()


def advance(context: RoundContext) -> Step:
    """Selecting → assigned, once ``min_devices`` idle devices are here and no more are waited for."""
    bounds = context.job.spec.rounds
    idle = context.idle_devices()
    if len(idle) < bounds.min_devices:
        reason = f"waiting for devices: {len(idle)} of {bounds.min_devices} are here"
        if noisy := len(context.noisy_devices()):
            reason += f"; {noisy} failed their self-test and are not used, 'job show' names them"
        rounds.set_plan(context.connection, context.round, ())
        rounds.set_reason(context.connection, context.round, reason)
        return wait(inf)
    if not context.round.plan:
        return _gather(context)
    left = context.round.phase_since + bounds.gather_s - context.now
    if left > 0 and len(idle) < bounds.max_devices and not _all_back(context, idle):
        rounds.set_reason(context.connection, context.round, f"waiting for more devices: {len(idle)} are here")
        return wait(left)
    return _assign(context, idle)


def _gather(context: RoundContext) -> Step:
    """There are devices enough: from now on the round has a plan, and waits for ``gather_s`` at most."""
    last = ledger.last_entry(context.connection, context.job.id)
    job, number = context.job, context.round.number
    plan = context.computed("plan", lambda: job.algorithm.plan(number, job.state, last))  # sampling weighs candidates
    rounds.set_plan(context.connection, context.round, plan)
    rounds.enter(context.connection, context.round, Phase.SELECTING, context.now)
    return MOVED


def _all_back(context: RoundContext, idle: Collection[str]) -> bool:
    """Whether everyone is here who did the last round to its end."""
    work = assignments.of_round(context.connection, context.job.id, context.round.number - 1)
    last = {assignment.device_id for assignment in work if assignment.state == AssignmentState.DONE}
    return bool(last) and last.issubset(idle)


def _assign(context: RoundContext, idle: list[str]) -> Step:
    bounds = context.job.spec.rounds
    cohort = idle
    if len(idle) > bounds.max_devices:
        # Drawn anew in each round, and the same if the coordinator dies and draws again.
        draw = Random(f"{context.job.header.directions.run_key}/{context.round.number}")  # noqa: S311 - sampling, not secrecy
        cohort = sorted(draw.sample(idle, bounds.max_devices))
    shares = [Share(plan, plan.seeds * plan.devices_per_direction) for plan in context.round.plan]
    parts = hand_out(context, shares, cohort, Load.of(context, cohort), bounds.deadline_s)
    rounds.enter(context.connection, context.round, Phase.ASSIGNED, context.now, f"{len(parts)} devices selected")
    jobs.started(context.connection, context.job.id, context.now)
    _log.info(
        "round planned",
        job=context.job.name,
        round=context.round.number,
        devices=len(parts),
        directions={plan.block: len(plan.seeds) for plan in context.round.plan},
        least_directions=min(parts.values()),
        most_directions=max(parts.values()),
    )
    return MOVED
