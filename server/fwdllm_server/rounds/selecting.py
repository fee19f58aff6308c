"""Phase selecting: wait for devices, select some, and divide the round's directions among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from math import inf

import structlog

from fwdllm_server.algorithm import BlockPlan
from fwdllm_server.algorithm.forward_gradient import plan
from fwdllm_server.rounds import aggregating
from fwdllm_server.rounds.context import MOVED, Computation, RoundContext, Step, wait
from fwdllm_server.rounds.distribution import Frames, Share, hand_out, hand_out_to_all
from fwdllm_server.rounds.dropout import over_assignment
from fwdllm_server.rounds.load import Load
from fwdllm_server.rounds.turns import LOOK_AGAIN_S, kept_for_others
from fwdllm_server.store import assignments, devices, jobs, ledger, rounds
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.rounds import Phase

_log = structlog.get_logger()


def advance(context: RoundContext) -> Step | Computation[tuple[BlockPlan, ...]]:
    """Move on to assigned when ``min_devices`` idle devices are present and the time to gather more is over."""
    bounds = context.job.spec.rounds
    if _is_paused(context):
        rounds.set_plan(context.connection, context.round, ())
        rounds.set_reason(context.connection, context.round, "paused by an operator")
        return wait(inf)
    here = context.idle_devices()
    kept = kept_for_others(context, here)
    idle = [device for device in here if device not in kept]
    if len(idle) < bounds.min_devices:
        reason = f"waiting for devices: {len(idle)} of {bounds.min_devices} are here"
        if kept:
            reason += f"; {len(kept)} more are reserved for jobs of higher precedence"
        if noisy := len(context.noisy_devices()):
            reason += f"; {noisy} failed the known-answer test and are not used, 'job show' names them"
        if failing := len(context.failing_devices()):
            reason += f"; {failing} cannot do this job, 'job show' says why"
        if spent := len(context.spent_devices()):
            reason += f"; {spent} have spent their privacy budget"
        if resting := context.resting_devices():
            reason += f"; {len(resting)} sent nothing for their last assignment and rest for now"
        rounds.set_plan(context.connection, context.round, ())
        rounds.set_reason(context.connection, context.round, reason)
        return wait(LOOK_AGAIN_S if kept else min(resting.values(), default=inf))
    if not context.round.plan:
        return _gather(context, idle)
    left = context.round.phase_since + bounds.gather_s - context.now
    if left > 0 and len(idle) < bounds.max_devices and not _all_back(context, idle):
        rounds.set_reason(context.connection, context.round, f"waiting for more devices: {len(idle)} are here")
        return wait(left)
    return _assign(context, idle)


def _is_paused(context: RoundContext) -> bool:
    record = jobs.get(context.connection, context.job.id)
    return record is not None and record.paused


def _gather(context: RoundContext, here: Collection[str]) -> Computation[tuple[BlockPlan, ...]]:
    """Plan the round when enough devices are present. Gradient-guided sampling compares many candidate directions."""
    job = context.job
    # How many rows somebody has is not accounted for; a plan is public.
    rows = 0 if job.spec.privacy.budget else devices.most_examples(context.connection, here)
    last = ledger.last_entry(context.connection, job.id)
    compute = partial(plan, job.run, context.round.number, job.state, last, over_assignment(context), rows)
    return Computation(context.round, compute, _begin_gathering)


def _begin_gathering(context: RoundContext, planned: tuple[BlockPlan, ...]) -> Step:
    """Store the plan. From now on the round waits for ``gather_s`` at most."""
    rounds.set_plan(context.connection, context.round, planned)
    rounds.enter(context.connection, context.round, Phase.SELECTING, context.now)
    return MOVED


def _all_back(context: RoundContext, idle: Collection[str]) -> bool:
    """Return whether all devices that finished the last round are present."""
    work = assignments.of_round(context.connection, context.job.id, context.round.number - 1)
    last = {assignment.device_id for assignment in work if assignment.state == AssignmentState.DONE}
    return bool(last) and last.issubset(idle)


def _assign(context: RoundContext, idle: list[str]) -> Step:
    cohort = context.draw(idle)
    load = Load.of(context, cohort)
    hand_out_all = _share if aggregating.is_secured(context.round) else _divide
    parts = hand_out_all(context, cohort, load)
    rounds.enter(context.connection, context.round, Phase.ASSIGNED, context.now, f"{len(parts)} devices selected")
    jobs.started(context.connection, context.job.id, context.now)
    jobs.selected(context.connection, context.job.id, context.now)
    _log.info(
        "round planned",
        job=context.job.name,
        round=context.round.number,
        devices=len(parts),
        directions={each.block: each.wanted for each in context.round.plan},
        least_directions=min(parts.values()),
        most_directions=max(parts.values()),
    )
    return MOVED


def _share(context: RoundContext, cohort: Sequence[str], load: Load) -> Mapping[str, int]:
    """Offer all directions to each device. Their scalars are summed before they are seen."""
    parts = hand_out_to_all(context, cohort, load)
    aggregating.begin(context)
    return parts


def _divide(context: RoundContext, cohort: Sequence[str], load: Load) -> Mapping[str, int]:
    independent = [each for each in context.round.plan if not each.order]
    shares = [Share(each, each.seeds * each.devices_per_direction) for each in independent]
    frames = [Frames(each) for each in context.round.plan if each.order]
    parts = hand_out(context, shares, cohort, load, context.job.spec.rounds.deadline_s, frames=frames)
    if frames:
        _wait_for_what_was_offered(context)
    return parts


def _wait_for_what_was_offered(context: RoundContext) -> None:
    """How many directions of frames are waited for follows from the devices that have one."""
    offered: Counter[str] = Counter()
    for work in assignments.of_round(context.connection, context.job.id, context.round.number):
        for task in work.tasks:
            offered[task.block] += assignments.directions_of([task])
    spare = over_assignment(context)
    plans = (
        each.for_devices(max(1, round(offered[each.block] / spare))) if each.order else each
        for each in context.round.plan
    )
    rounds.set_plan(context.connection, context.round, tuple(plans))
