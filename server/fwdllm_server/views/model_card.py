"""The model card of an exported adapter, written from the run that made it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import version as installed_version
from pathlib import Path

from sqlalchemy import Connection

from fwdllm.v1.operator_pb2 import Job
from fwdllm_common.replay import ModelState, theta_digest
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.job_sections import ModelSection
from fwdllm_server.config.toml_text import to_toml
from fwdllm_server.model.adapter import BASE_FOLDER, ExportFormat
from fwdllm_server.store import devices, ledger
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.tasks import Task, perplexity, task_named
from fwdllm_server.views.job_status import job_message
from fwdllm_server.views.privacy_words import budget_words
from fwdllm_server.views.usage import usage

_MOST_POINTS = 20
"""The number of rows of the curve's table; a longer curve is thinned, and its last point kept."""


def model_card(
    connection: Connection,
    record: JobRecord,
    template_folder: Path,
    now: float,
    command: str,
    simulated: bool = False,
    state: ModelState | None = None,
    kind: ExportFormat = "peft",
) -> str:
    """Write, in Markdown, what a reader needs to use and judge the adapter, without any path of this machine.

    ``command`` is the command that started the run, ``state`` the version that is exported (None for the newest),
    ``kind`` the format of the export. The card is empty where the template has no base model, as for a job that an
    older version prepared.
    """
    if not (template_folder / BASE_FOLDER).is_dir():
        return ""
    spec = record.spec()
    job = job_message(connection, record, now)
    by_id = devices.by_id(connection, [usage.device_id for usage in job.devices])
    rows = sum(device.training_examples for device in by_id.values())
    config = json.loads((template_folder / BASE_FOLDER / "config.json").read_bytes())
    version = job.version if state is None else state.version
    digest = job.theta_digest if state is None else theta_digest(state.theta)
    task = task_named(spec.model.task)
    heads = ("version", *task.metrics, "loss", *(["perplexity"] if task.has_perplexity else []))
    parts = [
        _front_matter(spec, Path(record.base_folder), kind),
        f"# {record.name}",
        _summary(spec, Path(record.base_folder), simulated),
        usage(kind, spec.model, "auto_map" in config),
        "## Results\n\n" + _table(heads, _curve(connection, job, task, version)),
        "## The run\n\n" + _table(("", ""), _figures(job, rows)),
        f"## How it was made\n\n```\n{command}\n```\n\n`job.toml`:\n\n```toml\n{_job_file(record)}\n```",
        f"Made by fwdllm {installed_version('fwdllm')}. This is version {version} of the model; its θ has the SHA-256 "
        f"`{digest.hex()}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(spec: JobSpec, base_folder: Path, kind: ExportFormat) -> str:
    lines = [f"library_name: {kind}", f"pipeline_tag: {task_named(spec.model.task).pipeline}"]
    if not _is_local(spec.model, base_folder):
        lines.append(f"base_model: {json.dumps(spec.model.source)}")
    lines += ["tags:", "- fwdllm", "- federated-learning", "- forward-gradient"]
    return "---\n" + "\n".join(lines) + "\n---"


def _summary(spec: JobSpec, base_folder: Path, simulated: bool) -> str:
    source = _name(spec.model.source) if _is_local(spec.model, base_folder) else spec.model.source
    where = "simulated devices" if simulated else "devices that kept their data"
    head = "the head and " if task_named(spec.model.task).has_head else ""
    trained = "the head alone" if spec.peft.layers == [] else f"{head}{spec.peft.method}"
    labels = f" into {', '.join(spec.model.labels)}" if spec.model.labels else ""
    return (
        f"`{source}` for {spec.model.task.replace('-', ' ')}{labels}. It was fine-tuned by "
        f"[FwdLLM](https://arxiv.org/abs/2308.13894) on {where}: forward passes in perturbed directions, one number a "
        f"direction sent back, no backpropagation. Trained was {trained}; frozen weights were {spec.model.precision} "
        "on the devices and are float32 here."
    )


def _curve(connection: Connection, job: Job, task: Task, version: int) -> Iterator[Sequence[str]]:
    found = ledger.evaluations_of(connection, job.job_id)
    step = -(-len(found) // _MOST_POINTS)
    for at, each in enumerate(found):
        if at % step == 0 or at == len(found) - 1 or each.version == version:
            exact = [f"{each.exact_match or 0.0:.1%}"] if len(task.metrics) > 1 else []
            surprise = [f"{perplexity(each.loss):.4g}"] if task.has_perplexity else []
            yield str(each.version), f"{each.accuracy:.1%}", *exact, f"{each.loss:.4f}", *surprise


def _figures(job: Job, rows: int) -> Iterator[Sequence[str]]:
    yield "held-out rows, of which the results are", f"{job.latest_evaluation.rows:,}"
    yield "devices that took part", f"{len(job.devices):,}"
    yield "their training rows", f"{rows:,}"
    yield "rounds", f"{job.rounds_committed:,} of {job.rounds_wanted:,}, {job.rounds_abandoned:,} abandoned"
    yield "directions", f"{job.directions:,}"
    yield "example-passes", f"{job.example_passes:,.0f}"
    yield "device-seconds of computing", f"{job.device_seconds:,.0f}"
    yield "bytes sent by all devices", f"{sum(each.bytes_sent for each in job.devices):,}"
    yield "bytes received, without the model", f"{sum(each.bytes_received for each in job.devices):,}"
    yield "bytes of the model received", f"{sum(each.artifact_bytes for each in job.devices):,}"
    yield "trained parameters", f"{job.trainable_parameters:,}"
    yield "the head began as", job.head_init
    if job.HasField("privacy_budget"):
        yield "differential privacy of each device", budget_words(job.privacy_budget)


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def _job_file(record: JobRecord) -> str:
    """Return the job file, with every path cut to its last component."""
    tables = tomllib.loads(record.spec_toml)
    base_folder = Path(record.base_folder)
    model = tables.get("model", {})
    if (base_folder / str(model.get("source"))).exists():
        model["source"] = _name(str(model["source"]))
    for table in tables.values():
        if isinstance(table, dict) and "file" in table:
            table["file"] = _name(str(table["file"]))
    return to_toml(tables).strip()


def _is_local(model: ModelSection, base_folder: Path) -> bool:
    return model.resolved_source(base_folder) != model.source or Path(model.source).is_absolute()


def _name(path: str) -> str:
    return Path(path).name or "model"
