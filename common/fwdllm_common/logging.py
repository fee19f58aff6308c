"""Structured logs: readable text on a terminal, one JSON object a line elsewhere."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def silence_grpc() -> None:
    """Keep what gRPC writes of its own off standard error, unless ``$GRPC_VERBOSITY`` asks its C core for it.

    The core reads that once, when the first channel or server is made.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    of_grpc = logging.getLogger("grpc")
    of_grpc.handlers, of_grpc.propagate = [logging.NullHandler()], False


def configure_logging(*, verbose: bool = False) -> None:
    """Send structlog's events to standard error; ``verbose`` shows debug events too, gRPC's lines among them."""
    silence_grpc()
    of_grpc = logging.getLogger("grpc")
    of_grpc.handlers, of_grpc.propagate = [_ForDebugging()], False
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        # Standard error is looked up at every event: it may have been replaced since.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


class _ForDebugging(logging.Handler):
    """What gRPC says in Python, with a traceback often: of calls that failed, which who made them tells in a line."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().debug("grpc", said=record.getMessage(), exc_info=record.exc_info)
