"""Renewal of the certificate, with a new key, when a third of its lifetime is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import structlog
from grpc import StatusCode

from fwdllm.v1 import device_pb2
from fwdllm_client.connection.home import ClientHome, Identity
from fwdllm_client.connection.transport import CallFailedError

LEFT = 1 / 3
"""Part of a certificate's lifetime that is left when it is renewed."""
AGAIN_S = 3600.0
"""Interval between attempts after a failed renewal, seconds."""

_log = structlog.get_logger()
Ask = Callable[[device_pb2.RenewCertificateRequest], device_pb2.RenewCertificateResponse]


class Renewal:
    """Renews the identity in ``home`` when it is due; to be called while no call is open.

    :param ask: sends a request to the coordinator and returns its response.
    :param use: makes all further calls with another identity.
    :param clock: seconds since 1970 UTC.
    """

    def __init__(
        self, home: ClientHome, ask: Ask, use: Callable[[Identity], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._home = home
        self._ask = ask
        self._use = use
        self._clock = clock
        self._identity = home.load_identity()
        self._due = self._due_at()

    def __call__(self) -> None:
        """Renew the certificate if it is due; after a failure try again in an hour.

        :raises StorageError: the disk is full.
        """
        now = self._clock()
        if now < self._due or not self._identity.renewable:
            return
        self._due = now + AGAIN_S
        # Imported here: signing may need pure-Python modules, and most agents run for weeks without it.
        from fwdllm_client.connection.keys import certificate_request, new_key

        key = new_key()
        try:
            answer = self._ask(device_pb2.RenewCertificateRequest(certificate_request=certificate_request(key)))
        except CallFailedError as error:
            cannot = error.code is StatusCode.UNIMPLEMENTED
            cause = "the coordinator's version does not support renewal" if cannot else str(error)
            _log.warning("certificate not renewed, trying again in an hour", cause=cause)
            return
        # The old certificate stays valid until the new one is used: after a crash in between, one of the two works.
        renewed = replace(self._identity, key=key, certificate=answer.certificate, expires_unix_s=answer.expires_unix_s)
        self._home.renew_identity(renewed)
        self._identity = renewed
        self._due = self._due_at()
        self._use(renewed)
        _log.info("certificate renewed", device=renewed.device_id)

    def _due_at(self) -> float:
        """Return the due time by this device's clock, seconds since 1970 UTC."""
        since = self._home.joined_at
        return self._identity.expires_unix_s - LEFT * max(0.0, self._identity.expires_unix_s - since)
