"""The stored jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Connection, Row, bindparam, func, select, update

from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.resolved_spec import dump_resolved, load_resolved
from fwdllm_server.config.toml_model import parse_toml
from fwdllm_server.store.schema import jobs, rounds, snapshots


class JobState(StrEnum):
    """The state of a job; only a stopped or failed one can be resumed."""

    PREPARING = "preparing"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


UNFINISHED = (JobState.PREPARING, JobState.RUNNING)
"""The states of jobs that a coordinator drives."""


@dataclass(frozen=True)
class JobRecord:
    """A job; ``manifest_sha256`` is set once its model is exported, ``header`` once its head is initialised too.

    In between the head waits for feature sums, and ``headless_sha256`` is the artifact of θ without it. For a job
    that has diverged, ``good_version`` is the last usable version. ``resumed_at`` is when the job last went on after a
    pause or an end, ``extended_from`` the version at which it last got more rounds.
    """

    id: str
    name: str
    spec_toml: str
    resolved_spec: str | None
    base_folder: str
    state: JobState
    message: str
    rounds_wanted: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    header: bytes | None
    manifest_sha256: str | None
    headless_sha256: str | None
    head_init: str
    trainable_parameters: int
    scalars_repeated: int
    scalars_late: int
    scalars_unusable: int
    paused: bool
    priority: int
    selected_at: float | None
    good_version: int | None
    resumed_at: float | None
    extended_from: int | None

    def spec(self) -> JobSpec:
        """Parse the specification that was resolved when the job was submitted.

        A job that a version without resolved specifications submitted has its job file alone.

        :raises BadInputError: it is damaged.
        """
        if self.resolved_spec is None:
            return parse_toml(self.spec_toml, JobSpec, self.name)
        return load_resolved(self.resolved_spec, self.name)


def add(
    connection: Connection, job_id: str, spec: JobSpec, spec_toml: str, base_folder: str | Path, now: float
) -> None:
    """Add a job that is to be prepared: ``spec`` as parsed, and the job file ``spec_toml`` as the operator wrote it.

    Relative paths in the job file start from ``base_folder``; ``now`` is in seconds since 1970.
    """
    connection.execute(
        jobs.insert().values(
            id=job_id,
            name=spec.job.name,
            spec_toml=spec_toml,
            resolved_spec=dump_resolved(spec),
            base_folder=str(base_folder),
            rounds_wanted=spec.rounds.count,
            state=JobState.PREPARING,
            created_at=now,
            priority=spec.job.priority,
        )
    )


def get(connection: Connection, job_id: str) -> JobRecord | None:
    """Return the job with this id, None if there is none."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    return None if row is None else _record(row)


def required(connection: Connection, job_id: str) -> JobRecord:
    """Return the job with this id, which is known to be there."""
    record = get(connection, job_id)
    assert record is not None
    return record


_STATES = select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(bindparam("ids", expanding=True)))


def running_among(connection: Connection, job_ids: Collection[str]) -> frozenset[str]:
    """Return those of the jobs that run."""
    found = connection.execute(_STATES, {"ids": list(job_ids)})
    return frozenset(job_id for job_id, state in found if state == JobState.RUNNING)


def find(connection: Connection, id_or_name: str) -> JobRecord | None:
    """Return the job with this id or the newest of this name, None if there is none."""
    query = select(jobs).where(jobs.c.name == id_or_name).order_by(jobs.c.created_at.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return get(connection, id_or_name) or (None if row is None else _record(row))


def ids_of_name(connection: Connection, name: str, other_than: str) -> list[str]:
    """Return the ids of the other jobs of this name, newest first."""
    query = select(jobs.c.id).where(jobs.c.name == name, jobs.c.id != other_than).order_by(jobs.c.created_at.desc())
    return list(connection.execute(query).scalars())


def unfinished_of_name(connection: Connection, name: str) -> Sequence[JobRecord]:
    """Return the unfinished jobs of this name."""
    query = select(jobs).where(jobs.c.name == name, jobs.c.state.in_(UNFINISHED))
    return [_record(row) for row in connection.execute(query)]


def in_state(connection: Connection, *states: JobState) -> Sequence[JobRecord]:
    """Return the jobs in these states (all jobs if none is given), newest first."""
    query = select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.id)
    if states:
        query = query.where(jobs.c.state.in_(states))
    return [_record(row) for row in connection.execute(query)]


def artifacts(connection: Connection) -> list[tuple[str, list[str]]]:
    """Return the name of each exported job with the hashes of its manifest and of its first version."""
    first = select(snapshots.c.sha256).where(snapshots.c.job_id == jobs.c.id, snapshots.c.version == 0)
    query = select(jobs.c.name, jobs.c.manifest_sha256, func.coalesce(first.scalar_subquery(), jobs.c.headless_sha256))
    rows = connection.execute(query.where(jobs.c.manifest_sha256.is_not(None)))
    return [(name, [sha256 for sha256 in sha256s if sha256]) for name, *sha256s in rows]


def exported_without_head(
    connection: Connection, job_id: str, manifest_sha256: str, headless_sha256: str, trainable_parameters: int
) -> None:
    """Record that the model is exported and waits for its head."""
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            manifest_sha256=manifest_sha256,
            headless_sha256=headless_sha256,
            trainable_parameters=trainable_parameters,
            message="",
        )
    )


def prepared(
    connection: Connection,
    job_id: str,
    header: bytes,
    manifest_sha256: str,
    head_init: str,
    trainable_parameters: int,
) -> None:
    """Record that the model is ready, and set the job running."""
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            header=header,
            manifest_sha256=manifest_sha256,
            head_init=head_init,
            trainable_parameters=trainable_parameters,
            state=JobState.RUNNING,
            message="",
        )
    )


def set_state(connection: Connection, job_id: str, state: JobState, message: str, now: float) -> None:
    """Set the state of a job and the reason."""
    values = {"state": state, "message": message, "ended_at": None if state in UNFINISHED else now}
    if state in UNFINISHED:
        values["good_version"] = None
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


def set_good_version(connection: Connection, job_id: str, version: int) -> None:
    """Record the last usable version of a job that has diverged."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(good_version=version))


def extended(connection: Connection, job_id: str, spec: JobSpec, version: int) -> None:
    """Record that a job at ``version`` runs more rounds, those of ``spec``; its file stays as the operator wrote it."""
    values = {"resolved_spec": dump_resolved(spec), "rounds_wanted": spec.rounds.count, "extended_from": version}
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


def set_message(connection: Connection, job_id: str, message: str) -> None:
    """Set the message that says what a job is doing or why it waits."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(message=message))


def started(connection: Connection, job_id: str, now: float) -> None:
    """Record the start of the first round."""
    connection.execute(update(jobs).where(jobs.c.id == job_id, jobs.c.started_at.is_(None)).values(started_at=now))


def paused(connection: Connection, job_id: str) -> None:
    """Record that a job is to begin no further round."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(paused=True))


def resumed(connection: Connection, job_id: str, now: float) -> None:
    """Record that a job goes on after a pause or an end."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(paused=False, resumed_at=now))


def set_priority(connection: Connection, job_id: str, priority: int) -> None:
    """Set the priority of a job."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(priority=priority))


def selected(connection: Connection, job_id: str, now: float) -> None:
    """Record the time at which a job last got devices."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(selected_at=now))


def waiting_for_devices(connection: Connection) -> Sequence[str]:
    """Return the running jobs whose newest round selects devices, in the order of their turns."""
    newest = select(func.max(rounds.c.number)).where(rounds.c.job_id == jobs.c.id)
    query = (
        select(jobs.c.id)
        .join(rounds, (rounds.c.job_id == jobs.c.id) & (rounds.c.number == newest.correlate(jobs).scalar_subquery()))
        .where(jobs.c.state == JobState.RUNNING, jobs.c.paused.is_(False), rounds.c.phase == "selecting")
        .order_by(jobs.c.priority.desc(), func.coalesce(jobs.c.selected_at, 0.0), jobs.c.id)
    )
    return list(connection.execute(query).scalars())


def count_unused(connection: Connection, job_id: str, repeated: int = 0, late: int = 0, unusable: int = 0) -> None:
    """Add to the counts of scalars that were reported and not used."""
    if repeated or late or unusable:
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(
                scalars_repeated=jobs.c.scalars_repeated + repeated,
                scalars_late=jobs.c.scalars_late + late,
                scalars_unusable=jobs.c.scalars_unusable + unusable,
            )
        )


def _record(row: Row[tuple[object, ...]]) -> JobRecord:
    values = dict(row._mapping)
    return JobRecord(**{**values, "state": JobState(values["state"])})
