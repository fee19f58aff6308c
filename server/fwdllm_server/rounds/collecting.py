"""Collecting: scalars come in; the round asks for more until the estimate is good enough or the time is up."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import NamedTuple, TypeVar

import structlog
from sqlalchemy import Connection

from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import BlockPlan, Measured, Run, Verdict, measured_by_device
from fwdllm_server.algorithm.forward_gradient import extend, judge, step_size
from fwdllm_server.algorithm.release import Release
from fwdllm_server.algorithm.robust_aggregation import Scales
from fwdllm_server.rounds import aggregating, diverged, releasing
from fwdllm_server.rounds.aggregating import Closing
from fwdllm_server.rounds.context import MOVED, Computation, RoundContext, Step, wait
from fwdllm_server.rounds.dropout import expire_overdue, over_assignment
from fwdllm_server.rounds.ended import abandon
from fwdllm_server.rounds.reassignment import reassign
from fwdllm_server.store import ledger, rounds, scalar_spans, scalars
from fwdllm_server.store.rounds import Phase

_log = structlog.get_logger()

T = TypeVar("T")


def advance(
    context: RoundContext,
) -> Step | Computation[Judgement] | Computation[Closing] | Computation[Release]:
    """Move on to committing, to abandoned, or to collecting more directions."""
    if aggregating.is_secured(context.round):
        return aggregating.advance(context)
    bounds = context.job.spec.rounds
    # A round may have thousands of scalars, and looks whether it can go on with all news: they are counted, not read.
    measured = {
        plan.block: directions_in(context.connection, context.job.id, context.round.number, plan)
        for plan in context.round.plan
    }
    if all(measured[plan.block] >= plan.wanted for plan in context.round.plan):
        return _go_on(context)
    work, next_expiry = expire_overdue(context)
    if found := diverged.unusable_from(context, work):
        return diverged.fail(context, found, good_version=context.round.version - 1)
    left = context.round.phase_since + bounds.deadline_s - context.now
    if left <= 0:
        return _close(context, measured)
    if not any(each.open for each in work) and _frames_suffice(context, measured):
        return _go_on(context)
    return wait(min(left, next_expiry, reassign(context, work, lambda: by_block(context), left)))


def _go_on(context: RoundContext) -> Computation[Judgement] | Computation[Release]:
    """Judge what is in, or release its sum: pacing would tell of scalars without noise."""
    if context.job.spec.privacy.budget is None:
        return _judge(context, by_block(context))
    return releasing.begin(context, by_block(context), "all directions are in")


def _frames_suffice(context: RoundContext, measured: Mapping[str, int]) -> bool:
    """Whether all that is missing are frames that nobody measures any more: the others' do without them."""
    least = context.job.spec.rounds.min_fraction
    return all(
        measured[plan.block] >= (least * plan.wanted if plan.order else plan.wanted) for plan in context.round.plan
    )


def by_block(context: RoundContext) -> Mapping[str, Measured]:
    """Return the round's scalars so far, for each block of its plan, by ascending seed."""
    if aggregating.is_secured(context.round):
        return aggregating.by_block(context)
    place = (context.connection, context.job.id, context.round.number)
    found, spans = scalars.of_round(*place), scalar_spans.of_round(*place)
    seeds, firsts = [scalar.seed for scalar in found], [span.first_seed for span in spans]
    return {
        plan.block: _between(plan, spans, firsts) if plan.order else _between(plan, found, seeds)
        for plan in context.round.plan
    }


def _between(plan: BlockPlan, found: Sequence[T], seeds: Sequence[int]) -> Sequence[T]:
    return found[bisect_left(seeds, plan.first_seed) : bisect_left(seeds, plan.end_seed)]


class Judgement(NamedTuple):
    """The verdict on each block, and the plan that the round goes on with if one has not enough."""

    verdicts: Mapping[str, Verdict]
    plan: tuple[BlockPlan, ...]


def _judge(context: RoundContext, collected: Mapping[str, Measured]) -> Computation[Judgement]:
    """Judge whether the scalars suffice, now that everything asked for is in (variance-controlled pacing)."""
    recent = ledger.recent_scales(context.connection, context.job.id)
    last = ledger.last_entry(context.connection, context.job.id)
    state, plans, spare = context.job.state, context.round.plan, over_assignment(context)
    compute = partial(_verdicts, context.job.run, plans, collected, recent, state, last, spare)
    return Computation(context.round, compute, partial(_apply, measured_by_device(collected.values())))


def _verdicts(
    run: Run,
    plans: Sequence[BlockPlan],
    collected: Mapping[str, Measured],
    recent: Scales,
    state: ModelState,
    last: LedgerEntry | None,
    spare: float,
) -> Judgement:
    verdicts = {plan.block: judge(run, plan, collected[plan.block], recent) for plan in plans}
    extended = (plan if verdicts[plan.block].enough else extend(run, plan, state, last, spare) for plan in plans)
    return Judgement(verdicts, tuple(extended))


def _apply(measured: Counter[str], context: RoundContext, judgement: Judgement) -> Step:
    """Move on to committing, or go on with the extended plan."""
    verdicts = judgement.verdicts.values()
    decisive, enough = max(verdicts, key=_excess), all(verdict.enough for verdict in verdicts)
    rounds.set_variance(context.connection, context.round, decisive.variance, decisive.threshold)
    reason = "; ".join(verdict.reason for verdict in verdicts)
    _log.info(
        "round judged",
        job=context.job.name,
        round=context.round.number,
        enough=enough,
        devices=len(measured),
        least_directions=min(measured.values()),
        most_directions=max(measured.values()),
        variance=decisive.variance,
        threshold=decisive.threshold,
        reason=reason,
    )
    if not enough:
        rounds.set_plan(context.connection, context.round, judgement.plan)
    phase = Phase.COMMITTING if enough else Phase.COLLECTING
    rounds.enter(context.connection, context.round, phase, context.now, reason)
    return MOVED


def _close(context: RoundContext, measured: Mapping[str, int]) -> Step | Computation[Release]:
    """Commit what is there at the deadline if it is enough of the first step; what pacing added is not needed."""
    step = {plan.block: step_size(context.job.run, plan) for plan in context.round.plan}
    have = sum(min(measured[block], directions) for block, directions in step.items())
    in_all = sum(min(measured[plan.block], plan.wanted) for plan in context.round.plan)
    reason = f"deadline: {in_all} of {sum(plan.wanted for plan in context.round.plan)} directions are in"
    if have < sum(step.values()) * context.job.spec.rounds.min_fraction:
        return abandon(context, reason)
    if context.job.spec.privacy.budget is not None:
        return releasing.begin(context, by_block(context), reason)
    rounds.enter(context.connection, context.round, Phase.COMMITTING, context.now, reason)
    return MOVED


def directions_in(connection: Connection, job_id: str, round_number: int, plan: BlockPlan) -> int:
    """How many directions of a block have been measured by as many devices as are to."""
    within, last = range(plan.first_seed, plan.end_seed), plan.devices_per_direction - 1
    if plan.order:
        return scalar_spans.count(connection, job_id, round_number, within)
    return scalars.count(connection, job_id, round_number, within, last)


def _excess(verdict: Verdict) -> float:
    return verdict.variance / verdict.threshold if verdict.threshold != inf else 0.0
