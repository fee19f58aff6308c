"""Collecting: scalars come in; the round asks for more until the estimate is good enough or the time is up."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import ceil, inf

from fwdllm_common.estimator import Scalar
from fwdllm_server.algorithm import BlockPlan, Verdict
from fwdllm_server.rounds.abandoned import abandon
from fwdllm_server.rounds.distribution import Share, hand_out
from fwdllm_server.rounds.training import MOVED, RoundContext, Step, wait
from fwdllm_server.store import assignments, rounds, scalars
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.rounds import Phase


def advance(context: RoundContext) -> Step:
    """Collecting → committing, or abandoned, or collecting again with more directions."""
    bounds = context.job.spec.rounds
    collected = by_block(context)
    if all(len(collected[plan.block]) >= plan.wanted for plan in context.round.plan):
        return _judge(context, collected)
    left = context.round.phase_since + bounds.deadline_s - context.now
    if left <= 0:
        return _close(context, collected)
    work = assignments.of_round(context.connection, context.job.id, context.round.number)
    next_expiry = _expire(context, work)
    offered = _offer_again(context, collected)
    return wait(min(left, next_expiry, bounds.assignment_s if offered else inf))


def by_block(context: RoundContext) -> Mapping[str, Sequence[Scalar]]:
    """The round's scalars so far, for each block of its plan, by ascending seed."""
    found = scalars.of_round(context.connection, context.job.id, context.round.number)
    seeds = [scalar.seed for scalar in found]
    return {
        plan.block: found[bisect_left(seeds, plan.first_seed) : bisect_left(seeds, plan.end_seed)]
        for plan in context.round.plan
    }


def _judge(context: RoundContext, collected: Mapping[str, Sequence[Scalar]]) -> Step:
    """Everything asked for is in: commit, or ask for more (variance-controlled pacing)."""
    algorithm = context.job.algorithm
    verdicts = {plan.block: algorithm.judge(plan, collected[plan.block]) for plan in context.round.plan}
    decisive = max(verdicts.values(), key=_excess)
    rounds.set_variance(context.connection, context.round, decisive.variance, decisive.threshold)
    reason = "; ".join(verdict.reason for verdict in verdicts.values())
    if all(verdict.enough for verdict in verdicts.values()):
        rounds.enter(context.connection, context.round, Phase.COMMITTING, context.now, reason)
        return MOVED
    plan = tuple(plan if verdicts[plan.block].enough else algorithm.extend(plan) for plan in context.round.plan)
    rounds.set_plan(context.connection, context.round, plan)
    rounds.enter(context.connection, context.round, Phase.COLLECTING, context.now, reason)
    return MOVED


def _close(context: RoundContext, collected: Mapping[str, Sequence[Scalar]]) -> Step:
    """The time is up: commit what is there if it is enough of the first step; what pacing added is not needed."""
    step = {plan.block: context.job.algorithm.step_size(plan) for plan in context.round.plan}
    have = sum(min(len(collected[block]), directions) for block, directions in step.items())
    in_all = sum(min(len(collected[plan.block]), plan.wanted) for plan in context.round.plan)
    reason = f"deadline: {in_all} of {sum(plan.wanted for plan in context.round.plan)} directions are in"
    if have < sum(step.values()) * context.job.spec.rounds.min_fraction:
        return abandon(context, reason)
    rounds.enter(context.connection, context.round, Phase.COMMITTING, context.now, reason)
    return MOVED


def _expire(context: RoundContext, work: Sequence[AssignmentRecord]) -> float:
    """Expire assignments without news; returns the seconds until the next one is due."""
    remaining = inf
    for assignment in work:
        if assignment.open:
            left = assignment.expires_at - context.now
            if left <= 0:
                assignments.set_state(context.connection, assignment.id, AssignmentState.EXPIRED)
            else:
                remaining = min(remaining, left)
    return remaining


def _offer_again(context: RoundContext, collected: Mapping[str, Sequence[Scalar]]) -> int:
    """Give directions that nobody has at hand to idle devices: first to new ones, then again to those of the round.

    A device that let an assignment of this round expire, or whose scalars were unusable, gets no other in it. Nobody
    gets more than its part of a step: devices check in one by one, and the first is not to do the work of all.

    :returns: how many devices got something.
    """
    work = assignments.of_round(context.connection, context.job.id, context.round.number)
    in_hand = {seed for assignment in work if assignment.open for seed in assignment.seeds}
    shares = [share for plan in context.round.plan if (share := _missing(plan, collected, in_hand)).seeds]
    if not shares:
        return 0
    busy = assignments.busy_devices(context.connection)
    failed = {assignment.device_id for assignment in work if assignment.state == AssignmentState.EXPIRED}
    here = context.presence.eligible(context.job.manifest.labels, context.now)
    idle = [device for device in here if device not in busy and device not in failed]
    taken_part = {assignment.device_id for assignment in work}
    devices = [device for device in idle if device not in taken_part] or idle
    devices = devices[: context.job.spec.rounds.max_devices]
    parts = max(1, len(taken_part - failed))
    step_size = context.job.algorithm.step_size
    shares = [Share(share.plan, share.seeds[: len(devices) * ceil(step_size(share.plan) / parts)]) for share in shares]
    return hand_out(context, shares, devices)


def _missing(plan: BlockPlan, collected: Mapping[str, Sequence[Scalar]], in_hand: set[int]) -> Share:
    have = {scalar.seed for scalar in collected[plan.block]}
    if len(have) >= plan.wanted:
        return Share(plan, ())
    everything = range(plan.first_seed, plan.end_seed)
    return Share(plan, [seed for seed in everything if seed not in have and seed not in in_hand])


def _excess(verdict: Verdict) -> float:
    return verdict.variance / verdict.threshold if verdict.threshold != inf else 0.0
