"""The tasks that a model can be trained for, by name; installed packages may bring further ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

INSTALLED_TASKS = "fwdllm.tasks"
"""The entry points by which other packages add tasks, each a :class:`TaskSpec` of the entry point's name."""

CLASSIFICATION = "classification"
"""The task of manifests and check-ins that name none."""
PAIR_CLASSIFICATION = "pair-classification"
QUESTION_ANSWERING = "question-answering"
REGRESSION = "regression"
MULTI_LABEL = "multi-label"
TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - no password
CAUSAL_LM = "causal-lm"


@dataclass(frozen=True)
class TaskSpec:
    """What both sides know of a task, and where its parts are, each ``package.module:object``.

    ``client`` is a ``fwdllm_client.tasks.task.Task``: rows, tokens, predictions and scores. ``server`` is a
    ``fwdllm_server.tasks.task.Task``: the model's head, its loss, and what people are told. A task ``has_labels`` if a
    job names them.
    """

    name: str
    client: str
    server: str
    has_labels: bool = False


_BUILT_IN: Mapping[str, TaskSpec] = {
    CLASSIFICATION: TaskSpec(
        CLASSIFICATION,
        client="fwdllm_client.tasks.classification:TASK",
        server="fwdllm_server.tasks.classification:TASK",
        has_labels=True,
    ),
    PAIR_CLASSIFICATION: TaskSpec(
        PAIR_CLASSIFICATION,
        client="fwdllm_client.tasks.pair_classification:TASK",
        server="fwdllm_server.tasks.pair_classification:TASK",
        has_labels=True,
    ),
    QUESTION_ANSWERING: TaskSpec(
        QUESTION_ANSWERING,
        client="fwdllm_client.tasks.question_answering:TASK",
        server="fwdllm_server.tasks.question_answering:TASK",
    ),
    REGRESSION: TaskSpec(
        REGRESSION,
        client="fwdllm_client.tasks.regression:TASK",
        server="fwdllm_server.tasks.regression:TASK",
    ),
    MULTI_LABEL: TaskSpec(
        MULTI_LABEL,
        client="fwdllm_client.tasks.multi_label:TASK",
        server="fwdllm_server.tasks.multi_label:TASK",
        has_labels=True,
    ),
    TOKEN_CLASSIFICATION: TaskSpec(
        TOKEN_CLASSIFICATION,
        client="fwdllm_client.tasks.token_classification:TASK",
        server="fwdllm_server.tasks.token_classification:TASK",
        has_labels=True,
    ),
    CAUSAL_LM: TaskSpec(
        CAUSAL_LM,
        client="fwdllm_client.tasks.causal_lm:TASK",
        server="fwdllm_server.tasks.causal_lm:TASK",
    ),
}


def find_task(name: str) -> TaskSpec | None:
    """Return the task of this name, None if there is none here."""
    return _BUILT_IN.get(name) or _installed().get(name)


def known_tasks() -> tuple[str, ...]:
    """Return the names of all tasks, fwdllm's own first."""
    return tuple(dict.fromkeys((*_BUILT_IN, *_installed())))


@cache
def _installed() -> Mapping[str, TaskSpec]:
    # Looked for once: names of tasks come from strangers, and a look goes through every installed package.
    return {entry.name: entry.load() for entry in entry_points(group=INSTALLED_TASKS)}
