"""Selecting: wait for enough devices, choose the cohort, divide the round's directions among it."""

from __future__ import annotations

from math import inf
from random import Random

from fwdllm_server.rounds.distribution import Share, hand_out
from fwdllm_server.rounds.training import MOVED, RoundContext, Step, wait
from fwdllm_server.store import assignments, jobs, rounds
from fwdllm_server.store.rounds import Phase


def advance(context: RoundContext) -> Step:
    """Selecting → assigned, once ``min_devices`` idle devices are here."""
    bounds = context.job.spec.rounds
    busy = assignments.busy_devices(context.connection)
    here = context.presence.eligible(context.job.manifest.labels, context.now)
    idle = [device for device in here if device not in busy]
    if len(idle) < bounds.min_devices:
        rounds.set_reason(
            context.connection, context.round, f"waiting for devices: {len(idle)} of {bounds.min_devices} are here"
        )
        return wait(inf)
    cohort = idle
    if len(idle) > bounds.max_devices:
        # Drawn anew in each round, and the same if the coordinator dies and draws again.
        draw = Random(f"{context.job.header.run_key}/{context.round.number}")  # noqa: S311 - sampling, not secrecy
        cohort = sorted(draw.sample(idle, bounds.max_devices))
    plan = context.job.algorithm.plan(context.round.number, context.round.version, context.job.state.theta)
    shares = [Share(block, range(block.first_seed, block.end_seed)) for block in plan]
    devices = hand_out(context, shares, cohort)
    rounds.set_plan(context.connection, context.round, plan)
    rounds.enter(context.connection, context.round, Phase.ASSIGNED, context.now, f"{devices} devices selected")
    jobs.started(context.connection, context.job.id, context.now)
    return MOVED
