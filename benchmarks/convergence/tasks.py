"""The tasks: which rows the devices hold, which choose settings, which are reported."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.convergence import data_sets
from benchmarks.convergence.data_sets import Reader, Row
from fwdllm_server.cli.demo.bbc_news import TOPICS

_QUICK_ROWS = {"devices": 200, "validation": 60, "test": 100}
_QUICK_DEVICES = 10
_QUICK_TOKENS = 32
_QUICK_CURVE_ROWS = 60


@dataclass(frozen=True)
class Task:
    """A data set as a benchmark.

    ``folder`` of the data sets' folder holds it; empty, it comes from a Python package. The curve is measured on the
    first ``curve_rows`` test rows, the final figure on all. ``devices`` is how many a simulated population has, unless
    each user is one. Passes are reported to each of the ``targets``; non-IID slow-down is measured to ``goal``.
    """

    name: str
    title: str
    folder: str
    read: Reader
    labels: tuple[str, ...]
    max_tokens: int
    curve_rows: int
    targets: tuple[float, ...]
    goal: float
    devices: int = 100


TASKS = {
    task.name: task
    for task in (
        Task(
            "bbc_news",
            "BBC News",
            folder="",
            read=data_sets.bbc_news,
            labels=TOPICS,
            max_tokens=64,
            curve_rows=445,
            targets=(0.80, 0.90, 0.95),
            goal=0.90,
        ),
        Task(
            "ag_news",
            "AG News",
            folder="ag_news",
            read=data_sets.ag_news,
            labels=("1", "2", "3", "4"),
            max_tokens=64,
            curve_rows=1900,
            targets=(0.80, 0.85, 0.87),
            goal=0.85,
        ),
        Task(
            "yelp_sentences",
            "Yelp sentence polarity",
            folder="yelp_sentences",
            read=data_sets.yelp_sentences,
            labels=("0", "1"),
            max_tokens=48,
            curve_rows=2000,
            targets=(0.85, 0.90, 0.92),
            goal=0.90,
        ),
        Task(
            "twitter_airline",
            "Airline tweets",
            folder="twitter_airline",
            read=data_sets.twitter_airline,
            labels=("0", "1", "2"),
            max_tokens=64,
            curve_rows=2000,
            targets=(0.70, 0.75),
            goal=0.75,
            devices=1000,
        ),
        Task(
            "clinc150",
            "CLINC150, 150 intents",
            folder="clinc150",
            read=data_sets.clinc150,
            labels=tuple(map(str, range(data_sets.CLINC_INTENTS))),
            max_tokens=40,
            curve_rows=1000,
            targets=(0.70, 0.85, 0.90),
            goal=0.85,
        ),
        Task(
            "sms_spam",
            "SMS spam",
            folder="sms_spam",
            read=data_sets.sms_spam,
            labels=data_sets.SMS_LABELS,
            max_tokens=64,
            curve_rows=1000,
            targets=(0.95, 0.97),
            goal=0.97,
        ),
    )
}
QUICK_TASK = "bbc_news"


@dataclass(frozen=True)
class TaskFiles:
    """A task's rows as CSV files with the columns text, label and user, and its sizes in this run."""

    task: Task
    folder: Path
    max_tokens: int
    devices: int

    @property
    def training(self) -> Path:
        """The rows of all devices."""
        return self.folder / "devices.csv"

    @property
    def validation(self) -> Path:
        """Rows that only settings are chosen on."""
        return self.folder / "validation.csv"

    @property
    def curve(self) -> Path:
        """The test rows that curves are measured on."""
        return self.folder / "curve.csv"

    @property
    def test(self) -> Path:
        """All test rows."""
        return self.folder / "test.csv"

    @property
    def users(self) -> list[str]:
        """Whose each of the devices' rows is."""
        return [row.user for row in read_rows(self.training)]

    @cached_property
    def facts(self) -> dict[str, object]:
        """Rows and SHA-256 of each file: what results are made from."""
        files = (self.training, self.validation, self.curve, self.test)
        return {
            file.stem: {"rows": len(read_rows(file)), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            for file in files
        }


def prepare(task: Task, data: Path | None, folder: Path, quick: bool = False) -> TaskFiles:
    """Write the task's files into ``folder``, always the same ones; those that are there stay.

    :raises FileNotFoundError: the data set is not in ``data``.
    """
    files = files_of(task, folder, quick)
    if not files.test.exists():  # the last one that is written
        splits = task.read(_source(task, data))
        if quick:
            splits = splits.cut(**_QUICK_ROWS)
        files.folder.mkdir(parents=True, exist_ok=True)
        _write(files.training, splits.devices)
        _write(files.validation, splits.validation)
        _write(files.curve, splits.test[: _QUICK_CURVE_ROWS if quick else task.curve_rows])
        _write(files.test, splits.test)
    return files


def files_of(task: Task, folder: Path, quick: bool = False) -> TaskFiles:
    """Return the task's files in ``folder``, which need not exist yet."""
    return TaskFiles(
        task,
        folder / task.name,
        max_tokens=min(task.max_tokens, _QUICK_TOKENS) if quick else task.max_tokens,
        devices=min(task.devices, _QUICK_DEVICES) if quick else task.devices,
    )


def available(task: Task, data: Path | None) -> bool:
    """Whether the task's data set is at hand."""
    return not task.folder or (data is not None and (data / task.folder).is_dir())


def read_rows(file: Path) -> list[Row]:
    """Return the rows of one of a task's files."""
    with file.open(encoding="utf-8", newline="") as opened:
        return [Row(**row) for row in csv.DictReader(opened)]


def _source(task: Task, data: Path | None) -> Path:
    if not available(task, data):
        raise FileNotFoundError(f"{task.title} is not at hand; say DATA=<folder with {task.folder}/ in it>")
    return data / task.folder if data is not None and task.folder else Path()


def _write(path: Path, rows: Sequence[Row]) -> None:
    unfinished = path.with_suffix(".part")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("text", "label", "user"))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    unfinished.replace(path)
