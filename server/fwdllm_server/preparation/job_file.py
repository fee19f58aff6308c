"""Read a job file, and fill in what only the data can say."""

from __future__ import annotations

from pathlib import Path

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.toml_model import parse_toml, validate
from fwdllm_server.preparation.evaluation import held_out_source
from fwdllm_server.tasks import task_named


def read_job(text: str, base_folder: Path) -> JobSpec:
    """Parse a job file; relative paths in it start from ``base_folder``.

    Labels that it leaves out are those of the held-out rows, in the order of the alphabet, numbers by their value.

    :raises BadInputError: the job file is wrong, or leaves labels out and the held-out rows have none that could be
        meant.
    """
    spec = parse_toml(text, JobSpec, "job file")
    if spec.model.labels or "labels" not in task_named(spec.model.task).keys:
        return spec
    source = held_out_source(spec, base_folder)
    labels = source.contents().labels
    if all(label.isascii() and label.isdecimal() for label in labels):
        labels = tuple(sorted(labels, key=int))
    model = {**spec.model.model_dump(), "labels": list(labels)}
    try:
        return spec.model_copy(update={"model": validate(model, type(spec.model), "[model]")})
    except BadInputError as error:
        raise BadInputError(
            f"{source.path}: column {spec.held_out.label_column!r} has {len(labels)} labels, which cannot be a job's "
            f"({error}); name them in [model] labels, or another column in [held_out] label_column"
        ) from error
