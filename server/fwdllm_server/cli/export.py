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

from fwdllm.v1.operator_pb2 import AdapterChunk, ExportAdapterRequest, GetJobRequest, Job
from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.files import check_new, storage_error, sync
from fwdllm_server.cli.calls import ANSWER_S, operator_service
from fwdllm_server.cli.formatting import printable, size
from fwdllm_server.cli.options import (
    DEFAULT_FOLDER,
    FolderOption,
    JobArgument,
    JsonOption,
    VersionOption,
    wanted_version,
)
from fwdllm_server.cli.progress import state_word
from fwdllm_server.model.adapter import ExportFormat, name_base
from fwdllm_server.views.message_json import print_json

_MOST_PARTS = 2


def export(
    job: JobArgument,
    out: Annotated[Path, typer.Option(help="The folder to create. It must not exist, or be empty.")],
    kind: Annotated[
        ExportFormat,
        typer.Option("--format", help="PEFT's adapter, transformers' merged model, or one ONNX graph."),
    ] = "peft",
    version: VersionOption = "",
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Write the trained model into a new folder. Its tokenizer and a card come with it."""
    check_new(out, "choose another with --out")
    # The rename below makes the export atomic: the folder appears complete or not at all.
    partial = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.tmp")
    adapter = partial.with_suffix(".adapter")
    try:
        partial.mkdir(parents=True)
        with operator_service(folder) as service:
            found = service.GetJob(GetJobRequest(job=job), timeout=ANSWER_S)
            with _progress(found, version) as report:
                request = _request(found.job_id, kind, version)
                received = receive_adapter(
                    partial if kind == "peft" else adapter, service.ExportAdapter(request), report
                )
                _check_version(request, received)
                made_of = found.version if received is None else received
                if kind == "peft":
                    name_base(partial, out)
                else:
                    report("writing the model")
                    _convert(adapter, kind, partial)
        files = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
        for name in files:
            sync(partial / name)
        partial.replace(out)
        sync(out.absolute().parent)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        for left in (partial, adapter):
            shutil.rmtree(left, ignore_errors=True)
    if json:
        print_json({"folder": str(out.absolute()), "files": files, "job_id": found.job_id, "version": made_of})
    else:
        print(f"{out.absolute()}: {', '.join(files)}")


@contextmanager
def _progress(job: Job, version: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the export's progress on a terminal. Name the job if several have its name."""
    which = f"{printable(job.name)} ({job.job_id}, {state_word(job)}) at version {version or job.version}"
    if job.same_name:
        print(f"{which}; of the same name: {', '.join(job.same_name)}, exported by their ids", file=sys.stderr)
    with Console(stderr=True).status(Text(f"exporting {which}")) as status:
        yield lambda what: status.update(Text(f"exporting {which}: {what}"))


def _request(job_id: str, kind: ExportFormat, version: str) -> ExportAdapterRequest:
    match wanted_version(version):
        case "best":
            return ExportAdapterRequest(job=job_id, format=kind, best=True)
        case number:
            return ExportAdapterRequest(job=job_id, format=kind, version=number)


def _check_version(request: ExportAdapterRequest, received: int | None) -> None:
    if received is None and (request.best or request.HasField("version")):
        raise BadInputError("this coordinator exports the newest version alone; update it, or leave --version out")


def _convert(adapter: Path, kind: ExportFormat, out: Path) -> None:
    try:
        from fwdllm_server.model.standalone import convert  # with torch: seconds that other commands do without
    except ImportError as error:
        raise BadInputError(f"--format {kind} needs torch here; pip install 'fwdllm[server]' ({error})") from error
    convert(adapter, kind, out)


def receive_adapter(folder: Path, chunks: Iterable[AdapterChunk], report: Callable[[str], None]) -> int | None:
    """Write the files of ``chunks`` into ``folder`` and return the version that they are of.

    :raises IntegrityError: the name of a file leads elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: set[str] = set()
    total = 0
    version = None
    for chunk in chunks:
        version = chunk.version if chunk.HasField("version") else None
        name = chunk.file_name
        if name not in names:
            _check(name)
            names.add(name)
            (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("ab") as file:
            file.write(chunk.data)
        total += len(chunk.data)
        report(f"{name}, {size(total)}")
    return version


def _check(name: str) -> None:
    """Check that ``name`` is a file in the folder or in a direct subfolder of it.

    :raises IntegrityError: the name is another path.
    """
    parts = name.split("/")
    if len(parts) > _MOST_PARTS or any(PurePosixPath(part).name != part or part in ("", ".", "..") for part in parts):
        raise IntegrityError(f"the server sent {name!r}, which is not a plain file name; nothing was exported")
