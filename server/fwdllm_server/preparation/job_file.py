"""Read a job file, and fill in what only the data can say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fwdllm_client.data import Contents
from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.toml_model import parse_toml, validate
from fwdllm_server.preparation.evaluation import held_out_source
from fwdllm_server.tasks import task_named


def read_job(text: str, base_folder: Path) -> JobSpec:
    """Parse a job file; relative paths in it start from ``base_folder``.

    Labels that it leaves out are those of the held-out rows, in the order of the alphabet, numbers by their value.
    Balanced class weights follow from how many of these rows have each label.

    :raises BadInputError: the job file is wrong, or leaves labels out and the held-out rows have none that could be
        meant, or no held-out row has a label whose weight is to be balanced.
    """
    spec = parse_toml(text, JobSpec, "job file")
    model = spec.model
    lacks_labels = not model.labels and "labels" in task_named(model.task).keys
    if not lacks_labels and model.class_weights != "balanced":
        return spec
    source = held_out_source(spec, base_folder)
    contents = source.contents()
    labels = model.labels if model.labels else _sorted(contents.labels)
    found: dict[str, Any] = {**model.model_dump(), "labels": labels}
    if model.class_weights == "balanced":
        found["class_weights"] = _balanced(labels, contents, source.path)
    try:
        return spec.model_copy(update={"model": validate(found, type(model), "[model]")})
    except BadInputError as error:
        if not lacks_labels:
            raise
        raise BadInputError(
            f"{source.path}: column {spec.held_out.label_column!r} has {len(labels)} labels, which cannot be a job's "
            f"({error}); name them in [model] labels, or another column in [held_out] label_column"
        ) from error


def _sorted(labels: Sequence[str]) -> list[str]:
    if all(label.isascii() and label.isdecimal() for label in labels):
        return sorted(labels, key=int)
    return list(labels)


def _balanced(labels: Sequence[str], contents: Contents, path: Path) -> Mapping[str, float]:
    """Return scikit-learn's balanced class weights: the number of rows over that of classes and of a class's rows."""
    rows = contents.rows_by_label
    if missing := [label for label in labels if not rows.get(label)]:
        raise BadInputError(
            f"{path}: no row has the label {missing[0]!r}, so its class weight cannot be balanced; add rows of it, or "
            "give the weights in a table [model.class_weights]"
        )
    return {label: contents.rows / (len(labels) * rows[label]) for label in labels}
