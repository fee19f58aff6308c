"""The method on one page: a round *plans* directions, *judges* what came back, and *extends* the plan or *updates* θ.

    plans = plan(run, round_number, state, last)          which v_k, ε and η
    verdict = judge(run, plan, measured, scales)          is the variance of ĝ within the threshold?
    plan = extend(run, plan, state, last)                 no: more directions
    updates = update(run, plans, measured, scales)        yes: (seed, c_k) of the ledger, ĝ = (1/K) Σ c_k v_k

These are functions of their arguments alone: the same scalars and seeds give the same result on any machine. Symbols
and numbers of equations are those of docs/algorithm.md. Nothing here knows where devices are (DESIGN §2, invariant 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, cos, pi
from typing import Literal

import numpy as np

from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.layout import Block
from fwdllm_common.ledger import BlockUpdate, LedgerEntry
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_common.replay import ModelState
from fwdllm_common.seeds import ranges_of
from fwdllm_server.algorithm.auto import sizes
from fwdllm_server.algorithm.measured import Measured, coefficients_of
from fwdllm_server.algorithm.pacing import Verdict, relative_variance, split_half_variance
from fwdllm_server.algorithm.plan import BlockPlan
from fwdllm_server.algorithm.robust_aggregation import Scales, is_measured, restrained
from fwdllm_server.algorithm.run import Run
from fwdllm_server.algorithm.sampling import sampled_seeds
from fwdllm_server.config.job_sections import BlockSection

_STATISTICS = {"relative": relative_variance, "absolute": split_half_variance}
_SEEDS_OF_A_BLOCK = 1 << 24


def plan(
    run: Run,
    round_number: int,
    state: ModelState,
    last: LedgerEntry | None,
    seeds_per_direction: float = 1.0,
    rows_at_hand: int = 0,
) -> tuple[BlockPlan, ...]:
    """Return what a round asks for: the directions v_k, the step ε and the learning rate η of each block in it.

    :param round_number: numbers the seeds, so that no two rounds share one. An abandoned round costs no step.
    :param state: θ, along which ε is measured, and its version t − 1: schedules follow the step t.
    :param last: the entry that led to ``state``, for the reference r of (14); None before the first.
    :param seeds_per_direction: seeds that are named for each direction that is waited for, at least 1.
    :param rows_at_hand: the most rows that a batch can have, 0 if that is not known.
    """
    step = state.version + 1
    return tuple(
        _plan_block(run, block, _first_seed(round_number, index), state, last, seeds_per_direction, rows_at_hand)
        for index, block in enumerate(run.layout.blocks.values())
        if block.name in run.spec.blocks and _takes_part(run.section(block.name), step)
    )


def judge(run: Run, plan: BlockPlan, measured: Measured, scales: Scales) -> Verdict:
    """Return whether the scalars of a block suffice: whether V / ‖g‖², (8) and (9), is within ``variance_threshold``.

    ``relative`` is that ratio, of orthogonal directions by (18); ``absolute`` is the statistic of (12).

    :param plan: what was asked for; with its ``wanted`` at the maximum, any variance suffices.
    :param measured: the scalars that came, from which the coefficients c_k are made as for :func:`update`.
    :param scales: the scales of earlier rounds.
    """
    section = run.section(plan.block)
    now = _update_block(run, plan, measured, scales)
    directions = run.header.directions_of(run.layout.block(plan.block))
    statistic = _STATISTICS[section.pacing]
    variance = statistic(directions, now.seeds, now.coefficients, run.judged_part(plan.block), run.estimate)
    found = f"{plan.block}: {section.pacing} variance {variance:.3g}"
    if variance <= section.variance_threshold:
        return Verdict(
            True, variance, section.variance_threshold, f"{found} is within {section.variance_threshold:.3g}"
        )
    if plan.wanted >= _most_directions(section, plan):
        reason = f"{plan.block}: {len(now.seeds)} directions, the most allowed"
        return Verdict(True, variance, section.variance_threshold, reason)
    return Verdict(False, variance, section.variance_threshold, f"{found} is above {section.variance_threshold:.3g}")


def extend(
    run: Run, plan: BlockPlan, state: ModelState, last: LedgerEntry | None, seeds_per_direction: float = 1.0
) -> BlockPlan:
    """Return the plan with K larger by one step of directions, up to ``max_directions``; arguments as for :func:`plan`.

    Seeds that it has already named stay, and no other seed was ever named in the run.
    """
    section = run.section(plan.block)
    wanted = min(plan.wanted + step_size(run, plan), _most_directions(section, plan))
    missing = _seeds_for(wanted, seeds_per_direction) - len(plan.seeds)
    block = run.layout.block(plan.block)
    more = sampled_seeds(run, block, plan.end_seed, missing, state, last) if missing > 0 else ()
    return plan.extended(wanted, more)


def update(
    run: Run, plans: Sequence[BlockPlan], measured: Mapping[str, Measured], scales: Scales
) -> tuple[BlockUpdate, ...]:
    """Return the seeds, coefficients c_k and η of the step: ĝ = (1/K) Σ c_k v_k, (3), is what replay makes of them.

    c_k is the scalar of direction k, held back if it is too large ("Scalars of strangers"), times the weight of (6). It
    does not depend on the order in which scalars came. A block of which no direction is measured has no update.

    :param measured: the scalars of each block.
    :param scales: the scales of earlier rounds.
    """
    return tuple(
        _update_block(run, plan, measured[plan.block], scales)
        for plan in plans
        if is_measured(measured[plan.block], plan.devices_per_direction)
    )


def step_size(run: Run, plan: BlockPlan) -> int:
    """Return the number of directions that a round begins with in the plan's block, and adds with each step."""
    directions = run.section(plan.block).directions
    return plan.wanted if directions == "auto" else directions


def schedule(kind: Literal["constant", "linear", "cosine"], step: int, steps: int) -> float:
    """Return the factor of η in step t = ``step`` of T = ``steps``: 1, 1 − (t − 1)/T or (1 + cos(π (t − 1)/T))/2."""
    progress = (step - 1) / steps
    return {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + cos(pi * progress)) / 2}[kind]


def _plan_block(
    run: Run,
    block: Block,
    first_seed: int,
    state: ModelState,
    last: LedgerEntry | None,
    seeds_per_direction: float,
    rows_at_hand: int,
) -> BlockPlan:
    spec, section, step = run.spec, run.section(block.name), state.version + 1
    share, masked = run.shares.get(block.name, 1.0), spec.privacy.secure_aggregation
    size = sizes(section, block.size, share, spec.rounds, step, rows_at_hand, masked)
    common = BlockPlan(
        block=block.name,
        ranges=(range(first_seed, first_seed + _SEEDS_OF_A_BLOCK),),
        wanted=size.directions,
        epsilon=spec.perturbation.epsilon_at(state.theta[block.slice]),
        batch_size=size.rows,
        learning_rate=section.learning_rate * schedule(spec.optimizer.schedule, step, spec.rounds.count),
        central=spec.perturbation.difference == "central",
        devices_per_direction=section.devices_per_direction,
    )
    directions = run.header.directions_of(block)
    if masked:
        return common.for_all(directions.order if isinstance(directions, OrthogonalDirections) else 0, size.per_device)
    if isinstance(directions, OrthogonalDirections):
        return common.in_frames(directions.order, size.per_device, spec.rounds.max_devices)
    count = _seeds_for(size.directions, seeds_per_direction)
    return replace(common, ranges=ranges_of(sampled_seeds(run, block, first_seed, count, state, last)))


def _update_block(run: Run, plan: BlockPlan, measured: Measured, scales: Scales) -> BlockUpdate:
    held = restrained(measured, plan.devices_per_direction, scales.get(plan.block, ()), run.spec.robust.clip)
    seeds, coefficients = coefficients_of(held)
    return BlockUpdate(plan.block, seeds, coefficients, np.float32(plan.learning_rate), packed=bool(plan.order))


def _most_directions(section: BlockSection, plan: BlockPlan) -> int:
    """Return the number of directions with which a round ends, whatever the variance."""
    return plan.wanted if section.directions == "auto" else section.max_directions


def _seeds_for(directions: int, seeds_per_direction: float) -> int:
    # Rounded first, so that 1.1 times 10 is 11; an update holds no more than MAX_DIRECTIONS.
    return min(ceil(round(directions * seeds_per_direction, 6)), MAX_DIRECTIONS)


def _takes_part(section: BlockSection, step: int) -> bool:
    return step >= section.first_round and (step - section.first_round) % section.every == 0


def _first_seed(round_number: int, block_index: int) -> int:
    # Never reused within a run: the round in the upper half, then the block, then up to 2²⁴ candidates.
    return round_number << 32 | block_index << 24
