"""What the coordinator does for one task, a file each: head, loss, rows of the known-answer test, metrics."""

from __future__ import annotations

from pkgutil import resolve_name

from fwdllm_common.errors import BadInputError
from fwdllm_common.task import find_task, known_tasks
from fwdllm_server.tasks.task import MODEL_KEYS, Task, perplexity

__all__ = ["MODEL_KEYS", "Task", "all_tasks", "perplexity", "task_named"]


def task_named(name: str) -> Task:
    """Return the task of this name.

    :raises BadInputError: there is none here.
    """
    spec = find_task(name)
    if spec is None:
        raise BadInputError(f"there is no task {name!r} in {', '.join(known_tasks())}")
    task: Task = resolve_name(spec.server)
    return task


def all_tasks() -> list[Task]:
    """Return every task, fwdllm's own first."""
    return [task_named(name) for name in known_tasks()]
