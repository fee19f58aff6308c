"""``fwdllm-server init``: make a server's directory."""

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

[listen] # host:port; port 0 takes any free one
device = "0.0.0.0:7443"     # mutual TLS, for devices that have joined
enrolment = "0.0.0.0:7444"  # TLS, for devices that join
operator = "unix:operator.sock" # mutual TLS, for this command line; host:port for one on another machine
dashboard = "127.0.0.1:7446" # for browsers: HTTP on loopback, else HTTPS and a token; "" for none
metrics = "127.0.0.1:7447"  # plain HTTP, /metrics for Prometheus and /healthz; "" for none

[public]
host = {host} # what devices are told to connect to, with the ports above
names = {names} # more names or addresses that devices may reach the server by
device = {device} # host:port to tell instead, where a proxy, a NAT or a container has another port outside
enrolment = {enrolment} # the same, where devices join

[store]
url = "" # empty for SQLite in this directory, or postgresql+psycopg://user:password@host/database
folder = "" # of artifacts and jobs, empty for this directory; a shared one for several coordinators on one PostgreSQL
lease_s = 6.0 # seconds without news of a coordinator after which another drives its jobs

[check_in] # milliseconds until a device comes back
idle_min_ms = 60000 # no job to work on
idle_max_ms = 180000
busy_min_ms = 2000  # it waits for a round
busy_max_ms = 5000
rate = 500.0 # devices that come back in a second at most: those of a larger fleet come later

[certificates]
device_days = 90 # until a device's certificate ends; devices renew theirs before
device_ca = ""   # PEM file of an authority of your own whose certificates devices may show

[limits] # of devices; beyond them they are told when to come back
streams_per_device = 8
calls_per_s = 50.0    # of each, a message of a stream being one
calls_at_once = 20000 # of all together
idle_s = 300.0        # a call without a message for so long is ended
connections_per_device = 8
connections_per_network = 32 # of those who show no certificate; more if many devices join through one proxy
"""


def init(
    folder: FolderArgument = DEFAULT_FOLDER,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address that devices reach this machine by; again for more, the first is told."),
    ] = None,
    public_device: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where devices connect to, if not to --host at port 7443.")
    ] = "",
    public_enrolment: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where devices join, if not at --host at port 7444.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Make a server's directory. It holds configuration, certificate authority, operator's certificate."""
    home = ServerHome(folder.absolute())
    if home.config_file.exists():
        raise BadInputError(f"{folder} is a server's directory already; serve it with 'fwdllm-server serve {folder}'")
    hosts = host or [socket.gethostname()]
    if not host and (told := public_device or public_enrolment):
        hosts = [host_of(told) or told]
    given = {"host": hosts[0], "names": hosts[1:], "device": public_device, "enrolment": public_enrolment}
    public = validate(given, PublicSection, "init")
    authority = _make(home, public)
    listen = ListenSection()
    device = public.device_address(listen.device.rpartition(":")[2])
    enrolment = public.enrolment_address(listen.enrolment.rpartition(":")[2])
    if json:
        told_to = {"device": device, "enrolment": enrolment}
        print_json({"folder": str(home.folder), "host": hosts[0], **told_to, "ca_sha256": authority.fingerprint})
        return
    print(
        f"made {folder}; devices will be told to join at {enrolment} and to connect to {device} ([public] in "
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
    # Last, since this file makes it a server's directory: an init that was interrupted can be repeated.
    write_atomically(home.config_file, config_text(public).encode(), mode=0o600)  # it may get a password
    return authority


def config_text(public: PublicSection) -> str:
    """``server.toml`` as ``init`` writes it, every key with its default but those of ``[public]``."""
    # JSON strings and lists are TOML too.
    return _CONFIG.format(**{key: json_format.dumps(value) for key, value in public})
