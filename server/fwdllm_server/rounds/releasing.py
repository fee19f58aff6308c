"""Release of a round with differential privacy: its noised sum becomes durable, and with it what devices have spent.

The noise is drawn outside of any transaction and stored in one, in which the scalars that it hides are deleted. A
coordinator that is killed before has told nobody anything and draws again; afterwards the sum is all that there is, and
the ledger's entry follows from it without any noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import structlog

from fwdllm_server.algorithm import Measured
from fwdllm_server.algorithm.release import Release, release
from fwdllm_server.rounds.context import MOVED, Computation, RoundContext, Step
from fwdllm_server.store import aggregations, devices, jobs, releases, rounds, scalar_spans
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.rounds import Phase

_log = structlog.get_logger()


def begin(context: RoundContext, collected: Mapping[str, Measured], reason: str) -> Computation[Release]:
    """Release the sum of what was collected, and go on to committing with this reason."""
    budget = context.job.spec.privacy.budget
    assert budget is not None, "only jobs with differential privacy release sums"
    compute = partial(release, context.job.run, context.round.plan, collected, budget)
    return Computation(context.round, compute, partial(_apply, reason))


def _apply(reason: str, context: RoundContext, found: Release) -> Step:
    connection, job, number = context.connection, context.job, context.round.number
    aggregations.forget(connection, job.id, number)
    aggregations.begin_summed(connection, job.id, number, found.total, len(found.devices), context.now)
    scalar_spans.forget(connection, job.id, number)
    releases.add(connection, job.id, found.devices)
    rounds.set_plan(connection, context.round, found.plans)
    rounds.enter(connection, context.round, Phase.COMMITTING, context.now, reason)
    _log.info("noised sum released", job=job.name, round=number, devices=len(found.devices))
    return MOVED


def end_at_budget(context: RoundContext) -> Step | None:
    """End the job if fewer devices than a round needs have budget left; None while there are enough."""
    connection, job, privacy = context.connection, context.job, context.job.spec.privacy
    if privacy.budget is None:
        return None
    spent = releases.spent(connection, job.id, privacy.budget.releases)
    if not spent:
        return None
    left = sum(not each.revoked and each.id not in spent for each in devices.all_devices(connection))
    if left >= job.spec.rounds.min_devices:
        return None
    budget, needed = privacy.budget, job.spec.rounds.min_devices
    why = (
        f"privacy budget spent: {len(spent)} devices are in {budget.releases} releases each, which is epsilon = "
        f"{budget.epsilon:g} at delta = {budget.delta:g}; {left} others are left, and a round needs {needed}"
    )
    _log.info("job ended", job=job.name, reason=why)
    jobs.set_state(connection, job.id, JobState.DONE, why, context.now)
    return Step(moved=True, job_ended=True)
