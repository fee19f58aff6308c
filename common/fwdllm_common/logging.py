"""Structured logs: text on a terminal, otherwise one JSON object per line."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def silence_grpc() -> None:
    """Keep gRPC's own log lines off standard error, unless ``$GRPC_VERBOSITY`` asks its C core for them.

    The core reads that variable once, when the first channel or server is created.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    of_grpc = logging.getLogger("grpc")
    of_grpc.handlers, of_grpc.propagate = [logging.NullHandler()], False


def configure_logging(*, verbose: bool = False, least: int = logging.INFO) -> None:
    """Send structlog's events of the level ``least`` or above to standard error.

    ``verbose`` includes all of them, and gRPC's Python log lines.
    """
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
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else least),
        # Standard error is looked up at every event, because it may have been replaced.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


class _ForDebugging(logging.Handler):
    """A handler that logs gRPC's Python records as debug events. Callers report failed calls in a line of their own."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().debug("grpc", said=record.getMessage(), exc_info=record.exc_info)
