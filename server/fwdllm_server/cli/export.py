"""``fwdllm-server export``: the trained adapter into a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from fwdllm.v1.operator_pb2 import AdapterChunk, GetJobRequest
from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.files import storage_error, sync
from fwdllm_server.cli.calls import operator_service
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderOption, JobArgument, JsonOption
from fwdllm_server.model.adapter import name_base
from fwdllm_server.views.message_json import print_json

_MOST_PARTS = 2


def export(
    job: JobArgument,
    out: Annotated[Path, typer.Option(help="The folder to make; it must not exist, or be empty.")],
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Write the trained adapter in PEFT's format, with its tokenizer, base model and a card, into a new folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInputError(f"{out} exists and is not an empty folder; choose another with --out")
    # The folder appears whole or not at all.
    partial = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True)
        with operator_service(folder) as service:
            files = _write(partial, service.ExportAdapter(GetJobRequest(job=job)))
        name_base(partial, out)
        partial.replace(out)
        sync(out.absolute().parent)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if json:
        print_json({"folder": str(out.absolute()), "files": files})
    else:
        print(f"{out.absolute()}: {', '.join(files)}")


def _write(folder: Path, chunks: Iterable[AdapterChunk]) -> list[str]:
    names: list[str] = []
    for chunk in chunks:
        name = chunk.file_name
        if name not in names:
            _check(name)
            names.append(name)
            (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("ab") as file:
            file.write(chunk.data)
    for name in names:
        sync(folder / name)
    return names


def _check(name: str) -> None:
    """Let pass the name of a file in the folder or in a folder of it.

    :raises IntegrityError: it leads elsewhere.
    """
    parts = name.split("/")
    if len(parts) > _MOST_PARTS or any(PurePosixPath(part).name != part or part in ("", ".", "..") for part in parts):
        raise IntegrityError(f"the server sent {name!r}, which is no plain file name; nothing was exported")
