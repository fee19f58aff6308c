"""Keep log lines out of notebooks and scripts that did not ask for them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from fwdllm_common.logging import configure_logging


@contextmanager
def quiet(*, verbose: bool = False) -> Iterator[None]:
    """Show warnings alone on standard error, or with ``verbose`` every event.

    A program that has configured structlog itself has its own way.
    """
    with warnings.catch_warnings():
        # tqdm's, which libraries load in every notebook: the bars that it would draw are none of ours.
        warnings.filterwarnings("ignore", "IProgress not found")
        if structlog.is_configured():
            yield
            return
        configure_logging(verbose=verbose, least=logging.WARNING)
        try:
            yield
        finally:
            structlog.reset_defaults()
