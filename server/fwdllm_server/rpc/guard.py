"""Intercept every call: check the caller's role and limits, and convert exceptions to gRPC errors."""

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
from fwdllm_server.rpc.connections import Connections
from fwdllm_server.rpc.errors import CallRefusedError, answered_errors
from fwdllm_server.rpc.identity import Context, caller_name, is_known, require_role
from fwdllm_server.rpc.open_calls import OpenCall, OpenCalls
from fwdllm_server.rpc.permissions import CALLERS
from fwdllm_server.security.roles import Role

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Read: TypeAlias = Callable[[Context, OpenCall], Awaitable[object]]


class Guard(grpc.aio.ServerInterceptor):
    """Admits the roles of :data:`CALLERS`, within the limits of ``calls``. Errors are :func:`answered_errors`.

    Methods are coroutines, or asynchronous generators where the response is a stream. A unary request is served as a
    stream of one message, which is the same on the wire: this way the caller is known before its message arrives.
    """

    def __init__(self, calls: OpenCalls, connections: Connections) -> None:
        self._calls = calls
        self._connections = connections
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler, wrapped with the checks."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        if method not in self._handlers:
            self._handlers[method] = self._guarded(handler, method)
        return self._handlers[method]

    def _guarded(self, handler: Handler, method: str) -> Handler:
        # grpc's handler type does not cover asynchronous handlers.
        inner: Any = handler
        read = self._many if handler.request_streaming else self._only
        if handler.response_streaming:
            make: Any = grpc.stream_stream_rpc_method_handler
            guarded: Any = self._stream(inner.stream_stream or inner.unary_stream, method, read)
        else:
            make = grpc.stream_unary_rpc_method_handler
            guarded = self._unary(inner.stream_unary or inner.unary_unary, method, read)
        answer: Handler = make(guarded, _deserializer(handler), handler.response_serializer)
        return answer

    def _unary(self, behaviour: Any, method: str, read: Read) -> Callable[[Any, Context], Awaitable[Any]]:
        async def guarded(_: Any, context: Context) -> Any:
            async with answered_errors(context, method), self._limited(context, method, is_stream=False) as call:
                return await behaviour(await read(context, call), context)

        return guarded

    def _stream(self, behaviour: Any, method: str, read: Read) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def guarded(_: Any, context: Context) -> AsyncIterator[Any]:
            async with (
                answered_errors(context, method),
                self._limited(context, method, is_stream=True) as call,
                aclosing(behaviour(await read(context, call), context)) as messages,
            ):
                async for message in messages:
                    yield message
                    self._calls.message_went(call)

        return guarded

    @asynccontextmanager
    async def _limited(self, context: Context, method: str, *, is_stream: bool) -> AsyncIterator[OpenCall]:
        _check(context, method)
        caller = caller_name(context)
        if is_known(context):
            self._connections.identify(context.peer(), caller)
        with self._calls.entered(caller, is_stream=is_stream) as call:
            try:
                yield call
            except asyncio.CancelledError:
                if call.ended is None:
                    raise
                raise call.ended from None

    async def _only(self, context: Context, call: OpenCall) -> object:
        """Read the message of a call with a single message."""
        request = await context.read()
        if request is grpc.aio.EOF:
            raise BadInputError("the call has no message")
        self._calls.message_came(call)
        return _readable(request)

    async def _many(self, context: Context, call: OpenCall) -> AsyncIterator[object]:
        """Return the messages of a call with any number of messages."""
        return self._messages(context, call)

    async def _messages(self, context: Context, call: OpenCall) -> AsyncIterator[object]:
        while (request := await context.read()) is not grpc.aio.EOF:
            self._calls.message_came(call)
            yield _readable(request)


def _deserializer(handler: Handler) -> Callable[[bytes], object]:
    """Return the handler's deserializer, changed to return an error for bytes that it cannot parse.

    If a deserializer raises, gRPC logs a failure of the server and answers with UNKNOWN.
    """
    parse = handler.request_deserializer or bytes

    def deserialize(data: bytes) -> object:
        try:
            return parse(data)
        except DecodeError:
            return BadInputError("the bytes are not a valid message of this call")

    return deserialize


def _readable(request: object) -> object:
    if isinstance(request, BadInputError):
        raise request
    return request


def _check(context: Context, method: str) -> None:
    allowed = CALLERS.get(method)
    if allowed is None:
        raise CallRefusedError(
            grpc.StatusCode.PERMISSION_DENIED, Reason.NOT_YOURS, f"{method} is not open to any caller"
        )
    if isinstance(allowed, Role):
        require_role(context, allowed)
