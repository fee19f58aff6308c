"""What every call passes before and after its service: the caller's role, and errors in one form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from fwdllm_common.errors import BadInputError
from fwdllm_common.protocol import Reason
from fwdllm_server.rpc.errors import CallRefusedError, answered_errors
from fwdllm_server.rpc.identity import Context, caller_name, require_role
from fwdllm_server.rpc.open_calls import OpenCall, OpenCalls
from fwdllm_server.rpc.permissions import CALLERS
from fwdllm_server.security.roles import Role

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Guard(grpc.aio.ServerInterceptor):
    """Lets in only whom :data:`CALLERS` names, within the limits of ``calls``; answers with :func:`answered_errors`.

    Methods are coroutines, or asynchronous generators where the answer is a stream. Without ``calls`` there are no
    limits.
    """

    def __init__(self, calls: OpenCalls | None = None) -> None:
        self._calls = calls
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, guarded."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if self._calls is not None:
            self._calls.opening()
        method = str(handler_call_details.method)
        if method not in self._handlers:
            self._handlers[method] = self._guarded(handler, method)
        return self._handlers[method]

    def _guarded(self, handler: Handler, method: str) -> Handler:
        # grpc's own handler type leaves out the asynchronous kinds.
        inner: Any = handler
        if handler.response_streaming:
            make: Any = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            guarded: Any = self._stream(inner.stream_stream or inner.unary_stream, method)
        else:
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            guarded = self._unary(inner.stream_unary or inner.unary_unary, method)
        answer: Handler = make(guarded, _deserializer(handler), handler.response_serializer)
        return answer

    def _unary(self, behaviour: Any, method: str) -> Callable[[Any, Context], Awaitable[Any]]:
        async def guarded(request: Any, context: Context) -> Any:
            async with answered_errors(context, method), self._limited(context, method, is_stream=False) as call:
                return await behaviour(self._read(request, call), context)

        return guarded

    def _stream(self, behaviour: Any, method: str) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            async with (
                answered_errors(context, method),
                self._limited(context, method, is_stream=True) as call,
                aclosing(behaviour(self._read(request, call), context)) as messages,
            ):
                async for message in messages:
                    yield message
                    if call and self._calls:
                        self._calls.message_went(call)

        return guarded

    @asynccontextmanager
    async def _limited(self, context: Context, method: str, *, is_stream: bool) -> AsyncIterator[OpenCall | None]:
        _check(context, method)
        if self._calls is None:
            yield None
            return
        with self._calls.entered(caller_name(context), is_stream=is_stream) as call:
            try:
                yield call
            except asyncio.CancelledError:
                if call.ended is None:
                    raise
                raise call.ended from None

    def _read(self, request: Any, call: OpenCall | None) -> object:
        """The message of a call, or its messages."""
        return self._heard(request, call) if hasattr(request, "__aiter__") else _readable(request)

    async def _heard(self, requests: AsyncIterator[Any], call: OpenCall | None) -> AsyncIterator[Any]:
        async for request in requests:
            if call and self._calls:
                self._calls.message_came(call)
            yield _readable(request)


def _deserializer(handler: Handler) -> Callable[[bytes], object]:
    """As the handler's; bytes that are no message become the error that the call is answered with.

    What a deserializer raises gRPC logs as a failure of ours, and answers with UNKNOWN.
    """
    parse = handler.request_deserializer or bytes

    def deserialize(data: bytes) -> object:
        try:
            return parse(data)
        except DecodeError:
            return BadInputError("these bytes are no message of this call")

    return deserialize


def _readable(request: object) -> object:
    if isinstance(request, BadInputError):
        raise request
    return request


def _check(context: Context, method: str) -> None:
    allowed = CALLERS.get(method)
    if allowed is None:
        raise CallRefusedError(grpc.StatusCode.PERMISSION_DENIED, Reason.NOT_YOURS, f"{method} may be called by nobody")
    if isinstance(allowed, Role):
        require_role(context, allowed)
