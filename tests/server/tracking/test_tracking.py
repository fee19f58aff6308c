import resource
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.tiny_job import job_spec
from pydantic import ValidationError
from structlog.testing import capture_logs
from tensorboardX.proto.event_pb2 import Event

from fwdllm_server.config.job_sections import TrackingSection
from fwdllm_server.store.ledger import EvaluationRecord
from fwdllm_server.tasks import task_named
from fwdllm_server.tracking.tracking import Tracking


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points in a folder's event files, by tag: records of a length, its checksum, an event, its checksum."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_evaluations_are_steps_of_tensorboard(tmp_path):
    tracking = Tracking(TrackingSection(to=["tensorboard"]), tmp_path / "events")
    tracking.evaluated(EvaluationRecord(0, 0.25, 1.5, 10))
    tracking.evaluated(EvaluationRecord(3, 0.5, float("inf"), 10, None, 0.75, 1.25))
    tracking.close()

    assert scalars(tmp_path / "events") == {
        "held_out/accuracy": [(0, 0.25), (3, 0.5)],
        "held_out/loss": [(0, 1.5)],
        "validation/accuracy": [(3, 0.75)],
        "validation/loss": [(3, 1.25)],
    }


def test_questions_have_f1_and_exact_match(tmp_path):
    tracking = Tracking(TrackingSection(to=["tensorboard"]), tmp_path, "F1")
    tracking.evaluated(EvaluationRecord(1, 0.5, 2.0, 10, 0.25))
    tracking.close()

    assert scalars(tmp_path).keys() == {"held_out/f1", "held_out/loss", "held_out/exact_match"}


def test_the_accuracy_has_the_tasks_own_name(tmp_path):
    tracking = Tracking(TrackingSection(to=["tensorboard"]), tmp_path, task_named("causal-lm").metrics[0])
    tracking.evaluated(EvaluationRecord(1, 0.5, 2.0, 10, 0.25))
    tracking.close()

    assert scalars(tmp_path).keys() == {"held_out/token_accuracy", "held_out/loss", "held_out/exact_match"}


def test_a_job_that_asks_for_none_writes_nothing(tmp_path):
    tracking = Tracking(TrackingSection(), tmp_path / "events")
    tracking.evaluated(EvaluationRecord(0, 0.25, 1.5, 10))
    tracking.close()

    assert not (tmp_path / "events").exists()


@contextmanager
def full_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_the_events_of_its_time_alone(tmp_path):
    tracking = Tracking(TrackingSection(to=["tensorboard"]), tmp_path)
    tracking.evaluated(EvaluationRecord(0, 0.25, 1.5, 10))
    with capture_logs() as logged, full_disk():
        for version in range(1, 30):
            tracking.evaluated(EvaluationRecord(version, 0.25, 1.5, 10))
    tracking.evaluated(EvaluationRecord(30, 0.5, 1.25, 10))
    with full_disk():
        tracking.close()

    assert scalars(tmp_path) == {"held_out/accuracy": [(0, 0.25), (30, 0.5)], "held_out/loss": [(0, 1.5), (30, 1.25)]}
    assert [entry["version"] for entry in logged] == list(range(1, 30))
    assert "too large" in logged[0]["reason"]


def test_a_folder_that_cannot_be_written_is_logged(tmp_path):
    (tmp_path / "file").touch()
    tracking = Tracking(TrackingSection(to=["tensorboard"]), tmp_path / "file" / "events")
    with capture_logs() as logged:
        tracking.evaluated(EvaluationRecord(7, 0.25, 1.5, 10))
    tracking.close()

    assert [(entry["log_level"], entry["version"]) for entry in logged] == [("warning", 7)]


def test_a_package_that_is_missing_on_this_machine_is_logged(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tensorboardX")]:
        monkeypatch.setitem(sys.modules, name, None)
    tracking = Tracking(TrackingSection(to=["tensorboard"]), tmp_path / "events")
    with capture_logs() as logged:
        tracking.evaluated(EvaluationRecord(7, 0.25, 1.5, 10))
    tracking.close()

    assert "tensorboardX" in logged[0]["reason"]
    assert not (tmp_path / "events").exists()


def test_a_tracker_that_nobody_knows_is_refused():
    with pytest.raises(ValidationError, match="tensorboard"):
        job_spec({"tracking": {"to": ["paper"]}})
