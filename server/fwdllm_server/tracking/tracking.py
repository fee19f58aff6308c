"""Write a job's evaluations where experiment trackers read them."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from math import isfinite
from pathlib import Path

import structlog

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job_sections import TrackingSection
from fwdllm_server.store.ledger import EvaluationRecord

FOLDER = "tensorboard"

_log = structlog.get_logger()


class Tracking:
    """The trackers of one job; event files for TensorBoard are in ``folder``. Without trackers nothing is written.

    Where a job goes on, its curve does, at the version as the step. What cannot be written is logged: the store has the
    evaluation, and the job goes on. Threads may share the object.

    :param metric: what the task calls its accuracy; the tag is made of it.
    """

    def __init__(self, section: TrackingSection, folder: Path, metric: str = "accuracy") -> None:
        self._folder = folder if "tensorboard" in section.to else None
        self._accuracy = f"held_out/{metric.lower().replace(' ', '_')}"
        self._file: EventFile | None = None
        self._lock = threading.Lock()

    def evaluated(self, record: EvaluationRecord) -> None:
        """Write an evaluation; numbers that are not finite are left out."""
        values = {
            self._accuracy: record.accuracy,
            "held_out/loss": record.loss,
            "held_out/exact_match": record.exact_match,
            "validation/accuracy": record.validation_accuracy,
            "validation/loss": record.validation_loss,
        }
        usable = {tag: value for tag, value in values.items() if value is not None and isfinite(value)}
        with self._lock:
            if self._folder is None:
                return
            try:
                self._file = self._file or EventFile(self._folder)
                self._file.write(record.version, usable)
            except Exception as error:  # whatever it is, it is no reason to fail a job
                _log.warning("evaluation not written for the tracker", version=record.version, reason=str(error))
                self._close_file()  # it may end in a part of an event; the next evaluation begins another

    def close(self) -> None:
        """Close the files. Later evaluations are not written."""
        with self._lock:
            self._folder = None
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(Exception):  # what it still holds cannot be written
                self._file.close()
            self._file = None


class EventFile:
    """A new file of events in ``folder``, as TensorBoard reads them.

    It is written in the caller's thread. That of tensorboardX's ``SummaryWriter`` ends at the first error, and later
    calls then wait for it without end.

    :raises ImportError: tensorboardX is not installed.
    :raises OSError: the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.proto.event_pb2 import Event  # not torch's: the process that serves devices does without
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names, also two of the same second.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{secrets.token_hex(4)}"
        self._event = Event
        self._records = RecordWriter(str(folder / name))
        self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of some tags at a step.

        :raises OSError: the file cannot be written.
        """
        event = self._event(wall_time=time.time(), step=step)
        for tag, value in values.items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Close the file.

        :raises OSError: what it still holds cannot be written.
        """
        self._records.close()


def check_trackers(section: TrackingSection) -> None:
    """Check that the packages of a job's trackers are installed.

    :raises BadInputError: one is missing.
    """
    if "tensorboard" in section.to and find_spec("tensorboardX") is None:
        raise BadInputError("[tracking] to: tensorboard needs tensorboardX; pip install 'fwdllm[tensorboard]'")
