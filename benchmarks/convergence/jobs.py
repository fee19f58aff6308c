"""The job file of a method on a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from benchmarks.convergence.methods import Changes, Method
from benchmarks.convergence.tasks import TaskFiles
from examples.materials import minilm_folder
from fwdllm_server.config.presets import with_preset

# The most that a quick run has of each, in a block that costs little and in one that costs much.
_QUICK_HEAD = {"directions": 256, "max_directions": 256, "batch_size": 8, "first_round": 3}
_QUICK_PEFT = {"directions": 6, "max_directions": 12, "batch_size": 4, "first_round": 3}
_QUICK_ROUNDS = 3


def job_of(
    method: Method, files: TaskFiles, seed: int, held_out: str, quick: bool = False, more: Changes | None = None
) -> dict[str, Any]:
    """Return the job as tables.

    ``held_out`` is one of the task's files; ``more`` are changes on top of all others.
    """
    preset = with_preset({"preset": method.preset})
    job: dict[str, Any] = {
        "preset": method.preset,
        "job": {"name": method.name, "seed": seed},
        "model": {"source": str(minilm_folder()), "labels": list(files.task.labels), "max_tokens": files.max_tokens},
        # All rows are told of: versions are not chosen by any of them.
        "held_out": {"file": held_out, "validation": 0.0},
        # A job that names blocks has only these of its preset.
        "blocks": {block: {} for block in preset["blocks"]},
    }
    for changes in (method.changes, method.on.get(files.task.name, {}), more or {}):
        for key, value in changes.items():
            _change(job, key.split("."), value)
    return _quickened(job, files.devices) if quick else job


def recipe_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """All that the job and its preset say, but for the names of files: what a result depends on."""
    tables = with_preset(job)
    recipe = {name: table for name, table in tables.items() if name not in ("preset", "held_out")}
    if recipe.get("robust") == {"clip": 0}:  # curves made before there was clipping say nothing of it
        del recipe["robust"]
    recipe["job"] = {"seed": tables["job"]["seed"]}
    recipe["model"] = {key: value for key, value in tables["model"].items() if key != "source"}
    return json.loads(json.dumps(recipe).replace("Infinity", '"inf"'))  # type: ignore[no-any-return]


def preset_digest(name: str) -> str:
    """SHA-256 of a preset's file."""
    return hashlib.sha256(files("fwdllm_server.config.presets").joinpath(f"{name}.toml").read_bytes()).hexdigest()


def to_toml(job: Mapping[str, Any]) -> str:
    """Nested tables of numbers, texts, booleans and lists as TOML."""
    return "\n".join(_lines(job, ()))


def _change(job: dict[str, Any], path: list[str], value: Any) -> None:
    *tables, key = path
    for table in tables:
        job = job.setdefault(table, {})
    if value is None:
        job.pop(key, None)
    else:
        job[key] = value


def _quickened(job: dict[str, Any], devices: int) -> dict[str, Any]:
    """Reduce a recipe so that it runs in seconds: few rounds, directions, devices and rows."""
    tables = with_preset(job)
    for name, block in tables["blocks"].items():
        for key, limit in (_QUICK_PEFT if name == "peft" else _QUICK_HEAD).items():
            if block.get(key, 0) not in ("auto", 0) and block[key] > limit:
                job["blocks"][name][key] = limit
    bounds = {"min_devices": min(tables["rounds"].get("min_devices", 1), devices), "max_devices": devices}
    job["rounds"] = {**job.get("rounds", {}), **bounds, "count": _QUICK_ROUNDS, "evaluate_every": 1}
    return job


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{key} = {_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _lines(value, (*path, key))
    return lines


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("Infinity", "inf")
