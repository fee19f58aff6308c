"""The server's directory: the paths of its files, and the lock that admits one server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fwdllm_common.errors import BadInputError, BusyError
from fwdllm_common.files import storage_error, write_atomically
from fwdllm_common.lock import locked
from fwdllm_server.config.server_config import CONFIG_FILE, UNIX, ServerConfig, in_url, is_loopback, load_config
from fwdllm_server.security.tokens import new_secret

_SHORTEST_TOKEN = 16
"""The shortest token of the dashboard, in characters."""


@dataclass(frozen=True)
class ServerHome:
    """The paths of a server's directory; files that hold a key are readable by their owner only."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> ServerHome:
        """Open the directory that ``fwdllm-server init`` made.

        :raises BadInputError: it is not a server's directory.
        """
        home = cls(folder.absolute())
        if not home.config_file.is_file():
            raise BadInputError(
                f"{folder} is not a server's directory (no {CONFIG_FILE}); "
                f"make one with 'fwdllm-server init {folder}', or name the one that there is"
            )
        return home

    @property
    def config_file(self) -> Path:
        """The configuration file, ``server.toml``."""
        return self.folder / CONFIG_FILE

    @property
    def ca_certificate(self) -> Path:
        """The certificate (PEM) of the authority that signs coordinator, operator and devices."""
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's private key, PEM."""
        return self.folder / "ca.key"

    @property
    def operator_certificate(self) -> Path:
        """The certificate (PEM) that the command line presents to the operator port."""
        return self.folder / "operator.pem"

    @property
    def operator_key(self) -> Path:
        """The private key (PEM) of :attr:`operator_certificate`."""
        return self.folder / "operator.key"

    @property
    def database(self) -> Path:
        """The SQLite file, unless the configuration names another database."""
        return self.folder / "fwdllm.db"

    @property
    def artifacts(self) -> Path:
        """The folder of content-addressed files: model bundles and snapshots."""
        return self.folder / "artifacts"

    @property
    def jobs(self) -> Path:
        """The folder that holds one folder for each job."""
        return self.folder / "jobs"

    @property
    def lock_file(self) -> Path:
        """The file that is locked while a server serves the directory; it holds the process id."""
        return self.folder / "lock"

    @property
    def operator_address_file(self) -> Path:
        """The file with the host:port that the operator port was last bound to."""
        return self.folder / "operator.address"

    @property
    def profiles(self) -> Path:
        """The folder of the reports of ``fwdllm-server profile`` that the dashboard shows, one folder each."""
        return self.folder / "profiles"

    @property
    def dashboard_address_file(self) -> Path:
        """The file with the host:port that the dashboard was last bound to."""
        return self.folder / "dashboard.address"

    @property
    def dashboard_token_file(self) -> Path:
        """The file of :meth:`dashboard_token`."""
        return self.folder / "dashboard.token"

    def config(self) -> ServerConfig:
        """Load ``server.toml`` with the environment's overrides.

        :raises BadInputError: a key or a value is wrong.
        """
        return load_config(self.config_file)

    def database_url(self, config: ServerConfig) -> str:
        """Return the URL of the configured database, by default SQLite in this directory."""
        return config.store.url or f"sqlite:///{self.database}"

    def store_folder(self, config: ServerConfig) -> Path:
        """Return the folder of artifacts and jobs: this directory, or the configured one that coordinators share."""
        return Path(config.store.folder) if config.store.folder else self.folder

    def operator_socket(self, config: ServerConfig) -> Path | None:
        """Return the path of the operator's Unix socket, None if operators call a port."""
        address = config.listen.operator
        return self.folder / address.removeprefix(UNIX) if address.startswith(UNIX) else None

    def operator_address(self, config: ServerConfig) -> str:
        """Return the address at which the command line calls the server.

        It is ``unix:`` with an absolute path, or host:port: as configured, or as last bound where port 0 is configured.
        """
        if (path := self.operator_socket(config)) is not None:
            return f"{UNIX}{path}"
        address = config.listen.operator
        if address.endswith(":0") and self.operator_address_file.exists():
            address = self.operator_address_file.read_text(encoding="utf-8")
        return address

    def record_operator_address(self, address: str) -> None:
        """Record the bound operator port for :meth:`operator_address`.

        :raises StorageError: the directory cannot be written.
        """
        write_atomically(self.operator_address_file, address.encode())

    def dashboard_url(self, config: ServerConfig) -> str:
        """Return the URL of the dashboard as configured, or as last bound for port 0; empty if it is off."""
        address = config.listen.dashboard
        if address.endswith(":0") and self.dashboard_address_file.exists():
            address = self.dashboard_address_file.read_text(encoding="utf-8")
        host, _, port = address.rpartition(":")
        if not host:
            return ""
        if is_loopback(host):
            return f"http://{address}/"
        if host in ("0.0.0.0", "[::]"):  # noqa: S104 - all addresses; devices are given one
            host = in_url(config.public.host)
        return f"https://{host}:{port}/"

    def dashboard_token(self) -> str:
        """Return the token that admits browsers on other machines to the dashboard.

        A new one is made where there is none or where it is too short.

        :raises StorageError: its file cannot be read or written.
        """
        file = self.dashboard_token_file
        try:
            token = file.read_bytes().decode("ascii", "replace").strip() if file.exists() else ""
        except OSError as error:
            raise storage_error(file, error) from error
        if len(token) < _SHORTEST_TOKEN:
            token = new_secret()
            write_atomically(file, token.encode(), mode=0o600)
        return token

    def device_authority(self, config: ServerConfig) -> bytes:
        """Return the certificate (PEM) of the operator's own authority for devices; empty if none is configured.

        :raises BadInputError: the file cannot be read or holds no certificate.
        """
        if not config.certificates.device_ca:
            return b""
        path = self.folder / config.certificates.device_ca
        try:
            pem = path.read_bytes()
        except OSError as error:
            raise BadInputError(f"[certificates] device_ca: cannot read {path} ({error.strerror})") from error
        if b"-----BEGIN CERTIFICATE-----" not in pem:
            raise BadInputError(f"[certificates] device_ca: {path} holds no certificate in PEM")
        return pem

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory for this process.

        :raises BusyError: another process has locked it.
        :raises StorageError: the directory cannot be written.
        """
        with locked(self.lock_file, f"another fwdllm-server serves {self.folder}", "stop it first"):
            yield

    @property
    def served(self) -> bool:
        """Whether a server serves the directory now."""
        try:
            with self.lock():
                return False
        except BusyError:
            return True
