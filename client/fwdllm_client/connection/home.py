"""The agent's folder: identity, cache, journal, settings and logs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fwdllm_common.errors import BadInputError, BusyError
from fwdllm_common.files import storage_error, write_atomically
from fwdllm_common.lock import locked

DEFAULT_HOME = Path("~/.fwdllm")
HOME_VARIABLE = "FWDLLM_HOME"


@dataclass(frozen=True)
class Identity:
    """The device's identity and the authority that it trusts.

    ``key``, ``certificate`` and ``ca`` are PEM; addresses are host:port; ``expires_unix_s`` is the time at which
    the certificate expires, seconds since 1970 UTC.
    """

    device_id: str
    device_address: str
    enrolment_address: str
    expires_unix_s: int
    key: bytes
    certificate: bytes
    ca: bytes

    @property
    def renewable(self) -> bool:
        """Whether the coordinator signed the certificate; an operator's own authority renews by other means."""
        return bool(self.enrolment_address)


class ClientHome:
    """The files of one agent below ``folder``, which is created if it does not exist.

    :raises StorageError: the folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.journal = folder / "journal.sqlite"
        self.settings = folder / "client.toml"
        self.choices = folder / "choices.json"
        self.sent = folder / "sent.sqlite"
        self.job_models = folder / "job-models.json"
        self.measured = folder / "measured.sqlite"
        self.notes = folder / "notes.json"
        self.personal = folder / "personal"
        self._identity = folder / "identity.json"
        self.key = folder / "key.pem"
        self._new_key = folder / "new-key.pem"
        self.certificate = folder / "certificate.pem"
        self._ca = folder / "ca.pem"
        self._renewed = folder / "renewed.json"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise storage_error(folder, error) from error

    @classmethod
    def choose(cls, folder: Path | None) -> ClientHome:
        """Use ``folder``, else the folder in FWDLLM_HOME, else ~/.fwdllm."""
        return cls((folder or Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)).expanduser())

    @property
    def joined(self) -> bool:
        """Whether the device has an identity."""
        return self._identity.exists()

    @property
    def joined_at(self) -> float:
        """Time at which the identity was saved, seconds since 1970 UTC by this device's clock."""
        return self._identity.stat().st_mtime

    def load_identity(self) -> Identity:
        """Load the identity that ``join`` saved.

        :raises BadInputError: there is none, or one of its files is missing or damaged.
        """
        if not self.joined:
            raise BadInputError(f"{self.folder} has not joined a coordinator; run: fwdllm-client join TOKEN")
        try:
            self._finish_renewal()
            value = json.loads(self._identity.read_bytes())
            return Identity(
                device_id=str(value["device_id"]),
                device_address=str(value["device_address"]),
                enrolment_address=str(value["enrolment_address"]),
                expires_unix_s=int(value["expires_unix_s"]),
                key=self.key.read_bytes(),
                certificate=self.certificate.read_bytes(),
                ca=self._ca.read_bytes(),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInputError(
                f"the identity in {self.folder} is damaged ({error}); ask for a new token and run: "
                "fwdllm-client join TOKEN --force"
            ) from error

    def pending_key(self) -> bytes | None:
        """Return the key of a join without a response so far, PEM; None if there is none."""
        return self._new_key.read_bytes() if self._new_key.exists() else None

    def save_pending_key(self, key: bytes) -> None:
        """Save the key of a join (PEM) before the request is sent, readable by the owner alone."""
        write_atomically(self._new_key, key, mode=0o600)

    def save_identity(self, identity: Identity) -> None:
        """Save ``identity``.

        A crash half-way leaves a folder that has not joined and still holds the new key, so the same token works again.
        """
        self._identity.unlink(missing_ok=True)
        self._renewed.unlink(missing_ok=True)
        write_atomically(self.key, identity.key, mode=0o600)
        write_atomically(self.certificate, identity.certificate)
        write_atomically(self._ca, identity.ca)
        value = {
            "device_id": identity.device_id,
            "device_address": identity.device_address,
            "enrolment_address": identity.enrolment_address,
            "expires_unix_s": identity.expires_unix_s,
        }
        write_atomically(self._identity, json.dumps(value, indent=2).encode())
        self._new_key.unlink(missing_ok=True)

    def renew_identity(self, identity: Identity) -> None:
        """Save ``identity``, of which only key, certificate and expiry are new.

        A crash leaves the old identity, or a file from which the next :meth:`load_identity` completes the new one.
        """
        value = {
            "key": identity.key.decode(),
            "certificate": identity.certificate.decode(),
            "expires_unix_s": identity.expires_unix_s,
        }
        write_atomically(self._renewed, json.dumps(value).encode(), mode=0o600)
        self._finish_renewal()

    def _finish_renewal(self) -> None:
        if not self._renewed.exists():
            return
        new = json.loads(self._renewed.read_bytes())
        value = json.loads(self._identity.read_bytes())
        write_atomically(self.key, new["key"].encode(), mode=0o600)
        write_atomically(self.certificate, new["certificate"].encode())
        value["expires_unix_s"] = new["expires_unix_s"]
        write_atomically(self._identity, json.dumps(value, indent=2).encode())
        self._renewed.unlink()

    def forget(self) -> None:
        """Delete the identity first, then cache, journal, choices and personal weights.

        Settings and the log of what was sent stay.

        :raises StorageError: a file cannot be deleted.
        """
        journal = [self.journal.with_name(self.journal.name + end) for end in ("", "-wal", "-shm")]
        records = (self.choices, self.job_models, self.measured, self.notes)
        try:
            keys = (self.key, self._new_key, self.certificate, self._ca)
            for path in (self._identity, self._renewed, *keys, *journal, *records):
                path.unlink(missing_ok=True)
            for folder in (self.cache, self.personal):
                if folder.exists():
                    shutil.rmtree(folder)
        except OSError as error:
            raise storage_error(self.folder, error) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process.

        :raises BusyError: another agent holds it.
        :raises StorageError: the folder cannot be written.
        """
        busy = f"another agent is running in {self.folder}"
        with locked(self.folder / "lock", busy, "stop it, or give this one its own folder with --home"):
            yield

    @property
    def running(self) -> bool:
        """Whether an agent is running in the folder."""
        try:
            with self.lock():
                return False
        except BusyError:
            return True
