"""Collecting: scalars come in; the round asks for more until the estimate is good enough or the time is up."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf

import structlog

from fwdllm_common.estimator import Scalar
from fwdllm_common.ledger import LedgerEntry
from fwdllm_server.algorithm import BlockPlan, Verdict
from fwdllm_server.algorithm.robust import Scales
from fwdllm_server.rounds import diverged
from fwdllm_server.rounds.abandoned import abandon
from fwdllm_server.rounds.dropout import observed_drop_out
from fwdllm_server.rounds.expiring import expire_overdue
from fwdllm_server.rounds.reassignment import reassign
from fwdllm_server.rounds.training import MOVED, RoundContext, Step, wait
from fwdllm_server.store import ledger, rounds, scalars
from fwdllm_server.store.rounds import Phase

_log = structlog.get_logger()


def advance(context: RoundContext) -> Step:
    """Collecting → committing, or abandoned, or collecting again with more directions."""
    bounds = context.job.spec.rounds
    # A round may have thousands of scalars, and looks whether it can go on with all news: they are counted, not read.
    measured = {plan.block: _measured(context, plan) for plan in context.round.plan}
    if all(measured[plan.block] >= plan.wanted for plan in context.round.plan):
        return _judge(context, by_block(context))
    work, next_expiry = expire_overdue(context)
    if found := diverged.unusable_from(context, work):
        return diverged.fail(context, found, good_version=context.round.version - 1)
    left = context.round.phase_since + bounds.deadline_s - context.now
    if left <= 0:
        return _close(context, measured)
    return wait(min(left, next_expiry, reassign(context, work, lambda: by_block(context), left)))


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
    recent = ledger.recent_scales(context.connection, context.job.id)
    last = ledger.last_entry(context.connection, context.job.id)
    dropout_rate = observed_drop_out(context)
    verdicts, plan = context.computed(
        context.round.plan, lambda: _verdicts(context, collected, recent, last, dropout_rate)
    )
    decisive = max(verdicts.values(), key=_excess)
    rounds.set_variance(context.connection, context.round, decisive.variance, decisive.threshold)
    reason = "; ".join(verdict.reason for verdict in verdicts.values())
    measured = Counter(scalar.device for scalars_of_block in collected.values() for scalar in scalars_of_block)
    _log.info(
        "round judged",
        job=context.job.name,
        round=context.round.number,
        enough=all(verdict.enough for verdict in verdicts.values()),
        devices=len(measured),
        least_directions=min(measured.values()),
        most_directions=max(measured.values()),
        variance=decisive.variance,
        threshold=decisive.threshold,
        reason=reason,
    )
    if all(verdict.enough for verdict in verdicts.values()):
        rounds.enter(context.connection, context.round, Phase.COMMITTING, context.now, reason)
        return MOVED
    rounds.set_plan(context.connection, context.round, plan)
    rounds.enter(context.connection, context.round, Phase.COLLECTING, context.now, reason)
    return MOVED


def _verdicts(
    context: RoundContext,
    collected: Mapping[str, Sequence[Scalar]],
    recent: Scales,
    last: LedgerEntry | None,
    dropout_rate: float,
) -> tuple[Mapping[str, Verdict], tuple[BlockPlan, ...]]:
    """Whether each block has enough, and the plan that the round goes on with where one has not."""
    algorithm, plans = context.job.algorithm, context.round.plan
    verdicts = {plan.block: algorithm.judge(plan, collected[plan.block], recent) for plan in plans}
    extended = tuple(
        plan if verdicts[plan.block].enough else algorithm.extend(plan, context.job.state, last, dropout_rate)
        for plan in plans
    )
    return verdicts, extended


def _close(context: RoundContext, measured: Mapping[str, int]) -> Step:
    """The time is up: commit what is there if it is enough of the first step; what pacing added is not needed."""
    step = {plan.block: context.job.algorithm.step_size(plan) for plan in context.round.plan}
    have = sum(min(measured[block], directions) for block, directions in step.items())
    in_all = sum(min(measured[plan.block], plan.wanted) for plan in context.round.plan)
    reason = f"deadline: {in_all} of {sum(plan.wanted for plan in context.round.plan)} directions are in"
    if have < sum(step.values()) * context.job.spec.rounds.min_fraction:
        return abandon(context, reason)
    rounds.enter(context.connection, context.round, Phase.COMMITTING, context.now, reason)
    return MOVED


def _measured(context: RoundContext, plan: BlockPlan) -> int:
    """How many directions of a block have been measured by as many devices as are to."""
    within, last = (plan.first_seed, plan.end_seed - 1), plan.devices_per_direction - 1
    return scalars.count(context.connection, context.job.id, context.round.number, within, last)


def _excess(verdict: Verdict) -> float:
    return verdict.variance / verdict.threshold if verdict.threshold != inf else 0.0
