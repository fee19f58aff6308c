"""Convert exceptions to gRPC errors: a status, a line for people and a reason for programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import structlog

from fwdllm_common.errors import (
    BadInputError,
    FwdllmError,
    IntegrityError,
    RefusedError,
    StorageError,
)
from fwdllm_common.protocol import REASON_KEY, RETRY_AFTER_KEY, Reason
from fwdllm_server.metrics.live import RPC_CALLS

_log = structlog.get_logger()

_LONGEST = 2000
"""Largest size of a message in bytes. Encoding may triple it, and gRPC drops metadata above 8 KiB."""

_STATUS: tuple[tuple[type[FwdllmError], grpc.StatusCode, Reason | None], ...] = (
    (BadInputError, grpc.StatusCode.INVALID_ARGUMENT, Reason.BAD_FIELD),
    (RefusedError, grpc.StatusCode.PERMISSION_DENIED, Reason.NOT_YOURS),
    (StorageError, grpc.StatusCode.UNAVAILABLE, Reason.STORAGE),
    (IntegrityError, grpc.StatusCode.DATA_LOSS, None),
)


class CallRefusedError(FwdllmError):
    """Raised by a service to end a call with this status and reason. The caller receives the message."""

    def __init__(
        self, status: grpc.StatusCode, reason: Reason, message: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


@asynccontextmanager
async def answered_errors(context: grpc.aio.ServicerContext[Any, Any], method: str) -> AsyncIterator[None]:
    """Convert an exception inside the block to the call's status.

    An exception that is not a :class:`FwdllmError` is logged. The caller receives no details of it.
    """
    status, reason = grpc.StatusCode.OK, None
    try:
        yield
    except FwdllmError as error:
        status, reason = _status_of(error)
        if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNKNOWN):
            _log.error("call failed", method=method, code=error.code, error=str(error))
        else:
            _log.debug("call refused", method=method, status=status.name, reason=reason or "", error=str(error))
        line = str(error).encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore")
        await context.abort(status, line, _trailing(error, reason))
    except (asyncio.CancelledError, GeneratorExit):  # the caller cancelled the call
        status = grpc.StatusCode.CANCELLED
        raise
    except grpc.aio.AbortError:
        raise
    except Exception:
        status = grpc.StatusCode.INTERNAL
        _log.exception("call failed", method=method)
        await context.abort(grpc.StatusCode.INTERNAL, f"the coordinator failed in {method}; its log says why")
    finally:
        RPC_CALLS.labels(method, status.name, reason or "").inc()


def _trailing(error: FwdllmError, reason: Reason | None) -> tuple[tuple[str, str], ...]:
    trailing: list[tuple[str, str]] = [(REASON_KEY, reason)] if reason else []
    if isinstance(error, CallRefusedError) and error.retry_after_s is not None:
        trailing.append((RETRY_AFTER_KEY, str(max(1, round(1000 * error.retry_after_s)))))
    return tuple(trailing)


def _status_of(error: FwdllmError) -> tuple[grpc.StatusCode, Reason | None]:
    if isinstance(error, CallRefusedError):
        return error.status, error.reason
    for kind, status, reason in _STATUS:
        if isinstance(error, kind):
            return status, reason
    return grpc.StatusCode.UNKNOWN, None
