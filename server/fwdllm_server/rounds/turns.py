"""Turns: of several jobs that wait for devices, which may choose first.

That of the highest priority, and of equal ones that which has waited longest for its last devices. It has the devices
that are here to itself as long as it can begin a round with them and those that are at work.
"""

from __future__ import annotations

from collections.abc import Sequence

from fwdllm_server.rounds.training import RoundContext
from fwdllm_server.store import assignments, jobs

LOOK_AGAIN_S = 1.0
"""Seconds after which a job that lets others go first looks whether they have chosen."""


def kept_for_others(context: RoundContext, idle: Sequence[str]) -> frozenset[str]:
    """Those of the ``idle`` devices that jobs before this one wait for."""
    others = context.jobs()
    if len(others) < 2:
        return frozenset()
    at_work = len(assignments.busy_devices(context.connection))
    kept: set[str] = set()
    for job_id in jobs.waiting_for_devices(context.connection):
        if job_id == context.job.id:
            break
        job = others.get(job_id)
        if job is None or job.is_draft:
            continue
        manifest, needs = job.manifest, job.needs
        here = context.presence.eligible(job.name, manifest.labels, context.now, task=manifest.task, needs=needs)
        wanted = set(here).intersection(idle)
        if len(wanted) + at_work >= job.spec.rounds.min_devices:
            kept |= wanted
    return frozenset(kept)
