"""Ports that are others outside than those listened on: devices join and work through a relay that stands between."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.federation import free_ports
from helpers.modelless import home_with_job
from helpers.serving import profile, serving
from helpers.silent_relay import SilentRelay
from helpers.tiny_job import LABELS

from fwdllm.v1.operator_pb2 import CreateJoinTokenRequest
from fwdllm_client.connection.enrol import join
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.connection.transport import GrpcCoordinator
from fwdllm_common.join_token import JoinToken


async def test_a_device_is_told_the_addresses_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home_with_job(tmp_path / "server")
    ports = dict(zip(("device", "enrolment"), free_ports(2), strict=True))
    with ExitStack() as stack:
        outside = {plane: stack.enter_context(SilentRelay(port)).port for plane, port in ports.items()}
        for plane, port in ports.items():
            monkeypatch.setenv(f"FWDLLM_LISTEN__{plane.upper()}", f"127.0.0.1:{port}")
            monkeypatch.setenv(f"FWDLLM_PUBLIC__{plane.upper()}", f"localhost:{outside[plane]}")
        async with serving(home) as server:
            made = await server.operator.CreateJoinToken(CreateJoinTokenRequest(name="phone"))
            assert JoinToken.decode(made.join_token).address == f"localhost:{outside['enrolment']}"
            identity = await asyncio.to_thread(join, ClientHome(tmp_path / "phone"), made.join_token)
            assert identity.device_address == f"localhost:{outside['device']}"
            with GrpcCoordinator(identity) as coordinator:
                answer = await asyncio.to_thread(coordinator.check_in, profile(labels=LABELS))
            assert answer.HasField("next")
