"""``fwdllm-server job history`` and ``job spec``: what became of each version, and what the job runs."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import typer

from fwdllm.v1.operator_pb2 import GetJobRequest
from fwdllm_common.errors import BadInputError
from fwdllm_server.cli.calls import ANSWER_S, operator_service
from fwdllm_server.cli.formatting import columns, printable
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderOption, JobArgument, JsonOption
from fwdllm_server.views.message_json import as_dict, print_json
from fwdllm_server.views.version_table import HEADS, as_csv, row


def history(
    job: JobArgument,
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
    table: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets and pandas.")] = False,
) -> None:
    """Show every version of a job's model. Of each: its round, what it cost, and its worth on the held-out rows."""
    if json and table:
        raise BadInputError("say --json or --csv, not both")
    with operator_service(folder) as service:
        found = service.GetJobHistory(GetJobRequest(job=job), timeout=ANSWER_S)
    if json:
        print_json(as_dict(found))
        return
    if table:
        print(as_csv(found.versions), end="")
    elif not found.versions:
        print(f"job {printable(found.name)} has no model yet")
    else:
        heads = [head.removesuffix("_unix_s").replace("_", " ").upper() for head in HEADS]
        rows = [[_shown(*each) for each in zip(HEADS, row(version), strict=True)] for version in found.versions]
        print(columns(heads, rows))


def spec(job: JobArgument, folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """Show what a job runs. That is its file, with every default and its preset filled in."""
    with operator_service(folder) as service:
        found = service.GetJobSpec(GetJobRequest(job=job), timeout=ANSWER_S)
    resolved: dict[str, Any] = json_format.loads(found.resolved_json)
    if json:
        message = as_dict(found)
        del message["resolved_json"]
        print_json({**message, "resolved": resolved})
    else:
        print("\n".join(printable(line) for line in _lines(resolved)))


def _shown(head: str, value: float | str | None) -> str:
    if value is None:
        return "-"
    if head == "committed_unix_s":
        return datetime.fromtimestamp(float(value)).astimezone().isoformat(" ", "seconds")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(value: Any, path: str = "") -> Iterator[str]:
    """Yield ``table.key = value`` for each value that is set."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _lines(each, f"{path}.{key}" if path else key)
    elif value is not None:
        yield f"{path} = {json_format.dumps(value, ensure_ascii=False)}"
