"""``fwdllm-client doctor``: checks whether this device can work, each with what to type next."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import grpc

from fwdllm_client.cli.bench import joined_bundle
from fwdllm_client.conditions import Sensors
from fwdllm_client.connection.home import ClientHome, Identity
from fwdllm_client.connection.identity_check import check_identity
from fwdllm_client.connection.transport import AGENT_OPTIONS
from fwdllm_client.connection.trust import SET_CLOCK, clock_trouble, host_and_port
from fwdllm_client.engine.tiny_bundle import ENOUGH, bundle_signal_to_noise, providers_tried
from fwdllm_client.policy.settings import Settings
from fwdllm_common.doctor import Check, Verdict, available_memory, failed, generator, ok, room, software, warning
from fwdllm_common.errors import BadInputError, RefusedError, UnreachableError
from fwdllm_common.manifest import Manifest

PACKAGES = ("numpy", "onnxruntime", "tokenizers", "grpcio", "protobuf", "structlog")
_ANSWER_S = 10.0
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # grpc.health.v1.HealthCheckResponse
_DAY_S = 86_400
_UNKNOWN_MODEL_BYTES = 400_000_000
_AGENT_BYTES = 100_000_000


def checks(home: ClientHome, sensors: Sensors, clock: Callable[[], float] = time.time) -> Mapping[str, Check]:
    """Return the checks in the order of their dependencies; ``clock`` gives seconds since 1970 UTC."""
    device: dict[str, Check] = {
        "software": lambda: software(PACKAGES, "client"),
        "generator": generator,
        "inference": inference,
        "disk": lambda: _disk(home),
        "memory": lambda: _memory(home),
        "model": lambda: _model(home),
        "sensors": lambda: _sensors(home, sensors),
        "privacy": lambda: ok(Settings.load(home.settings).privacy.description),
    }
    if not home.joined:
        return {**device, "certificate": _not_joined}
    return {
        **device,
        "certificate": lambda: _certificate(home, clock()),
        "coordinator": lambda: _coordinator(home.load_identity(), clock()),
        "enrolment": lambda: _enrolment(home.load_identity()),
    }


def inference() -> Verdict:
    """Check that ONNX Runtime reproduces the known answers, on the CPU and on every other provider."""
    tried = dict(providers_tried())
    results = ", ".join(
        f"{name} {'right' if value >= ENOUGH else 'wrong'}" if isinstance(value, float) else f"no {name}"
        for name, value in tried.items()
    )
    cpu = tried["cpu"]
    if isinstance(cpu, str) or cpu < ENOUGH:
        return failed(f"the known answers are not reproduced: {results} ({cpu})", "pip install --upgrade onnxruntime")
    if any(isinstance(value, float) and value < ENOUGH for value in tried.values()):
        return warning(f"known answers: {results}", "nothing: the agent will not use it; a newer onnxruntime may help")
    return ok(f"known answers: {results}")


def _disk(home: ClientHome) -> Verdict:
    # A downloaded model needs no more space; the caches derived from it have their own limits.
    needed = _AGENT_BYTES if _downloaded(home) else _UNKNOWN_MODEL_BYTES
    return room(shutil.disk_usage(home.folder).free, needed, f"a model in {home.folder}")


def _memory(home: ClientHome) -> Verdict:
    bundle = _downloaded(home)
    if bundle is None:
        return room(available_memory(), _UNKNOWN_MODEL_BYTES, "a small model (none has been downloaded yet)")
    _, manifest = bundle
    # Frozen stages are in memory one at a time, perturbed stages together.
    sizes = [
        stage.graph.bytes + (stage.weights.bytes if stage.weights else 0)
        for stage in (*manifest.stages[manifest.frozen :], *manifest.stages[: manifest.frozen])
    ]
    perturbed = sum(sizes[: len(manifest.stages) - manifest.frozen])
    return room(available_memory(), _AGENT_BYTES + perturbed + max(sizes), "the model")


def _not_joined() -> Verdict:
    return failed(
        "this device has not joined a coordinator",
        "on the coordinator: fwdllm-server enroll --name NAME, then here: fwdllm-client join TOKEN",
    )


def _certificate(home: ClientHome, now: float) -> Verdict:
    identity = home.load_identity()
    try:
        check_identity(home, identity)
    except RefusedError as error:
        return failed(str(error), "on the coordinator: fwdllm-server enroll --name NAME, then the command above")
    left = identity.expires_unix_s - now
    joined = home.joined_at
    if now < joined:
        return failed(f"the clock says {_moment(now)}, before this device joined ({_moment(joined)})", "set the clock")
    if left <= 0:
        return failed(
            f"it expired {_moment(identity.expires_unix_s)}, or the clock is wrong (it says {_moment(now)})",
            "on the coordinator: fwdllm-server enroll --name NAME, then here: fwdllm-client join TOKEN --force",
        )
    if left < 7 * _DAY_S:
        return warning(
            f"it expires {_moment(identity.expires_unix_s)}", "ask for a new token: fwdllm-client join --force"
        )
    return ok(f"valid until {_moment(identity.expires_unix_s)}; the clock says {_moment(now)}")


def _coordinator(identity: Identity, now: float) -> Verdict:
    address = identity.device_address
    _connect(address)
    credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.certificate)
    with grpc.secure_channel(address, credentials, AGENT_OPTIONS) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        try:
            answer = check(b"", timeout=_ANSWER_S, wait_for_ready=True)
        except grpc.RpcError as error:
            if trouble := clock_trouble(address, identity.ca, now):
                return failed(trouble, SET_CLOCK)
            if (
                error.code() is not grpc.StatusCode.UNIMPLEMENTED
            ):  # an older coordinator without this service answers so
                return failed(
                    f"{address} listens, but TLS or the call fails: {error.code().name} {error.details()}",
                    "check both clocks, and that no proxy rewrites TLS; then: fwdllm-client join TOKEN --force",
                )
            answer = _SERVING
    if answer == _NOT_SERVING:
        return warning(f"{address} answers that it cannot serve now", "on the coordinator: fwdllm-server doctor")
    return ok(f"{address} answers over mutual TLS")


def _enrolment(identity: Identity) -> Verdict:
    try:
        _connect(identity.enrolment_address)
    except UnreachableError as error:
        return warning(str(error), "nothing now; it is needed to join again: open the port on the coordinator")
    return ok(f"{identity.enrolment_address} listens")


def _model(home: ClientHome) -> Verdict:
    bundle = _downloaded(home)
    if bundle is None:
        return ok("none downloaded yet; the first assignment brings it")
    value = bundle_signal_to_noise(*bundle)
    if value is None:
        return ok("the downloaded one has no known-answer test")
    if value < ENOUGH:
        return failed(
            f"its scalars are noise here (signal-to-noise ratio {value:.2g})", "pip install --upgrade onnxruntime"
        )
    return ok(f"the downloaded one reproduces the coordinator's scalars (signal-to-noise ratio {value:.3g})")


def _sensors(home: ClientHome, sensors: Sensors) -> Verdict:
    conditions, rules = sensors.read(), Settings.load(home.settings).rules
    readings = {
        "charging": conditions.charging,
        "battery": None if conditions.battery_percent is None else f"{conditions.battery_percent:.0f} %",
        "metered": conditions.metered,
        "thermal": None if conditions.thermal is None else conditions.thermal.name.lower(),
    }
    names: dict[object, str] = {None: "unknown", True: "yes", False: "no"}
    values = ", ".join(f"{name} {names.get(value, value)}" for name, value in readings.items())
    unknown = [
        name
        for name, asked in (("charging", rules.charging), ("metered", rules.unmetered))
        if asked and readings[name] is None
    ]
    if unknown:
        return warning(
            f"{values}; with {' and '.join(unknown)} unknown the agent does not work",
            f"on a phone: pkg install termux-api and the app Termux:API; elsewhere set [conditions] in {home.settings}",
        )
    if holds := rules.holds(conditions, working=False):
        return warning(
            f"{values}; held now: {'; '.join(hold.explained(conditions) for hold in holds)}",
            f"wait, or change [conditions] in {home.settings}",
        )
    return ok(f"{values}; free to work")


def _connect(address: str) -> None:
    try:
        with socket.create_connection(host_and_port(address), timeout=_ANSWER_S):
            pass
    except OSError as error:
        raise UnreachableError(
            f"nothing answers at {address} ({error.strerror or error}); start the coordinator, open the port in its "
            "firewall, and check that this device can resolve the name"
        ) from error


def _downloaded(home: ClientHome) -> tuple[Path, Manifest] | None:
    try:
        return joined_bundle(home.cache)
    except BadInputError:
        return None


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="minutes")
