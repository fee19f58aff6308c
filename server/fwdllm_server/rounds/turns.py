"""Order jobs that wait for the same devices.

The job of the highest priority selects first. Among equals, it is the one whose last selection is longest ago. The
present devices are reserved for it as long as it can begin a round with them and the devices that are at work.
"""

from __future__ import annotations

from collections.abc import Sequence

from fwdllm_server.rounds.context import RoundContext
from fwdllm_server.store import assignments, jobs

LOOK_AGAIN_S = 1.0
"""Seconds after which a job checks whether the jobs before it have selected their devices."""


def kept_for_others(context: RoundContext, idle: Sequence[str]) -> frozenset[str]:
    """Return those of the ``idle`` devices that are reserved for jobs before this one."""
    others = context.jobs()
    if len(others) < 2:
        return frozenset()
    at_work = len(assignments.busy_devices(context.connection))
    kept: set[str] = set()
    for job_id in jobs.waiting_for_devices(context.connection):
        if job_id == context.job.id:
            break
        job = others.get(job_id)
        if job is None or job.head_uninitialised:
            continue
        manifest, needs = job.manifest, job.needs
        here = context.presence.eligible(job.name, manifest.labels, context.now, task=manifest.task, needs=needs)
        wanted = set(here).intersection(idle)
        if len(wanted) + at_work >= job.spec.rounds.min_devices:
            kept |= wanted
    return frozenset(kept)
