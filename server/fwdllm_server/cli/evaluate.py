"""``fwdllm-server evaluate``: what a job's model is worth on other rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from fwdllm_common.logging import configure_logging
from fwdllm_server.cli.formatting import columns as table
from fwdllm_server.cli.formatting import printable
from fwdllm_server.cli.options import (
    DEFAULT_FOLDER,
    FolderOption,
    JobArgument,
    JsonOption,
    VersionOption,
    wanted_version,
)
from fwdllm_server.config.home import ServerHome
from fwdllm_server.views.message_json import print_json

if TYPE_CHECKING:
    from fwdllm_server.tasks.scores import Scores

_MOST_CLASSES = 20
"""The confusion matrix of more classes is shown by ``--json`` alone."""


def evaluate(
    job: JobArgument,
    data: Annotated[Path, typer.Option(help="File of labelled rows, in a format that devices read.")],
    version: VersionOption = "",
    text_column: Annotated[str, typer.Option(help="Name of the column of texts; else as in the job file.")] = "",
    pair_column: Annotated[str, typer.Option(help="Name of the column of second texts; else as in the job file.")] = "",
    label_column: Annotated[str, typer.Option(help="Name of the column of labels; else as in the job file.")] = "",
    skip_incomplete: Annotated[
        bool, typer.Option("--skip-incomplete", help="Skip, and count, rows without a text or a label.")
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the engine; 0 means one per core.")] = 0,
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Evaluate a job's model on the rows of a file. It runs here, with the engine of the devices."""
    asked = wanted_version(version)
    configure_logging(least=logging.WARNING)
    # Imported here: the other commands need neither the engine nor scikit-learn.
    from fwdllm_server.evaluation.stored import stored_model
    from fwdllm_server.simulation.rows import read_source

    with stored_model(ServerHome.open(folder), job, asked, threads) as found:
        name = found.spec.job.name
        of = f"{printable(name)} ({found.job_id}) at version {found.model.version}"
        with Console(stderr=True).status(Text(f"evaluating {of}")):
            held_out = found.spec.held_out
            columns = (text_column or held_out.text_column, label_column or held_out.label_column)
            skip = skip_incomplete or held_out.skip_incomplete
            source, _ = read_source(data, found.spec.model, *columns, None, skip, pair_column or held_out.pair_column)
            scores = found.model.evaluate(source)
        if json:
            head = {"job": name, "job_id": found.job_id, "version": found.model.version, "data": str(data)}
            print_json({**head, **scores.to_json()})
            return
    print(f"{of}, on {scores.rows:,} rows of {printable(str(data))}\n")
    print("\n\n".join(_parts(scores)))


def _parts(scores: Scores) -> Iterator[str]:
    """Yield the tables for people."""
    from fwdllm_server.tasks.scores import classes_of, confusion_of

    yield _aligned(list(scores.figures()))
    classes, confusion = classes_of(scores), confusion_of(scores)
    if classes:
        yield table(
            ("CLASS", "PRECISION", "RECALL", "F1", "ROWS"),
            [
                (each.label, f"{each.precision:.1%}", f"{each.recall:.1%}", f"{each.f1:.1%}", f"{each.support:,}")
                for each in classes
            ],
        )
    if confusion and len(classes) <= _MOST_CLASSES:
        yield _matrix([each.label for each in classes], confusion)


def _aligned(pairs: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs)


def _matrix(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    rows = [(label, *map(str, counts)) for label, counts in zip(labels, confusion, strict=True)]
    return table(("CLASS \\ SAID", *map(printable, labels)), rows)
