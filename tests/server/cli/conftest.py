from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from server.cli.scripted import Scripted
from server.rpc.loopback import bound, make_home

from fwdllm.v1.operator_pb2_grpc import add_OperatorServiceServicer_to_server
from fwdllm_server.cli import run
from fwdllm_server.config.home import ServerHome
from fwdllm_server.rpc.grpc_server import Servers

_C_CORE = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ ")


@pytest.fixture(autouse=True)
def no_debug_lines() -> Iterator[None]:
    """The service runs in this process: without ``--verbose`` a server's debug lines are not shown."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.reset_defaults()


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def json_lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Stage:
    home: ServerHome
    servers: Servers
    service: Scripted


@pytest.fixture
def home(tmp_path: Path, capfd: pytest.CaptureFixture) -> ServerHome:
    home = make_home(tmp_path / "server")
    capfd.readouterr()
    return home


@pytest.fixture
def cli(home, capfd):
    """Runs one command beside the test's own loop, in which the scripted server answers."""

    async def call(*arguments: str) -> Result:
        code = await asyncio.to_thread(run, [*arguments, "--dir", str(home.folder)])
        captured = capfd.readouterr()
        # The command silences gRPC's C core, but another test may have loaded it before.
        errors = [line for line in captured.err.splitlines(keepends=True) if not _C_CORE.match(line)]
        assert len(errors) <= 1, captured.err
        return Result(code, captured.out, "".join(errors))

    return call


@pytest.fixture
async def stage(home):
    async with bound(home) as servers:
        service = Scripted()
        add_OperatorServiceServicer_to_server(service, servers.operator)
        await servers.start()
        yield Stage(home, servers, service)
