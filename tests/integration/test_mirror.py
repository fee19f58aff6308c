"""``fwdllm-server mirror`` writes what devices look for below the URL that their assignments name."""

from __future__ import annotations

import asyncio
import hashlib
import json

import structlog

from fwdllm_common.manifest import Manifest
from fwdllm_server.cli import run


async def test_the_folder_has_every_file_that_an_assignment_names(folder, server, device, tmp_path, capfd):
    work = await device.assignment()
    assert work.mirror == ""
    capfd.readouterr()
    arguments = ["mirror", "--out", str(tmp_path / "files"), "--json", "--dir", str(folder / "server")]
    codes = [await asyncio.to_thread(run, arguments) for _ in range(2)]  # the second finds everything there
    structlog.reset_defaults()

    assert codes == [0, 0]
    first, second = (json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{"))
    assert first == second
    written = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    assert sorted(written) == first["files"]
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in written.items())
    manifest = Manifest.from_bytes(written[work.manifest_sha256.hex()])
    assert {file.sha256 for file in manifest.files} | {work.manifest_sha256.hex()} == set(written)
    assert first["bytes"] == sum(map(len, written.values()))


async def test_an_assignment_names_the_mirror_of_the_configuration(start, monkeypatch):
    monkeypatch.setenv("FWDLLM_PUBLIC__MIRROR", "https://files.example.com/models/")
    device = await (await start()).device("device-1")
    assert (await device.assignment()).mirror == "https://files.example.com/models"
