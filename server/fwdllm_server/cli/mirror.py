"""``fwdllm-server mirror``: the models' files as a web server, a bucket or a CDN gives them to devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fwdllm_common.errors import IntegrityError
from fwdllm_common.files import make_folder
from fwdllm_common.manifest import Manifest
from fwdllm_server.cli.formatting import size
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption
from fwdllm_server.config.home import ServerHome
from fwdllm_server.views.message_json import print_json


def mirror(
    out: Annotated[Path, typer.Option(help="The folder to write into, for instance of a web server.")],
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Write the files of models into a folder, for a web server.

    Each file of every job has its SHA-256 as its name; those that are there stay. Serve the folder over HTTP(S), and
    set [public] mirror in server.toml to its URL.
    """
    # Imported here: an operator's machine has no database.
    from fwdllm_server.evaluation.stored import read_store
    from fwdllm_server.store import jobs
    from fwdllm_server.store.artifacts import is_whole

    with read_store(ServerHome(folder)) as (connection, artifacts):
        manifests = {hashes[0] for _, hashes in jobs.artifacts(connection) if hashes}
        parts = {sha256: Manifest.from_bytes(artifacts.get(sha256)).files for sha256 in manifests}
    names = sorted({*parts, *(file.sha256 for files in parts.values() for file in files)})
    make_folder(out)
    for name in names:
        if not is_whole(artifacts.path(name), name):
            raise IntegrityError(f"artifact {name} is missing or damaged; resume its job, which restores it")
        if not is_whole(out / name, name):
            artifacts.give(name, out / name)
    total = sum((out / name).stat().st_size for name in names)
    if json:
        print_json({"folder": str(out.absolute()), "files": names, "bytes": total})
    else:
        print(f"{len(names)} files of {len(manifests)} models, {size(total)}, are in {out}")
