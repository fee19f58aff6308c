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
    options: RowOptions = RowOptions(),  # noqa: B008 - has no state
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
    dataset = _dataset(model, text, data, options)
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
        writer.writerow([_text(next(iter(row.values()))), *row.get("probabilities", {}).values()])
    return out.getvalue()


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield one line for people per prediction: labels with their probabilities, an answer, or what else is said."""
    for row in found["predictions"]:
        said, chances = next(iter(row.values())), row.get("probabilities")
        if chances is None:
            yield _text(said) or "(no answer)"
        else:
            chosen = [said] if isinstance(said, str) else said
            yield ", ".join(f"{label}  {chances[label]:.1%}" for label in chosen) or "(no label)"


def _text(said: Any) -> str:
    """Return what is said of a row as one text: several labels or tags with a space in between."""
    return " ".join("" if each is None else str(each) for each in said) if isinstance(said, list) else str(said)


def _dataset(model: HeldModel, text: str | None, data: Path | None, options: RowOptions) -> Dataset:
    task, tokenizer = task_named(model.manifest.task), model.folder / model.manifest.tokenizer.name
    if data is None:
        return task.of_texts([text or ""], tokenizer, model.manifest)
    return task.to_predict(data, options, tokenizer, model.manifest)
