"""``fwdllm-server export``: write the trained adapter into a folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from fwdllm.v1.operator_pb2 import AdapterChunk, GetJobRequest, Job
from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.files import storage_error, sync
from fwdllm_server.cli.calls import ANSWER_S, operator_service
from fwdllm_server.cli.formatting import printable, size
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderOption, JobArgument, JsonOption
from fwdllm_server.cli.progress import state_word
from fwdllm_server.model.adapter import name_base
from fwdllm_server.views.message_json import print_json

_MOST_PARTS = 2


def export(
    job: JobArgument,
    out: Annotated[Path, typer.Option(help="The folder to create. It must not exist, or be empty.")],
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Write the trained adapter into a new folder, in PEFT's format. Tokenizer, base model and card are included."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInputError(f"{out} exists and is not an empty folder; choose another with --out")
    # The rename below makes the export atomic: the folder appears complete or not at all.
    partial = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True)
        with operator_service(folder) as service:
            found = service.GetJob(GetJobRequest(job=job), timeout=ANSWER_S)
            with _progress(found) as report:
                files = _write(partial, service.ExportAdapter(GetJobRequest(job=found.job_id)), report)
        name_base(partial, out)
        partial.replace(out)
        sync(out.absolute().parent)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if json:
        print_json({"folder": str(out.absolute()), "files": files, "job_id": found.job_id, "version": found.version})
    else:
        print(f"{out.absolute()}: {', '.join(files)}")


@contextmanager
def _progress(job: Job) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the export's progress on a terminal. Name the job if several have its name."""
    which = f"{printable(job.name)} ({job.job_id}, {state_word(job)}) at version {job.version}"
    if job.same_name:
        print(f"{which}; of the same name: {', '.join(job.same_name)}, exported by their ids", file=sys.stderr)
    with Console(stderr=True).status(Text(f"exporting {which}")) as status:
        yield lambda what: status.update(Text(f"exporting {which}: {what}"))


def _write(folder: Path, chunks: Iterable[AdapterChunk], report: Callable[[str], None]) -> list[str]:
    names: list[str] = []
    total = 0
    for chunk in chunks:
        name = chunk.file_name
        if name not in names:
            _check(name)
            names.append(name)
            (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("ab") as file:
            file.write(chunk.data)
        total += len(chunk.data)
        report(f"{name}, {size(total)}")
    for name in names:
        sync(folder / name)
    return names


def _check(name: str) -> None:
    """Check that ``name`` is a file in the folder or in a direct subfolder of it.

    :raises IntegrityError: the name is another path.
    """
    parts = name.split("/")
    if len(parts) > _MOST_PARTS or any(PurePosixPath(part).name != part or part in ("", ".", "..") for part in parts):
        raise IntegrityError(f"the server sent {name!r}, which is not a plain file name; nothing was exported")
