"""Metrics that are read from the store at each scrape. A restart does not reset them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from math import isfinite
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from fwdllm_common.protocol import GENERATOR_VERSION, PROTOCOL_MAJOR, PROTOCOL_MINOR
from fwdllm_server.config.server_config import CheckInSection
from fwdllm_server.rounds.failing import failing_devices
from fwdllm_server.store import job_devices, jobs, ledger, rounds, scalars
from fwdllm_server.store.jobs import JobRecord, JobState
from fwdllm_server.store.rounds import Phase
from fwdllm_server.views.device_status import DeviceState, device_statuses, reasons_there_are

SHOWN_S = 86_400.0
"""Seconds for which a job is shown after its end."""


@dataclass(frozen=True)
class Definition:
    """A metric's name, kind, help text and labels."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()

    def family(self) -> Metric:
        """Return the metric without samples."""
        kind = GaugeMetricFamily if self.kind == "gauge" else CounterMetricFamily
        return kind(self.name, self.help, labels=self.labels)


_JOB = ("job_id", "job_name")

BUILD = Definition(
    "fwdllm_build_info", "gauge", "1; the labels are the versions.", ("version", "protocol", "generator")
)
JOBS = Definition("fwdllm_jobs", "gauge", "Jobs by state.", ("state",))
DEVICES = Definition(
    "fwdllm_devices", "gauge", f"Devices by state: {', '.join(DeviceState)}; each device is in one state.", ("state",)
)
INELIGIBLE = Definition(
    "fwdllm_devices_ineligible",
    "gauge",
    "Devices that get no new assignment, by reason; a device with several reasons counts for each.",
    ("reason",),
)
STATE = Definition("fwdllm_job_state", "gauge", "1 for the job's state, 0 for the others.", (*_JOB, "state"))
ROUNDS = Definition("fwdllm_rounds_total", "counter", "Finished rounds by outcome.", (*_JOB, "outcome"))
WANTED = Definition("fwdllm_rounds_wanted", "gauge", "Number of rounds to commit until the job is done.", _JOB)
PHASE = Definition(
    "fwdllm_round_phase", "gauge", "1 for the phase of the current round, 0 for others.", (*_JOB, "phase")
)
PHASE_SINCE = Definition(
    "fwdllm_round_phase_start_timestamp_seconds", "gauge", "Start of the current phase, in seconds since 1970.", _JOB
)
ROUND_DIRECTIONS = Definition(
    "fwdllm_round_directions", "gauge", "Directions of the current round: wanted and collected.", (*_JOB, "kind")
)
DIRECTIONS = Definition("fwdllm_directions_total", "counter", "Directions in the ledger.", _JOB)
VARIANCE = Definition(
    "fwdllm_round_variance", "gauge", "The round's pacing statistic; see docs/algorithm.md for its kinds.", _JOB
)
THRESHOLD = Definition(
    "fwdllm_round_variance_threshold", "gauge", "Upper bound of the statistic; absent without pacing.", _JOB
)
ACCURACY = Definition(
    "fwdllm_accuracy_ratio",
    "gauge",
    "Accuracy (for question answering F1) on the held-out rows, 0 to 1: initial, latest, best.",
    (*_JOB, "which"),
)
LOSS = Definition("fwdllm_loss_nats", "gauge", "Mean cross-entropy on the held-out rows, latest evaluation.", _JOB)
SCALARS = Definition("fwdllm_scalars_accepted_total", "counter", "Scalars from devices that were accepted.", _JOB)
REJECTED = Definition(
    "fwdllm_scalars_rejected_total",
    "counter",
    "Scalars from devices that were not used: repeated, late or unusable.",
    (*_JOB, "reason"),
)
BYTES = Definition(
    "fwdllm_device_bytes_total",
    "counter",
    "Bytes as counted by devices: up (sent), down (received), model (files received).",
    (*_JOB, "direction"),
)
DEVICE_SECONDS = Definition("fwdllm_device_compute_seconds_total", "counter", "Seconds that devices computed.", _JOB)
ENERGY = Definition(
    "fwdllm_device_energy_joules_total",
    "counter",
    "Energy that devices used while computing, as far as they measured it.",
    _JOB,
)
MEASURING = Definition("fwdllm_devices_measuring_energy", "gauge", "Devices of the job that measured energy.", _JOB)
PASSES = Definition(
    "fwdllm_device_example_passes_total",
    "counter",
    "Example-passes: rows times forward passes through the whole model.",
    _JOB,
)
PEAK_MEMORY = Definition(
    "fwdllm_device_peak_memory_bytes", "gauge", "Largest resident memory of the job's agents.", _JOB
)
REPORTING = Definition("fwdllm_job_devices", "gauge", "Devices that have reported to the job.", _JOB)
FAILING = Definition(
    "fwdllm_job_devices_failing",
    "gauge",
    "Devices that cannot do the job or refuse it, by the code of the last reason.",
    (*_JOB, "code"),
)

DEFINITIONS = tuple(value for value in globals().values() if isinstance(value, Definition))


class StateCollector(Collector):
    """Exposes the result of :func:`read`. :attr:`families` is set before each response to a scrape."""

    def __init__(self) -> None:
        self.families: Iterable[Metric] = ()

    def collect(self) -> Iterable[Metric]:
        """Return the families that were read for this scrape."""
        return self.families


class _Families:
    def __init__(self) -> None:
        self._families = {definition: definition.family() for definition in DEFINITIONS}

    def add(self, definition: Definition, value: float, *labels: str) -> None:
        family = self._families[definition]
        name = definition.name
        family.add_sample(name, dict(zip(definition.labels, labels, strict=True)), value)

    def all(self) -> list[Metric]:
        return list(self._families.values())


def read(connection: Connection, check_in: CheckInSection, now: float) -> list[Metric]:
    """Return every metric of :data:`DEFINITIONS` with its samples. ``now`` is seconds since 1970."""
    found = _Families()
    protocol = f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"
    found.add(BUILD, 1, version("fwdllm"), protocol, str(GENERATOR_VERSION))
    records = jobs.in_state(connection)
    states = Counter(record.state for record in records)
    for state in JobState:
        found.add(JOBS, states[state], state)
    _add_devices(connection, found, check_in, now)
    for record in records:
        if record.ended_at is None or record.ended_at > now - SHOWN_S:
            _add_job(connection, found, record)
            _add_failures(connection, found, record, now)
    return found.all()


def _add_devices(connection: Connection, found: _Families, check_in: CheckInSection, now: float) -> None:
    statuses = device_statuses(connection, check_in, now)
    states = Counter(status.state for status in statuses)
    reasons = Counter(reason for status in statuses for reason in status.reasons)
    for state in DeviceState:
        found.add(DEVICES, states[state], state)
    for reason in (*reasons_there_are(), *(reasons.keys() - set(reasons_there_are()))):
        found.add(INELIGIBLE, reasons[reason], reason)


def _add_job(connection: Connection, found: _Families, record: JobRecord) -> None:
    job = (record.id, record.name)
    for state in JobState:
        found.add(STATE, state == record.state, *job, state)
    committed, directions = ledger.totals(connection, record.id)
    found.add(ROUNDS, committed, *job, "committed")
    found.add(ROUNDS, rounds.count_in(connection, record.id, Phase.ABANDONED), *job, "abandoned")
    found.add(WANTED, record.rounds_wanted, *job)
    found.add(DIRECTIONS, directions, *job)
    for reason, count in _rejected(record):
        found.add(REJECTED, count, *job, reason)
    _add_round(connection, found, record)
    _add_evaluations(connection, found, record)
    spent = job_devices.total(connection, record.id)
    found.add(SCALARS, spent.scalars, *job)
    found.add(BYTES, spent.bytes_sent, *job, "up")
    found.add(BYTES, spent.bytes_received, *job, "down")
    found.add(BYTES, spent.artifact_bytes, *job, "model")
    found.add(DEVICE_SECONDS, spent.seconds, *job)
    found.add(ENERGY, spent.joules, *job)
    found.add(MEASURING, spent.measuring, *job)
    found.add(PASSES, spent.example_passes, *job)
    found.add(PEAK_MEMORY, spent.peak_rss_bytes, *job)
    found.add(REPORTING, spent.devices, *job)


def _add_failures(connection: Connection, found: _Families, record: JobRecord, now: float) -> None:
    failures = failing_devices(connection, record.id, now).values()
    for code, count in Counter(failure.code for failure in failures).items():
        found.add(FAILING, count, record.id, record.name, code)


def _rejected(record: JobRecord) -> Iterator[tuple[str, int]]:
    yield "repeated", record.scalars_repeated
    yield "late", record.scalars_late
    yield "unusable", record.scalars_unusable


def _add_round(connection: Connection, found: _Families, record: JobRecord) -> None:
    current = rounds.latest(connection, record.id)
    if current is None:
        return
    job = (record.id, record.name)
    for phase in Phase:
        found.add(PHASE, phase == current.phase, *job, phase)
    found.add(PHASE_SINCE, current.phase_since, *job)
    found.add(ROUND_DIRECTIONS, sum(plan.wanted for plan in current.plan), *job, "wanted")
    found.add(ROUND_DIRECTIONS, scalars.count(connection, record.id, current.number), *job, "collected")
    found.add(VARIANCE, current.variance, *job)
    if isfinite(current.variance_threshold) and current.variance_threshold > 0:
        found.add(THRESHOLD, current.variance_threshold, *job)


def _add_evaluations(connection: Connection, found: _Families, record: JobRecord) -> None:
    evaluations = ledger.evaluations_of(connection, record.id)
    if not evaluations:
        return
    job = (record.id, record.name)
    if evaluations[0].version == 0:
        found.add(ACCURACY, evaluations[0].accuracy, *job, "initial")
    found.add(ACCURACY, evaluations[-1].accuracy, *job, "latest")
    found.add(ACCURACY, max(evaluation.accuracy for evaluation in evaluations), *job, "best")
    found.add(LOSS, evaluations[-1].loss, *job)
