"""``fwdllm-server init``: create a server's directory."""

from __future__ import annotations

import json as json_format
import socket
import time
from typing import Annotated

import typer

from fwdllm_common.errors import BadInputError
from fwdllm_common.files import storage_error, write_atomically
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderArgument, JsonOption
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.server_config import ListenSection, PublicSection, host_of
from fwdllm_server.config.toml_model import validate
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.views.message_json import print_json

_CONFIG = """\
# The coordinator's configuration. An environment variable FWDLLM_SECTION__KEY overrides a key.

[listen] # host:port; port 0 takes any free port
device = "0.0.0.0:7443"     # mutual TLS, for enrolled devices
enrolment = "0.0.0.0:7444"  # TLS, for devices that join
operator = "unix:operator.sock" # mutual TLS, for this command line; host:port to allow it from other machines
dashboard = "127.0.0.1:7446" # for browsers: HTTP on loopback, else HTTPS with a token; "" turns it off
metrics = "127.0.0.1:7447"  # plain HTTP, /metrics for Prometheus and /healthz; "" turns it off

[public]
host = {host} # the name that devices connect to, with the ports above
names = {names} # further names or addresses of the server, for its certificate
device = {device} # host:port to give to devices instead, if a proxy, NAT or container maps the port
enrolment = {enrolment} # the same for joining
mirror = "" # http(s) URL of what 'fwdllm-server mirror' wrote: devices load models from there

[store]
url = "" # empty for SQLite in this directory, or postgresql+psycopg://user:password@host/database
folder = "" # of artifacts and jobs; empty for this directory, a shared one for several coordinators on one PostgreSQL
lease_s = 6.0 # seconds without a heartbeat of a coordinator until another one runs its jobs (failover)

[check_in] # milliseconds until a device checks in again
idle_min_ms = 60000 # while no job runs
idle_max_ms = 180000
busy_min_ms = 2000  # while it waits for a round
busy_max_ms = 5000
rate = 500.0 # most check-ins a second; the devices of a larger fleet wait longer

[certificates]
device_days = 90 # lifetime of a device's certificate; devices renew theirs in time
device_ca = ""   # PEM file of your own authority, if it issues the devices' certificates

[limits] # of devices; a device beyond them is asked to come back later
streams_per_device = 8
calls_per_s = 50.0    # of one device; each message of a stream counts as a call
calls_at_once = 20000 # of all devices together
idle_s = 300.0        # seconds without a message until a call is ended
connections_per_device = 8
connections_per_network = 32 # of callers without a certificate; raise it if many devices join through one proxy
"""


def init(
    folder: FolderArgument = DEFAULT_FOLDER,
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address of this machine for devices. Repeat it for more; devices are given the first."
        ),
    ] = None,
    public_device: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address that devices connect to, if not --host at port 7443.")
    ] = "",
    public_enrolment: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address that devices join at, if not --host at port 7444.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Create a server's directory. It holds configuration, certificate authority and operator's certificate."""
    home = ServerHome(folder.absolute())
    if home.config_file.exists():
        raise BadInputError(f"{folder} is a server's directory already; serve it with 'fwdllm-server serve {folder}'")
    hosts = host or [socket.gethostname()]
    if not host and (address := public_device or public_enrolment):
        hosts = [host_of(address) or address]
    given = {"host": hosts[0], "names": hosts[1:], "device": public_device, "enrolment": public_enrolment}
    public = validate(given, PublicSection, "init")
    authority = _make(home, public)
    listen = ListenSection()
    device = public.device_address(listen.device.rpartition(":")[2])
    enrolment = public.enrolment_address(listen.enrolment.rpartition(":")[2])
    if json:
        advertised = {"device": device, "enrolment": enrolment}
        print_json({"folder": str(home.folder), "host": hosts[0], **advertised, "ca_sha256": authority.fingerprint})
        return
    print(
        f"created {folder}; devices will join at {enrolment} and connect to {device} ([public] in "
        f"{folder}/server.toml)\n"
        f"start it with 'fwdllm-server serve {folder}'"
    )


def _make(home: ServerHome, public: PublicSection) -> CertificateAuthority:
    try:
        home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.artifacts.mkdir(exist_ok=True)
        home.jobs.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(home.folder, error) from error
    now = time.time()
    authority = CertificateAuthority.create(now)
    authority.save(home.ca_certificate, home.ca_key)
    operator = authority.issue_operator(now)
    write_atomically(home.operator_key, operator.key, mode=0o600)
    write_atomically(home.operator_certificate, operator.certificate)
    # This file marks a server's directory. It is written last, so that an interrupted init can be repeated.
    write_atomically(home.config_file, config_text(public).encode(), mode=0o600)  # [store] url may contain a password
    return authority


def config_text(public: PublicSection) -> str:
    """Return the text of a new ``server.toml``: ``[public]`` as given, every other key with its default."""
    # JSON strings and lists are also valid TOML.
    return _CONFIG.format(**{key: json_format.dumps(value) for key, value in public})
