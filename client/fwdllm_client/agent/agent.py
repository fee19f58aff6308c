"""Assembly of the agent: home, data and coordinator, and the engine once there is work for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.link import Link
from fwdllm_client.agent.notes import NotesFile
from fwdllm_client.agent.resource_usage import physical_memory_bytes
from fwdllm_client.agent.session import Session, Work
from fwdllm_client.cache.quota import CacheQuota
from fwdllm_client.conditions import Gate, Sensors, sensors_of_this_machine
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.connection.identity_check import check_identity
from fwdllm_client.connection.recording import RecordingCoordinator
from fwdllm_client.connection.renewal import Renewal
from fwdllm_client.connection.retry import Stop
from fwdllm_client.connection.sent_log import SentLog
from fwdllm_client.connection.transport import GrpcCoordinator
from fwdllm_client.data import Source
from fwdllm_client.data.validation import validation_count
from fwdllm_client.policy.choices import ChoicesFile
from fwdllm_client.policy.permission import Permission
from fwdllm_client.policy.policy import Policy
from fwdllm_client.policy.settings import Settings
from fwdllm_common.protocol import GENERATOR_2, GENERATOR_VERSION, PROTOCOL_MAJOR, PROTOCOL_MINOR, SECURE_AGGREGATION
from fwdllm_common.service_manager import notify
from fwdllm_common.task import CLASSIFICATION

if TYPE_CHECKING:  # it needs packages that a device may lack
    from fwdllm_client.agent.masked import MaskedScalars

_log = structlog.get_logger()


@dataclass(frozen=True)
class LocalData:
    """The rows of ``source``; the part ``validation_fraction`` of them, 0 to 1, is held out for evaluation."""

    source: Source
    validation_fraction: float


def run_agent(
    home: ClientHome,
    data: LocalData,
    stop: Stop,
    *,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    sensors: Sensors | None = None,
    threads: int = 0,
    once: bool = False,
) -> None:
    """Serve the coordinator that ``home`` has joined, with ``data``, until ``stop`` is set.

    With ``once`` the agent checks in a single time. The data is checked before the first call. ``sensors`` default to
    those of this machine. ``threads`` of 0 means as many as tuning finds worthwhile.

    :raises BadInputError: the device has not joined, the data or the settings are wrong, or the coordinator refuses the
        device's profile.
    :raises BusyError: another agent runs in ``home``.
    :raises RefusedError: the device is revoked or unknown, or its key or certificate is damaged.
    :raises StorageError: the disk is full.
    :raises HeldError: with ``once``, the device may not work now.
    """
    identity = home.load_identity()
    check_identity(home, identity)
    settings = Settings.load(home.settings)
    rules = settings.rules
    permission = Permission(Gate(sensors or sensors_of_this_machine(), rules), rules, ChoicesFile(home.choices))
    with home.lock():
        profile = profile_of(data, policy)
        with (
            GrpcCoordinator(identity) as connection,
            closing(Journal(home.journal)) as journal,
            closing(SentLog(home.sent)) as sent_log,
        ):
            coordinator = RecordingCoordinator(connection, sent_log, settings.privacy)

            link = Link(coordinator, journal, stop)
            _log.info(
                "agent started",
                device=identity.device_id,
                coordinator=identity.device_address,
                training_rows=profile.training_examples,
                validation_rows=profile.validation_examples,
                labels=len(profile.labels),
                privacy=settings.privacy.description,
                feature_sums="never sent" if policy.class_rows is None else f"of {policy.class_rows} rows or more",
            )
            notify("READY=1")
            if settings.privacy.min_batch_rows.is_shortened_for(profile.training_examples):
                _log.warning(
                    "this device has few rows; every scalar is computed over all of them",
                    training_rows=profile.training_examples,
                    usual=settings.privacy.min_batch_rows.minimum,
                )
            # Only a warning: this device's clock may be wrong, and the coordinator's clock decides.
            if identity.expires_unix_s <= time.time():
                _log.warning(
                    "the certificate has expired; ask for a new token and run: fwdllm-client join TOKEN --force"
                )
            work = _when_needed(lambda: _work(link, home, data, policy, settings, permission, threads))
            renewal = Renewal(home, coordinator.renew_certificate, connection.use)
            session = Session(link, profile, permission, work, renewal, NotesFile(home.notes))
            session.run(once=once)


def profile_of(data: LocalData, policy: Policy) -> device_pb2.CheckInRequest:
    """Return the profile that the device sends at every check-in.

    :raises BadInputError: the data cannot be read.
    """
    contents = data.source.contents()
    kept_back = validation_count(contents.rows, data.validation_fraction)
    return device_pb2.CheckInRequest(
        protocol=device_pb2.ProtocolVersion(major=PROTOCOL_MAJOR, minor=PROTOCOL_MINOR),
        generator_version=GENERATOR_VERSION,
        capabilities=[GENERATOR_2, *([SECURE_AGGREGATION] if _can_mask() else []), *policy.capabilities],
        task="" if contents.task == CLASSIFICATION else contents.task,
        labels=contents.labels,
        training_examples=contents.rows - kept_back,
        validation_examples=kept_back,
        memory_bytes=physical_memory_bytes(),
        software=" ".join(f"{name}/{version}" for name in ("fwdllm", "onnxruntime") if (version := _installed(name))),
    )


def _work(
    link: Link,
    home: ClientHome,
    data: LocalData,
    policy: Policy,
    settings: Settings,
    permission: Permission,
    threads: int,
) -> Work:
    # Imported here so that an idle device loads neither numpy nor a tokenizer nor onnxruntime.
    from fwdllm_client.agent.allocator import return_freed_memory_to_system
    from fwdllm_client.agent.assignment import AssignmentWork, Bounds, Downloads, Senders
    from fwdllm_client.agent.energy import energy_of_this_machine
    from fwdllm_client.agent.feature_sums import FeatureSums
    from fwdllm_client.agent.job_models import JobModels
    from fwdllm_client.agent.known_answer_report import KnownAnswerReport
    from fwdllm_client.agent.measured import MeasuredDirections
    from fwdllm_client.agent.watch import watching
    from fwdllm_client.agent.worker import LocalCompute
    from fwdllm_client.cache.artifacts import ArtifactCache
    from fwdllm_client.cache.weights import Weights

    return_freed_memory_to_system()
    coordinator, retry = link.coordinator, link.retry()
    quota = CacheQuota(home.cache, settings.cache_limit_bytes)
    privacy = settings.privacy
    class_rows = None if policy.class_rows is None else max(policy.class_rows, privacy.min_batch_rows.minimum)
    return AssignmentWork(
        link,
        permission,
        Downloads(
            ArtifactCache(quota, coordinator, retry, settings.mirrors),
            Weights(quota.weights, coordinator, retry),
            JobModels(home.job_models),
        ),
        lambda bundle: LocalCompute(
            bundle, data.source, data.validation_fraction, quota, threads, privacy.min_batch_rows
        ),
        energy=energy_of_this_machine(lambda: permission.conditions.watts),
        senders=Senders(
            None if class_rows is None else FeatureSums(coordinator, retry, class_rows),
            KnownAnswerReport(coordinator, retry),
            _masked(link, privacy.min_cohort),
        ),
        bounds=Bounds(MeasuredDirections(home.measured, privacy.max_directions), privacy.check_labels),
        watch=watching,
    )


def _can_mask() -> bool:
    """Whether this device has what secure aggregation needs; nothing of it is loaded."""
    return all(find_spec(package) is not None for package in ("cryptography", "shamirs"))


def _masked(link: Link, least: int) -> MaskedScalars | None:
    if not _can_mask():
        return None
    from fwdllm_client.agent.masked import MaskedScalars

    return MaskedScalars(link, least)


def _when_needed(make: Callable[[], Work]) -> Work:
    made: list[Work] = []

    def work(assignment: device_pb2.Assignment) -> device_pb2.CheckInWindow | None:
        if not made:
            made.append(make())
        return made[0](assignment)

    return work


def _installed(name: str) -> str:
    """Read a distribution's version off its folder's name: importlib.metadata would cost an idle device 7 MB."""
    for folder in sys.path:
        for info in Path(folder).glob(f"{name}-*.dist-info"):
            return info.name.split("-")[1].removesuffix(".dist")
    return ""
