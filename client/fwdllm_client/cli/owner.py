"""The owner's commands: status, pause, resume, jobs and sent."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.notes import NotesFile
from fwdllm_client.cache.quota import bytes_below
from fwdllm_client.conditions import Conditions, Hold, Sensors
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.connection.sent_log import Line, SentLog
from fwdllm_client.policy.choices import Choices, ChoicesFile
from fwdllm_client.policy.settings import Settings
from fwdllm_common.errors import BadInputError
from fwdllm_common.job_choice import MAX_JOB_NAME, MAX_JOB_NAMES, JobChoice


def status(home: ClientHome, sensors: Sensors) -> dict[str, Any]:
    """Return the state of the device for ``fwdllm-client status``; times are in ISO 8601.

    :raises BadInputError: the identity, the settings or the choices are damaged.
    """
    identity = home.load_identity() if home.joined else None
    choices = ChoicesFile(home.choices).read()
    conditions = sensors.read()
    settings = Settings.load(home.settings)
    holds = settings.rules.holds(conditions, working=False)
    holds = (Hold.PAUSED, *holds) if choices.paused else holds
    rounds = [line for line in sent(home) if line.job]
    notes = NotesFile(home.notes).read()
    last = max(rounds, key=lambda line: line.last_at, default=None)
    return {
        "home": str(home.folder),
        "joined": identity is not None,
        "running": home.running,
        "paused": choices.paused,
        "device_id": identity.device_id if identity else None,
        "coordinator": identity.device_address if identity else None,
        "certificate_expires": _moment(identity.expires_unix_s) if identity else None,
        "holds": [{"hold": hold.wire_name, "why": hold.explained(conditions)} for hold in holds],
        "conditions": _facts_of(conditions),
        "jobs": jobs_allowed(choices.jobs),
        "waits_for": {"why": notes.waits_for, "since": _moment(notes.since)} if notes.waits_for else None,
        "failed": [{**asdict(failed), "at": _moment(failed.at)} for failed in notes.failed.values()],
        "scalars_over": settings.privacy.min_batch_rows.description,
        "max_directions": settings.privacy.max_directions,
        "min_cohort": settings.privacy.min_cohort,
        "labels": None if settings.privacy.labels is None else sorted(settings.privacy.labels),
        "last_round": {"job": last.job, "round": last.round, "at": _moment(last.last_at)} if last else None,
        "unacknowledged_scalars": _unacknowledged(home),
        "cache_bytes": bytes_below(home.cache),
        "cache_limit_bytes": settings.cache_limit_bytes,
    }


def pause(home: ClientHome, *, paused: bool) -> None:
    """Pause or resume work; a running agent applies it within seconds."""
    file = ChoicesFile(home.choices)
    file.write(replace(file.read(), paused=paused))


def choose(home: ClientHome, name: str | None, *, allow: bool) -> JobChoice:
    """Allow or deny the job of this name, or all jobs for None; return the new choice.

    :raises BadInputError: the name is invalid, or the choice has more names than a check-in can hold.
    """
    if name is not None and not 1 <= len(name) <= MAX_JOB_NAME:
        raise BadInputError(f"{name[:80]!r} is not a job's name, which has 1 to {MAX_JOB_NAME} characters")
    file = ChoicesFile(home.choices)
    choices = file.read()
    change = choices.jobs.allow if allow else choices.jobs.deny
    jobs = JobChoice(only=not allow) if name is None else change(name)
    if len(jobs.names) > MAX_JOB_NAMES:
        raise BadInputError(f"more than {MAX_JOB_NAMES} jobs are named; start again with --all")
    file.write(Choices(choices.paused, jobs))
    return jobs


def jobs_allowed(choice: JobChoice) -> dict[str, Any]:
    """Return which jobs are allowed: all except, or none except, those named."""
    return {"none_but" if choice.only else "all_but": sorted(choice.names)}


def jobs_served(home: ClientHome) -> list[dict[str, Any]]:
    """Return the jobs in the log of what was sent, the last one served first."""
    found: dict[str, dict[str, Any]] = {}
    for line in sorted((line for line in sent(home) if line.job), key=lambda line: line.last_at):
        job = found.setdefault(line.job, {"job": line.job, "rounds": set(), "numbers": 0})
        job["rounds"].add(line.round)
        job["numbers"] += line.numbers
        job["last"] = _moment(line.last_at)
    choice = ChoicesFile(home.choices).read().jobs
    return [
        {**job, "rounds": len(job["rounds"]), "allowed": choice.allows(name)} for name, job in reversed(found.items())
    ]


def sent(home: ClientHome) -> list[Line]:
    """Return what has left the device, the oldest first."""
    if not home.sent.exists():
        return []
    with closing(SentLog(home.sent)) as log:
        return list(log.lines())


def _facts_of(conditions: Conditions) -> dict[str, Any]:
    return {
        "charging": conditions.charging,
        "battery_percent": conditions.battery_percent,
        "metered": conditions.metered,
        "thermal": None if conditions.thermal is None else conditions.thermal.name.lower(),
    }


def _unacknowledged(home: ClientHome) -> int:
    if not home.journal.exists():
        return 0
    with closing(Journal(home.journal)) as journal:
        return sum(len(entry.derivatives) for _, entry in journal.unacknowledged())


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
