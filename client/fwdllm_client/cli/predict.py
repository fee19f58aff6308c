"""``fwdllm-client predict``: what the model that this device has helped to train says of texts, without a network."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fwdllm_client.cache.held import HeldModel, held_model, personal_model
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.data import Dataset
from fwdllm_client.engine import Engine
from fwdllm_client.engine.audit import audit
from fwdllm_client.tasks import RowOptions, task_named


def predict(
    home: ClientHome,
    job: str | None,
    text: str | None,
    data: Path | None,
    text_column: str = "text",
    threads: int = 0,
    personal: bool = False,
) -> dict[str, Any]:
    """Predict one ``text``, or every row of the file ``data``, whose labels are not read.

    The model is the newest that the device holds, or the newest of ``job``; with ``personal``, it has the device's own
    weights. Questions come from a file alone.

    :raises BadInputError: the device holds no such model, or the file is wrong or for another task.
    :raises IntegrityError: the model's files have changed.
    :raises NotAllowedError: a graph is not what a device runs.
    """
    model = held_model(home.cache, job)
    if personal:
        model = personal_model(home.personal, model)
    audit(model.folder, model.manifest)
    dataset = _dataset(model, text, data, text_column)
    with (
        tempfile.TemporaryDirectory() as scratch,
        Engine(model.folder, model.manifest, dataset, Path(scratch), threads, cache_limit_bytes=0) as engine,
    ):
        found = engine.predict(model.theta, np.arange(len(dataset)))
    labels, task = model.manifest.labels, task_named(model.manifest.task)
    rows = [task.shown(prediction, labels) for prediction in found]
    origin = {"job": model.job, "job_id": model.job_id, "version": model.version, "personal": personal}
    return {**origin, "predictions": rows}


def as_csv(found: dict[str, Any]) -> str:
    """Return the predictions as CSV with a head, a row of the input a line; floats as Python prints them."""
    out = io.StringIO()
    rows: Sequence[dict[str, Any]] = found["predictions"]
    writer = csv.writer(out, lineterminator="\n")
    labels = list(rows[0].get("probabilities", ()))
    writer.writerow([next(iter(rows[0])), *labels])
    for row in rows:
        writer.writerow([next(iter(row.values())), *row.get("probabilities", {}).values()])
    return out.getvalue()


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield one line for people per prediction: a label with its probability, or an answer."""
    for row in found["predictions"]:
        said = next(iter(row.values()))
        yield f"{said}  {row['probabilities'][said]:.1%}" if "probabilities" in row else said or "(no answer)"


def _dataset(model: HeldModel, text: str | None, data: Path | None, text_column: str) -> Dataset:
    task, tokenizer = task_named(model.manifest.task), model.folder / model.manifest.tokenizer.name
    if data is None:
        return task.of_texts([text or ""], tokenizer, model.manifest)
    return task.to_predict(data, RowOptions(text_column), tokenizer, model.manifest)
