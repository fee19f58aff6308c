"""Whole recipes by name; what a job file says itself has precedence.

A preset is part of a job's meaning: once released it is not changed, a better one gets a new name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal, TypeAlias, get_args

from fwdllm_common.task import CAUSAL_LM, CLASSIFICATION, find_task
from fwdllm_server.tasks import task_named

Preset: TypeAlias = Literal[
    "default",
    "causal-lm",
    "causal-lm-side",
    "layer-means-4096",
    "private",
    "side",
    "upper-layers",
    "fwdllm-paper",
    "mezo",
]

NAMES: tuple[str, ...] = get_args(Preset)


def with_preset(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job file's tables, completed from the preset that it names.

    A job that names none has ``default``, ``side`` if it names that method, ``upper-layers`` if it says something else
    of PEFT, or with the task ``causal-lm`` the preset of that name, ``causal-lm-side`` with the method ``side``; with
    its own blocks it stands alone. Tables are merged key by key, with three exceptions: of the preset's blocks only
    those remain that the job names, if it names any, another PEFT method takes nothing from the preset's, and a task
    without pooling takes none from it.
    """
    model = job.get("model")
    task = model.get("task", CLASSIFICATION) if isinstance(model, Mapping) else CLASSIFICATION
    name = job.get("preset", None if "blocks" in job else _own_preset(task, job.get("peft")))
    if name not in NAMES:
        return dict(job)
    preset = tomllib.loads(files(__name__).joinpath(f"{name}.toml").read_text())
    if "blocks" in job:
        preset["blocks"] = {block: keys for block, keys in preset["blocks"].items() if block in job["blocks"]}
    if "method" in job.get("peft", {}) and job["peft"]["method"] != preset["peft"]["method"]:
        del preset["peft"]
    if isinstance(task, str) and find_task(task) and "pooling" not in task_named(task).keys:
        preset.get("model", {}).pop("pooling", None)
    return _merged(preset, job)


def _own_preset(task: Any, peft: Any) -> Preset:
    is_side = isinstance(peft, Mapping) and peft.get("method") == "side"
    if task == CAUSAL_LM:
        return "causal-lm-side" if is_side else "causal-lm"
    if peft is None:
        return "default"
    return "side" if is_side else "upper-layers"


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = _merged(below[key], above[key])
    return merged
