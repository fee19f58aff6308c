"""Calls to the running server, over mutual TLS with the operator's certificate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc

from fwdllm.v1.operator_pb2_grpc import OperatorServiceStub
from fwdllm_common.errors import (
    BadInputError,
    FwdllmError,
    RefusedError,
    StorageError,
    UnreachableError,
    WaitTimeoutError,
)
from fwdllm_common.protocol import CHANNEL_OPTIONS, REASON_KEY, Reason
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.server_config import ServerConfig
from fwdllm_server.rpc.unix_socket import grpc_target

ANSWER_S = 60.0
"""Seconds until a call with a single answer times out."""

_OPTIONS = (
    *CHANNEL_OPTIONS,
    # The authority signs only its own server's certificate, so that any name in it identifies the server. "localhost"
    # is always in it.
    ("grpc.ssl_target_name_override", "localhost"),
    ("grpc.enable_http_proxy", 0),
)
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - the address to call when the server listens on all


@contextmanager
def operator_service(folder: Path) -> Iterator[OperatorServiceStub]:
    """Yield a stub of the operator's service over :func:`operator_channel`."""
    with operator_channel(folder) as channel:
        yield OperatorServiceStub(channel)


@contextmanager
def operator_channel(folder: Path) -> Iterator[grpc.Channel]:
    """Yield a channel to the server of ``folder``. Convert failed calls inside the block to our exceptions.

    :raises BadInputError: ``folder`` is no server's directory, or the server rejected the request as invalid.
    :raises UnreachableError: the server does not answer.
    :raises FwdllmError: the call failed with another status; the subclass depends on the status.
    """
    home = ServerHome.open(folder)
    config = home.config()
    address = home.operator_address(config)
    with grpc.secure_channel(_target(home, config), _credentials(home), _OPTIONS) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            raise _explained(error, address, folder) from error
        except RuntimeError as error:
            # Ctrl-C within a wait of gRPC may find its lock released, and leaving the wait then raises this instead.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise


def _target(home: ServerHome, config: ServerConfig) -> str:
    if (path := home.operator_socket(config)) is not None:
        return grpc_target(path)
    host, _, port = home.operator_address(config).rpartition(":")
    return f"{_ANY_HOST.get(host, host)}:{port}"


def _credentials(home: ServerHome) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(
            home.ca_certificate.read_bytes(), home.operator_key.read_bytes(), home.operator_certificate.read_bytes()
        )
    except OSError as error:
        raise BadInputError(
            f"cannot read the operator's certificate in {home.folder} ({error.strerror}); "
            f"run as the user that owns the directory"
        ) from error


def _explained(error: grpc.RpcError, address: str, folder: Path) -> FwdllmError:
    call = cast(grpc.Call, error)  # the error of a call is also the call
    details = call.details() or "no details"
    match call.code():
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.NOT_FOUND | grpc.StatusCode.FAILED_PRECONDITION:
            return BadInputError(details)
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return RefusedError(details)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return WaitTimeoutError(f"the server at {address} did not answer in time; its log says why")
        case grpc.StatusCode.UNAVAILABLE if (REASON_KEY, Reason.STORAGE) in (call.trailing_metadata() or ()):
            return StorageError(details)
        case grpc.StatusCode.UNAVAILABLE if "CERTIFICATE_VERIFY_FAILED" in details:
            return RefusedError(
                f"the server at {address} is not the server of {folder} (another authority issued its certificate); "
                f"check [listen] operator in server.toml"
            )
        case grpc.StatusCode.UNAVAILABLE:
            return UnreachableError(f"no server answers at {address}; start it with 'fwdllm-server serve {folder}'")
        case code:
            return FwdllmError(f"the server at {address} failed ({code.name}): {details}")
