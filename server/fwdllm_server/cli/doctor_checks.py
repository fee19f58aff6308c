"""The checks of ``fwdllm-server doctor``: whether this coordinator can serve, and what to do if not."""

from __future__ import annotations

import contextlib
import shutil
import socket
import stat
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from fwdllm.v1.operator_pb2 import ListJobsRequest
from fwdllm_client.engine.tiny_bundle import ENOUGH, providers_tried
from fwdllm_common.doctor import Check, Verdict, available_memory, failed, generator, ok, room, software, warning
from fwdllm_common.errors import BusyError
from fwdllm_server.cli.calls import operator_service
from fwdllm_server.cli.formatting import printable
from fwdllm_server.cli.progress import ACTIVE
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.server_config import UNIX, ServerConfig, host_of, is_loopback
from fwdllm_server.preparation.job_files import files_of_jobs
from fwdllm_server.rpc.connections import raise_descriptor_limit
from fwdllm_server.rpc.grpc_server import check_free, places_of
from fwdllm_server.rpc.unix_socket import check_socket_free
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import schema_versions, sqlite_file

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "sqlalchemy",
    "cryptography",
    "grpcio",
)
_DAY_S = 86_400
_UNKNOWN_MODEL_BYTES = 500_000_000
_STORE_BYTES = 1_000_000_000
_ANSWER_S = 10.0
_ENOUGH_DESCRIPTORS = 4096
_COPIES = 4
"""Copies of a model in memory while it is exported: PyTorch's, the graph's and those of its stages."""


def checks(home: ServerHome, clock: Callable[[], float] = time.time) -> Mapping[str, Check]:
    """Return the checks by name. A check comes after those that it depends on.

    :param clock: returns seconds since 1970.
    """
    return {
        "software": lambda: software(PACKAGES, "server"),
        "generator": generator,
        "inference": _inference,
        "directory": lambda: _directory(home),
        "certificates": lambda: _certificates(home, clock()),
        "ports": lambda: _ports(home, home.config()),
        "jobs": lambda: _jobs(home),
        "privacy": lambda: _privacy(home),
        "public names": lambda: _public_names(home.config()),
        "file descriptors": _descriptors,
        "store": lambda: _store(home, home.config()),
        "files": lambda: _files(home, home.config()),
        "disk": lambda: room(shutil.disk_usage(home.folder).free, _STORE_BYTES + _largest_model(home), "a job"),
        "memory": lambda: _memory(home),
    }


def _inference() -> Verdict:
    name, found = next(providers_tried())
    if isinstance(found, str) or found < ENOUGH:
        return failed(f"the known-answer test fails on the {name}: {found}", "pip install -U onnxruntime")
    return ok("known-answer test passed; the engine evaluates held-out rows and computes the known answers for devices")


def _directory(home: ServerHome) -> Verdict:
    config = home.config()
    database = sqlite_file(home.database_url(config))
    for file in (home.ca_key, home.operator_key, home.dashboard_token_file, database, home.config_file):
        if file is not None and file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            is_key = file in (home.ca_key, home.operator_key)
            return (failed if is_key else warning)(f"{file} can be read by others", f"chmod 600 {file}")
    return ok(f"{home.folder}: server.toml is valid, only the owner can read the keys and the database")


def _certificates(home: ServerHome, now: float) -> Verdict:
    authority = CertificateAuthority.load(home.ca_certificate, home.ca_key).certificate
    operator = x509.load_pem_x509_certificate(home.operator_certificate.read_bytes())
    moment = datetime.fromtimestamp(now, UTC)
    if moment < authority.not_valid_before_utc:
        return failed(f"the clock says {moment:%F %H:%M} UTC, before the authority was created", "set the clock")
    try:
        operator.verify_directly_issued_by(authority)
    except Exception:  # whatever kind: the certificate is not the authority's
        return failed(f"another authority issued {home.operator_certificate}", "restore it, or make a new server: init")
    ends = min(authority.not_valid_after_utc, operator.not_valid_after_utc)
    left_s = (ends - moment).total_seconds()
    if left_s <= 0:
        return failed(f"expired on {ends:%F}", "make a new server with init; its devices join again")
    if left_s < 90 * _DAY_S:
        return warning(f"valid until {ends:%F}", "plan a new server with init; its devices join again")
    return ok(f"valid until {ends:%F}; the clock says {moment:%F %H:%M} UTC")


def _ports(home: ServerHome, config: ServerConfig) -> Verdict:
    addresses = {key: address for key, address in config.listen if address}
    try:
        with home.lock():
            for key, address in addresses.items():
                if not address.startswith(UNIX):
                    check_free(key, address)
                elif path := home.operator_socket(config):
                    check_socket_free(path)
    except BusyError:
        if not home.served:
            raise
        with operator_service(home.folder) as service:
            jobs = service.ListJobs(ListJobsRequest(), timeout=_ANSWER_S).jobs
        return ok(f"the server runs and answers its operator: {len(jobs)} jobs")
    return ok(f"{', '.join(addresses.values())} are free; the server does not run")


def _jobs(home: ServerHome) -> Verdict:
    if not home.served:
        return ok("the server does not run")
    with operator_service(home.folder) as service:
        jobs = service.ListJobs(ListJobsRequest(), timeout=_ANSWER_S).jobs
    waiting = [
        f"{printable(job.name)}: {printable(job.message)}" for job in jobs if job.state in ACTIVE and job.message
    ]
    if waiting:
        return warning("; ".join(waiting), "bring the devices back that the job waits for: fwdllm-server devices list")
    return ok("no job is stalled")


def _privacy(home: ServerHome) -> Verdict:
    if not home.served:
        return ok("the server does not run")
    with operator_service(home.folder) as service:
        jobs = service.ListJobs(ListJobsRequest(), timeout=_ANSWER_S).jobs
    found = [f"{printable(job.name)}: {job.privacy}" for job in jobs if job.state in ACTIVE]
    return ok("; ".join(found) or "no job runs")


def _public_names(config: ServerConfig) -> Verdict:
    public = config.public
    advertised = (
        public.enrolment_address(config.listen.enrolment.rpartition(":")[2]),
        public.device_address(config.listen.device.rpartition(":")[2]),
    )
    here, found = [], []
    for host in dict.fromkeys(map(host_of, advertised)):
        try:
            addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None)})
        except OSError as error:
            return warning(
                f"{host} does not resolve here ({error.strerror}), and devices are given this name to connect to",
                "make sure that it resolves on the devices, or change [public] in server.toml",
            )
        here += [host] if all(map(is_loopback, addresses)) else []
        found.append(f"{host} is {', '.join(addresses)}")
    if here:
        return warning(
            f"{' and '.join(here)} is a loopback name: only devices on this machine can connect",
            "set [public] host, or device and enrolment, in server.toml to a name that devices can resolve",
        )
    return ok(f"devices join at {advertised[0]} and connect to {advertised[1]}; {'; '.join(found)}")


def _descriptors() -> Verdict:
    descriptors = raise_descriptor_limit()
    places = places_of(descriptors)
    found = (
        f"{descriptors:,} if the server is started from this shell: enough for {places.device:,} connected devices and "
        f"{places.enrolment:,} that join"
    )
    if descriptors < _ENOUGH_DESCRIPTORS:
        return warning(
            found,
            "raise the hard limit: LimitNOFILE= of systemd, --ulimit nofile= of docker, or /etc/security/limits.conf",
        )
    return ok(found)


def _store(home: ServerHome, config: ServerConfig) -> Verdict:
    kind = "SQLite" if not config.store.url else config.store.url.partition(":")[0]
    if not config.store.url and not home.database.exists():
        return ok("SQLite, created at the first start")
    found, newest = schema_versions(home.database_url(config))
    if found is None:
        return ok(f"{kind}, empty; its tables are created at the first start")
    if found != newest:
        return warning(
            f"{kind} with tables of version {found}; the next start migrates them to version {newest}",
            "back up first: copy the database and the directory",
        )
    return ok(f"{kind}, tables of version {found}")


def _files(home: ServerHome, config: ServerConfig) -> Verdict:
    """Check that every artifact is intact, and that every artifact a job refers to exists."""
    if not config.store.url and not home.database.exists():
        return ok("no jobs yet")
    artifacts = ArtifactStore(home.store_folder(config) / home.artifacts.name)
    damaged = artifacts.damaged()
    found, missing = files_of_jobs(home.database_url(config), artifacts)
    if not damaged and not missing:
        return ok(f"every file of {found} job{'s' * (found != 1)} is present and intact")
    return failed(
        "; ".join([*(f"{sha256} is damaged" for sha256 in damaged), *missing]),
        "start the server: it restores the models of running jobs, and fails the other jobs with a remedy; or restore "
        f"{home.artifacts.name}/ from a backup",
    )


def _memory(home: ServerHome) -> Verdict:
    needed = _UNKNOWN_MODEL_BYTES + _COPIES * _largest_model(home)
    return room(available_memory(), needed, "exporting a model")


def _largest_model(home: ServerHome) -> int:
    sizes = [sum(_bytes(file) for file in bundle.iterdir()) for bundle in home.jobs.glob("*/bundle")]
    return max(sizes, default=_UNKNOWN_MODEL_BYTES)


def _bytes(file: Path) -> int:
    with contextlib.suppress(OSError):  # the file of a job that is being prepared may vanish
        return file.stat().st_size
    return 0
