"""The join tokens and the devices that used them; times are seconds since 1970 UTC, given by the caller."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, or_, select, update

from fwdllm.v1 import conditions_pb2
from fwdllm_common.errors import BadInputError, RefusedError
from fwdllm_server.security.tokens import new_secret, secret_digest
from fwdllm_server.store.schema import devices, join_tokens


class RevokedError(RefusedError):
    """The device was revoked."""


@dataclass(frozen=True)
class Device:
    """A device that has enrolled."""

    id: str
    name: str
    enrolled_at: float
    revoked_at: float | None
    last_seen_at: float | None
    training_examples: int
    software: str
    conditions: conditions_pb2.Conditions | None = None
    certificates_from: float = 0.0

    @property
    def revoked(self) -> bool:
        """Whether the device is revoked."""
        return self.revoked_at is not None


def create_token(connection: Connection, name: str, expires_at: float) -> str:
    """Create a secret with which one device may enrol as ``name``; an unused one for that name becomes void.

    :raises BadInputError: a device of that name is enrolled already.
    """
    if _one(connection, devices.c.name == name, devices.c.revoked_at.is_(None)):
        raise BadInputError(
            f'a device named "{name}" is enrolled already; choose another name, '
            f"or revoke it first with 'fwdllm-server devices revoke {name}'"
        )
    unused = join_tokens.c.used_by_key_sha256.is_(None)
    connection.execute(delete(join_tokens).where(join_tokens.c.name == name, unused))
    secret = new_secret()
    connection.execute(
        insert(join_tokens).values(secret_sha256=secret_digest(secret), name=name, expires_at=expires_at)
    )
    return secret


def awaits(connection: Connection, name: str, now: float) -> bool:
    """Return whether a device may still enrol as ``name`` with an unused secret."""
    unused = join_tokens.c.used_by_key_sha256.is_(None)
    query = select(join_tokens.c.name).where(join_tokens.c.name == name, unused, join_tokens.c.expires_at > now)
    return connection.execute(query).first() is not None


def enrol(connection: Connection, secret: str, key_sha256: str, now: float) -> Device:
    """Enrol the device whose key is ``key_sha256`` (hex) with ``secret``, and return it.

    The same key may use the same secret again, also after it has expired: the answer may have been lost, or the
    certificate may be about to expire.

    :raises RevokedError: the device was revoked.
    :raises RefusedError: the secret is unknown, used by another device or expired.
    """
    digest = secret_digest(secret)
    token = connection.execute(select(join_tokens).where(join_tokens.c.secret_sha256 == digest)).one_or_none()
    again = "ask the operator for a new one ('fwdllm-server enroll --name NAME')"
    if token is None:
        raise RefusedError(f"the join token is not known here or was replaced by a newer one; {again}")
    if token.used_by_key_sha256 not in (None, key_sha256):
        raise RefusedError(f"the join token has been used by another device; {again}")
    known = _one(connection, devices.c.key_sha256 == key_sha256)
    if known and known.revoked:
        raise RevokedError("this device was revoked; it needs a new key and a new join token to come back")
    if known and token.used_by_key_sha256:
        return known
    if token.expires_at <= now:
        raise RefusedError(f"the join token has expired; {again}")
    _use(connection, digest, key_sha256, again)
    if known:
        connection.execute(update(devices).where(devices.c.id == known.id).values(name=token.name))
        return device(connection, known.id) or known
    return add(connection, f"dev-{secrets.token_hex(8)}", token.name, key_sha256, now)


def add(connection: Connection, device_id: str, name: str, key_sha256: str, now: float) -> Device:
    """Add a device."""
    connection.execute(insert(devices).values(id=device_id, name=name, key_sha256=key_sha256, enrolled_at=now))
    return Device(device_id, name, now, None, None, 0, "")


def _use(connection: Connection, digest: str, key_sha256: str, again: str) -> None:
    unused = join_tokens.c.used_by_key_sha256.is_(None)
    used = connection.execute(
        update(join_tokens).where(join_tokens.c.secret_sha256 == digest, unused).values(used_by_key_sha256=key_sha256)
    )
    if used.rowcount != 1:  # another transaction has used it first
        raise RefusedError(f"the join token has been used by another device; {again}")


def device(connection: Connection, device_id: str) -> Device | None:
    """Return the device with this id, None if there is none."""
    return by_id(connection, [device_id]).get(device_id)


def find_device(connection: Connection, id_or_name: str) -> Device | None:
    """Return the device with this id or the newest of this name, revoked ones last; None if there is none."""
    return _one(connection, or_(devices.c.id == id_or_name, devices.c.name == id_or_name))


def all_devices(connection: Connection) -> list[Device]:
    """Return every device, the newest first."""
    query = select(devices).order_by(devices.c.enrolled_at.desc(), devices.c.id)
    return [_device(row) for row in connection.execute(query)]


def revoke(connection: Connection, device_id: str, now: float) -> None:
    """Revoke the device at ``now``; a device that is revoked already keeps its time."""
    live = devices.c.revoked_at.is_(None)
    connection.execute(update(devices).where(devices.c.id == device_id, live).values(revoked_at=now))


def showed_certificate(connection: Connection, device_id: str, issued_at: float) -> None:
    """Record the issue time of the device's newest certificate; older ones are refused from now on."""
    connection.execute(update(devices).where(devices.c.id == device_id).values(certificates_from=issued_at))


def revoked_among(connection: Connection, device_ids: Collection[str]) -> Collection[str]:
    """Return those of the devices that are revoked."""
    # Reads all revoked devices: they are few, while those with open calls may be more than a statement can name.
    found = connection.execute(select(devices.c.id).where(devices.c.revoked_at.is_not(None))).scalars()
    return set(found) & set(device_ids)


_SAID = (devices.c.last_seen_at, devices.c.training_examples, devices.c.software, devices.c.conditions)
_SEEN = (
    update(devices)
    .where(devices.c.id == bindparam("device"))
    .values({column: bindparam(column.name) for column in _SAID})
)


@dataclass(frozen=True)
class Sighting:
    """The facts that a device reports when it checks in."""

    device_id: str
    training_examples: int
    software: str
    conditions: conditions_pb2.Conditions | None = None


def seen(connection: Connection, sightings: Sequence[Sighting], now: float) -> None:
    """Record what devices reported when they checked in at ``now``."""
    rows = [
        {
            "device": sighting.device_id,
            "last_seen_at": now,
            "training_examples": sighting.training_examples,
            "software": sighting.software,
            "conditions": None
            if sighting.conditions is None
            else sighting.conditions.SerializeToString(deterministic=True),
        }
        for sighting in sightings
    ]
    if rows:
        connection.execute(_SEEN, rows)


_BY_ID = select(devices).where(devices.c.id.in_(bindparam("ids", expanding=True)))


def by_id(connection: Connection, device_ids: Collection[str]) -> Mapping[str, Device]:
    """Return those of the devices that are enrolled, by id."""
    return {row.id: _device(row) for row in connection.execute(_BY_ID, {"ids": list(device_ids)})}


def most_examples(connection: Connection, device_ids: Collection[str]) -> int:
    """Return the most local rows that one of the devices has; 0 if there is none."""
    return max((found.training_examples for found in by_id(connection, device_ids).values()), default=0)


def _one(connection: Connection, *conditions: Any) -> Device | None:
    revoked_last = devices.c.revoked_at.is_not(None)
    query = select(devices).where(*conditions).order_by(revoked_last, devices.c.enrolled_at.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return _device(row) if row else None


def _device(row: Row[Any]) -> Device:
    return Device(
        row.id,
        row.name,
        row.enrolled_at,
        row.revoked_at,
        row.last_seen_at,
        row.training_examples,
        row.software,
        None if row.conditions is None else conditions_pb2.Conditions.FromString(row.conditions),
        row.certificates_from,
    )
