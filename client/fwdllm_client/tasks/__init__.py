"""What a device does for one task, a package each: its rows, their tokens and labels, its loss, its predictions."""

from __future__ import annotations

from pkgutil import resolve_name

from fwdllm_client.tasks.task import RowOptions, Task
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import find_task

__all__ = ["RowOptions", "Task", "task_named"]


def task_named(name: str) -> Task:
    """Return the task of this name.

    :raises BadInputError: there is none here.
    """
    spec = find_task(name)
    if spec is None:
        raise BadInputError(f"the task {name!r} is not known here; update fwdllm, or install the package that has it")
    task: Task = resolve_name(spec.client)
    return task
