"""The coordinator's configuration: ``server.toml``, and environment variables that override it."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.toml_model import KeyPath, near, read_toml, validate

CONFIG_FILE = "server.toml"
_PREFIX = "FWDLLM_"
_DAY_MS = 86_400_000
_STORES = ("sqlite:///", "postgresql+psycopg://")
UNIX = "unix:"
"""The prefix of the address of a Unix socket."""


def _check_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError('not an address like "0.0.0.0:7443"')
    return text


def _check_optional_address(text: str) -> str:
    return text and _check_address(text)


def _check_operator_address(text: str) -> str:
    if text.startswith(UNIX):
        if text == UNIX:
            raise ValueError('names no file; "unix:operator.sock" does')
        return text
    return _check_address(text)


def _check_host(text: str) -> str:
    if ":" in text:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            raise ValueError(
                "has a port; say it with device and enrolment in [public], or init --public-device, --public-enrolment"
            ) from None
    return text


def _check_public_address(text: str) -> str:
    if text and (text != _check_address(text) or text.endswith(":0") or not _HOST.fullmatch(host_of(text))):
        raise ValueError('not an address that devices could connect to, like "cloud.example:31443"')
    return text and f"{in_url(host_of(text))}:{text.rpartition(':')[2]}"


def host_of(address: str) -> str:
    """Return the host of host:port, an IPv6 address without its brackets."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def in_url(host: str) -> str:
    """Return the host as it is written before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def _check_store_url(text: str) -> str:
    if text and not text.startswith(_STORES):
        raise ValueError(f"should begin with {' or '.join(_STORES)}")
    return text


def _check_mirror(text: str) -> str:
    """Return a mirror's URL without a slash at its end."""
    if not text:
        return text
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or "@" in url.netloc:
        raise ValueError("should be a URL such as https://files.example.com/models, without a query and a password")
    return text.rstrip("/")


def is_loopback(host: str) -> bool:
    """Return whether a host (without a port) is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


Address = Annotated[str, AfterValidator(_check_address)]
OperatorAddress = Annotated[str, AfterValidator(_check_operator_address)]
OptionalAddress = Annotated[str, AfterValidator(_check_optional_address)]
PublicAddress = Annotated[str, AfterValidator(_check_public_address)]
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
Host = Annotated[str, Field(pattern=f"^{_HOST.pattern}$"), AfterValidator(_check_host)]
WindowMs = Annotated[int, Field(ge=1, le=_DAY_MS)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ListenSection(_Section):
    """Addresses to listen on, host:port each; port 0 takes any free one, an empty address turns the page off.

    ``operator`` may also be ``unix:`` and the path of a socket, in the server's directory if it is no absolute path.
    """

    device: Address = "0.0.0.0:7443"
    enrolment: Address = "0.0.0.0:7444"
    operator: OperatorAddress = "unix:operator.sock"
    dashboard: OptionalAddress = "127.0.0.1:7446"
    metrics: OptionalAddress = "127.0.0.1:7447"


class PublicSection(_Section):
    """What devices are told to connect to: ``host``, with the ports that are listened on.

    Where a proxy, a NAT or a container has other ports outside, ``device`` and ``enrolment`` are the addresses there,
    host:port each. ``names`` are further hosts that the certificate is good for. ``mirror`` is the URL below which
    devices find the files of models too, each under its SHA-256, as ``fwdllm-server mirror`` writes them.
    """

    host: Host = "localhost"
    names: list[Host] = []
    device: PublicAddress = ""
    enrolment: PublicAddress = ""
    mirror: Annotated[str, AfterValidator(_check_mirror), Field(max_length=1024)] = ""

    def device_address(self, port: int | str) -> str:
        """Return the host:port that joined devices connect to when the coordinator listens on ``port`` for them."""
        return self.device or f"{in_url(self.host)}:{port}"

    def enrolment_address(self, port: int | str) -> str:
        """Return the host:port at which devices join when the coordinator listens on ``port`` for that."""
        return self.enrolment or f"{in_url(self.host)}:{port}"

    @property
    def hosts(self) -> list[str]:
        """Every name and address that devices may reach the coordinator by."""
        told = [host_of(address) for address in (self.device, self.enrolment) if address]
        return list(dict.fromkeys([self.host, *told, *self.names]))


class StoreSection(_Section):
    """Where everything is kept.

    ``url`` is SQLAlchemy's; empty for SQLite in the server's directory. ``folder`` has artifacts and jobs; empty for
    the server's directory too. With PostgreSQL and a shared folder there may be several coordinators: one of them
    drives a job, and another goes on if it has not been heard of for ``lease_s`` seconds.
    """

    # Not shown in messages: it may hold a password.
    url: Annotated[str, AfterValidator(_check_store_url), Field(repr=False)] = ""
    folder: str = ""
    lease_s: float = Field(default=6.0, ge=0.1, le=3600)

    @field_validator("folder")
    @classmethod
    def _folder_is_absolute(cls, folder: str) -> str:
        if folder and not Path(folder).is_absolute():
            raise ValueError("must be an absolute path")
        return folder


class CheckInSection(_Section):
    """When devices come back, milliseconds: ``busy`` while they wait for a round, ``idle`` with no job to wait for.

    Of a fleet too large for that no more than ``rate`` devices a second come back, and the others later.
    """

    idle_min_ms: WindowMs = 60_000
    idle_max_ms: WindowMs = 180_000
    busy_min_ms: WindowMs = 2_000
    busy_max_ms: WindowMs = 5_000
    rate: float = Field(default=500.0, gt=0, le=1e6)

    @model_validator(mode="after")
    def _in_order(self) -> CheckInSection:
        if self.idle_max_ms < self.idle_min_ms:
            raise ValueError("idle_max_ms is below idle_min_ms")
        if self.busy_max_ms < self.busy_min_ms:
            raise ValueError("busy_max_ms is below busy_min_ms")
        return self


class CertificatesSection(_Section):
    """``device_days`` is how long a device's certificate is good for.

    ``device_ca`` is a PEM file, in the server's directory if it is no absolute path, of an authority of your own:
    whoever has a certificate of it is a device, by its common name.
    """

    device_days: int = Field(default=90, ge=1, le=3650)
    device_ca: str = ""


class LimitsSection(_Section):
    """What devices may use; beyond it they are told when to come back.

    A device has at most ``streams_per_device`` open streams and makes ``calls_per_s``, each message of a stream being
    one; all together have ``calls_at_once`` open. A call without a message for ``idle_s`` seconds is ended. Of a
    device's connections the oldest beyond ``connections_per_device`` are closed. Who shows no certificate is counted by
    the network of the call, an IPv4 address or the /64 of an IPv6 one, with ``connections_per_network``.
    """

    streams_per_device: int = Field(default=8, ge=1, le=1000)
    calls_per_s: float = Field(default=50.0, ge=1, le=1e9)
    calls_at_once: int = Field(default=20_000, ge=1, le=1_000_000)
    idle_s: float = Field(default=300.0, ge=1, le=86_400)
    connections_per_device: int = Field(default=8, ge=1, le=100_000)
    connections_per_network: int = Field(default=32, ge=1, le=100_000)


class ServerConfig(_Section):
    """Everything that ``server.toml`` can say."""

    listen: ListenSection = ListenSection()
    public: PublicSection = PublicSection()
    store: StoreSection = StoreSection()
    check_in: CheckInSection = CheckInSection()
    certificates: CertificatesSection = CertificatesSection()
    limits: LimitsSection = LimitsSection()

    @property
    def certificate_hosts(self) -> list[str]:
        """Names and addresses that the server's certificate is good for."""
        return [*self.public.hosts, "localhost", "127.0.0.1", socket.gethostname()]


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> ServerConfig:
    """Load the configuration in ``path``, overridden by ``FWDLLM_SECTION__KEY`` variables.

    :raises BadInputError: the file cannot be read, or it or a variable is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}); check its path and permissions") from error
    data = read_toml(text, str(path))
    sources = _override(data, os.environ if environment is None else environment)
    return validate(data, ServerConfig, str(path), sources)


def _override(data: dict[str, Any], environment: Mapping[str, str]) -> dict[KeyPath, str]:
    """Put the variables' values into ``data``; return the origin of each by its key."""
    sources: dict[KeyPath, str] = {}
    sections = list(ServerConfig.model_fields)
    for name, value in sorted(environment.items()):
        section, separator, key = name.removeprefix(_PREFIX).lower().partition("__")
        if not name.startswith(_PREFIX) or not separator:
            continue
        if section not in sections:
            # Agents on the same machine have other sections: only a likely misspelling is an error.
            if guess := near(section, sections):
                raise BadInputError(f"environment variable {name}: [{section}] is no known section{guess}")
            continue
        table = data.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value.split(",") if (section, key) == ("public", "names") else value
            sources[(section, key)] = f"environment variable {name}"
    return sources
