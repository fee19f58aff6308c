"""``fwdllm-client join``: exchange of a one-time token for a client certificate."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
from grpc import StatusCode

from fwdllm.v1 import device_pb2
from fwdllm_client.connection.home import ClientHome, Identity
from fwdllm_client.connection.keys import certificate_request, new_key
from fwdllm_client.connection.retry import Action, action_for, refusal
from fwdllm_client.connection.sent_log import SentLog
from fwdllm_client.connection.transport import AGENT_OPTIONS, CALL_TIMEOUT_S, CallFailedError, calling
from fwdllm_client.connection.trust import clock_trouble, pinned_authority
from fwdllm_common.errors import BadInputError, FwdllmError, RefusedError, UnreachableError
from fwdllm_common.join_token import JoinToken
from fwdllm_common.protocol import Reason

_ATTEMPTS = 5
_LONGEST_WAIT_S = 10.0


def join(home: ClientHome, text: str, *, force: bool = False, wait: Callable[[float], None] = time.sleep) -> Identity:
    """Exchange the join token ``text`` for an identity and save it in ``home``.

    The key is saved before the request is sent, so that a join whose response was lost can be repeated with the same
    token. ``force`` replaces an existing identity. A busy coordinator is called again a few times; ``wait`` sleeps for
    the given seconds.

    :raises BadInputError: the token is incomplete, the device has joined already, or its clock is wrong.
    :raises UnreachableError: the coordinator does not answer.
    :raises RefusedError: the coordinator is another one, or the token is wrong, used or expired.
    """
    token = JoinToken.decode(text.strip())
    if home.joined and not force:
        raise BadInputError(
            f"{home.folder} has joined a coordinator already; add --force to leave it and join with this token, "
            "or give the new device its own folder with --home"
        )
    authority = pinned_authority(token)
    key = home.pending_key()
    if key is None:
        key = new_key()
        home.save_pending_key(key)
    with closing(SentLog(home.sent)) as log:
        log.add(f"join {token.address}", f"a public key and a join token, to join {token.address}")
    request = device_pb2.EnrollRequest(token_secret=token.secret, certificate_request=certificate_request(key))
    try:
        answer = _enroll_patiently(token.address, authority, request, wait)
    except CallFailedError as error:
        if error.code is StatusCode.UNAVAILABLE and (trouble := clock_trouble(token.address, authority, time.time())):
            raise BadInputError(trouble) from error
        raise _explained(error, token.address) from error
    identity = Identity(
        device_id=answer.device_id,
        device_address=answer.device_address,
        enrolment_address=token.address,
        expires_unix_s=answer.expires_unix_s,
        key=key,
        certificate=answer.certificate,
        # The pinned authority, not the one in the response: trust is based on the token alone.
        ca=authority,
    )
    home.save_identity(identity)
    return identity


def token_of(argument: str | None, file: Path | None, standard_input: Callable[[], str]) -> str:
    """Return the join token in ``argument``, in ``file``, or on standard input if the argument is ``-``.

    The text may be all that ``fwdllm-server enroll`` prints. Other users of the machine can see an argument.

    :raises BadInputError: neither or both are given, or the file cannot be read.
    """
    if (argument is None) == (file is None):
        raise BadInputError(
            "name the join token once: fwdllm-client join TOKEN, join - for standard input, or join --token-file FILE"
        )
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"{file}: cannot be read ({error}); check its path and permissions") from error
    else:
        text = standard_input() if argument == "-" else str(argument)
    return next((word for word in text.split() if word.startswith(JoinToken.PREFIX)), text)


def _enroll_patiently(
    address: str, authority: bytes, request: device_pb2.EnrollRequest, wait: Callable[[float], None]
) -> device_pb2.EnrollResponse:
    for _ in range(_ATTEMPTS - 1):
        try:
            return _enroll(address, authority, request)
        except CallFailedError as error:
            if error.reason != Reason.BUSY:
                raise
            wait(min(error.retry_after_s, _LONGEST_WAIT_S))
    return _enroll(address, authority, request)


def _enroll(address: str, authority: bytes, request: device_pb2.EnrollRequest) -> device_pb2.EnrollResponse:
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), AGENT_OPTIONS) as channel:
        call = channel.unary_unary(
            "/fwdllm.v1.EnrolmentService/Enroll",
            device_pb2.EnrollRequest.SerializeToString,
            device_pb2.EnrollResponse.FromString,
        )
        with calling():
            return call(request, timeout=CALL_TIMEOUT_S)


def _explained(error: CallFailedError, address: str) -> FwdllmError:
    if error.reason == Reason.BAD_TOKEN:
        return RefusedError(f"the coordinator at {address} does not accept this token: {error.details}")
    if action_for(error) in (Action.RETRY_NOW, Action.BACK_OFF):
        return UnreachableError(f"no answer from the coordinator at {address} ({error}); try again")
    return refusal(error, address)
