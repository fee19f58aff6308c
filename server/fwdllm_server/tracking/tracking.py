"""Write a job's evaluations where experiment trackers read them."""

from __future__ import annotations

from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import structlog

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import TrackingSection
from fwdllm_server.store.ledger import EvaluationRecord

FOLDER = "tensorboard"

_log = structlog.get_logger()


class Tracking:
    """The trackers of one job; event files for TensorBoard are in ``folder``. Without trackers nothing is written.

    Where a job goes on, its curve does, at the version as the step.

    :raises BadInputError: a tracker's package is not installed.
    """

    def __init__(self, section: TrackingSection, folder: Path) -> None:
        check_trackers(section)
        self._writer: Any = _tensorboard(folder) if "tensorboard" in section.to else None

    def evaluated(self, record: EvaluationRecord) -> None:
        """Write an evaluation; numbers that are not finite are left out."""
        if self._writer is None:
            return
        values = {
            "held_out/accuracy" if record.exact_match is None else "held_out/f1": record.accuracy,
            "held_out/loss": record.loss,
            "held_out/exact_match": record.exact_match,
            "validation/accuracy": record.validation_accuracy,
            "validation/loss": record.validation_loss,
        }
        try:
            for tag, value in values.items():
                if value is not None and isfinite(value):
                    self._writer.add_scalar(tag, value, record.version)
            self._writer.flush()
        except OSError as error:  # the store has the evaluation, and the job goes on
            _log.warning("evaluation not written for the tracker", version=record.version, reason=str(error))

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()


def check_trackers(section: TrackingSection) -> None:
    """Check that the packages of a job's trackers are installed.

    :raises BadInputError: one is missing.
    """
    if "tensorboard" in section.to and find_spec("tensorboardX") is None:
        raise BadInputError("[tracking] to: tensorboard needs tensorboardX; pip install 'fwdllm[tensorboard]'")


def _tensorboard(folder: Path) -> Any:
    from tensorboardX import SummaryWriter  # not torch's: the process that serves devices does without torch

    return SummaryWriter(str(folder))
