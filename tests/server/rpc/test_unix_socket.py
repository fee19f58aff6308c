"""The operator's plane on a Unix socket, where its path is odd, long, left over or taken."""

from __future__ import annotations

import asyncio
import socket
import stat

import grpc
import pytest
from server.cli.scripted import Scripted
from server.rpc.loopback import authority_of, bound, channel, device_identity, make_home

from fwdllm.v1.operator_pb2 import ListJobsRequest
from fwdllm.v1.operator_pb2_grpc import OperatorServiceStub, add_OperatorServiceServicer_to_server
from fwdllm_common.errors import BadInputError, BusyError
from fwdllm_server.cli.calls import operator_service
from fwdllm_server.config.home import ServerHome
from fwdllm_server.rpc.grpc_server import bind_servers


def move_socket(home: ServerHome, path: str) -> None:
    text = home.config_file.read_text()
    home.config_file.write_text(text.replace("unix:operator.sock", f"unix:{path}"))


async def jobs_at(home: ServerHome) -> int:
    """How many jobs the command line finds at the server that is bound meanwhile."""

    def ask() -> int:
        with operator_service(home.folder) as service:
            return len(service.ListJobs(ListJobsRequest(), timeout=10).jobs)

    async with bound(home) as servers:
        add_OperatorServiceServicer_to_server(Scripted(), servers.operator)
        await servers.start()
        return await asyncio.to_thread(ask)


@pytest.mark.parametrize("name", ["server", "50% of #1? ünd so", "l" * 150])
async def test_it_is_found_wherever_the_directory_is(tmp_path, name):
    home = make_home(tmp_path / name)
    assert await jobs_at(home) > 0


async def test_it_may_be_elsewhere(tmp_path):
    home = make_home(tmp_path / "server")
    (tmp_path / "run").mkdir()
    move_socket(home, str(tmp_path / "run" / "operators"))
    assert await jobs_at(home) > 0
    async with bound(home):
        assert stat.S_ISSOCK((tmp_path / "run" / "operators").stat().st_mode)


async def test_only_its_owner_may_connect_to_it(tmp_path):
    home = make_home(tmp_path / "server")
    async with bound(home):
        assert stat.S_IMODE((home.folder / "operator.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    # What others write meanwhile is as they want it.
    (tmp_path / "file").touch()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) != 0o600


async def test_who_can_connect_is_no_operator_yet(tmp_path):
    home = make_home(tmp_path / "server")
    authority = authority_of(home)
    async with bound(home) as servers:
        add_OperatorServiceServicer_to_server(Scripted(), servers.operator)
        await servers.start()
        for identity, status in (
            (None, grpc.StatusCode.UNAVAILABLE),
            (device_identity(authority, "operator"), grpc.StatusCode.PERMISSION_DENIED),
        ):
            async with channel(servers.addresses.operator, authority, identity) as connected:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await OperatorServiceStub(connected).ListJobs(ListJobsRequest(), timeout=10)
            assert refused.value.code() is status


async def test_what_a_killed_server_left_is_in_nobodys_way(tmp_path):
    home = make_home(tmp_path / "server")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home.folder / "operator.sock"))
    assert await jobs_at(home) > 0


async def test_another_programs_socket_is_left_to_it(tmp_path):
    home = make_home(tmp_path / "server")
    path = home.folder / "operator.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        with pytest.raises(BusyError, match=f"another program listens on {path}"):
            await bind_servers(home, home.config(), authority_of(home))
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


@pytest.mark.parametrize(
    ("where", "words"),
    [("server.toml", "exists and is not a socket"), ("none/operator.sock", "no socket can be made in")],
)
async def test_a_place_where_none_can_be_is_named(tmp_path, where, words):
    home = make_home(tmp_path / "server")
    move_socket(home, where)
    with pytest.raises(BadInputError, match=rf"\[listen\] operator: .*{words}"):
        await bind_servers(home, home.config(), authority_of(home))
