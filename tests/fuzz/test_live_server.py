"""A running server is sent whatever hypothesis thinks of: it answers, knows why it refuses, and does not grow."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from fuzz.calls import DEVICES, METHODS, Call, Callers, calls
from fuzz.frames import conversation, say
from fuzz.grammar import mutated, mutations
from helpers.live_server import LiveServer, live_server
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fwdllm.v1.operator_pb2 import JOB_STATE_RUNNING, GetJobRequest
from fwdllm_server.cli.calls import operator_service

# What failed is said in a line; all that was sent is long.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

QUICK_BURSTS, NIGHTLY_BURSTS = 12, 2_500
CALLS = 30
"""Of a burst."""
GROWTH = 96 << 20
"""Bytes by which memory may grow however many messages come."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("fuzzed"), *DEVICES) as running:
        yield running


def fuzz(server: LiveServer, bursts: int, *, again: bool = False) -> int:
    """Send so many bursts, ``again`` the same as ever; returns the number of messages."""
    grown: list[int] = []

    @settings(
        max_examples=bursts,
        deadline=None,
        database=None,
        derandomize=again,
        phases=[Phase.explicit, Phase.generate],  # a server's state is not the same at the second attempt
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls(), min_size=CALLS, max_size=CALLS))
    def survives(burst: list[Call]) -> None:
        callers.check_in()
        assert not callers.carry_out(burst)
        assert server.answers()
        assert not server.complaints()
        check_cancelled(server)
        grown.append(server.memory)

    with closing(Callers(server)) as callers:
        survives()
        assert grown[-1] - grown[len(grown) // 10] < GROWTH, [size >> 20 for size in grown[:: max(1, bursts // 20)]]
        return callers.sent


def check_cancelled(server: LiveServer) -> None:
    """Operators may have stopped the job; a job that does nothing is no target."""
    with operator_service(server.home.folder) as service:
        if service.GetJob(GetJobRequest(job="tiny")).state != JOB_STATE_RUNNING:
            service.ResumeJob(GetJobRequest(job="tiny"))


def test_every_method_is_among_the_calls() -> None:
    assert len(METHODS) > 20


def test_a_few_seconds_of_calls(server: LiveServer) -> None:
    assert fuzz(server, QUICK_BURSTS, again=True) > QUICK_BURSTS * CALLS


def spoil(server: LiveServer, conversations: int) -> None:
    """Send calls as bytes that are changed or end too early."""

    @settings(
        max_examples=conversations,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(sorted(METHODS)),
        st.sampled_from([("device-1", "device"), ("nobody", "enrolment"), ("device-1", "enrolment")]),
        st.binary(max_size=300),
        st.sampled_from([None, 0, 1, 4 << 20, 2**32 - 1]),
        st.sampled_from([0, 1, 2, 2**31 - 1]),
        mutations(),
        st.booleans(),
    )
    def survives(
        path: str,
        who: tuple[str, str],
        payload: bytes,
        length: int | None,
        stream: int,
        changes: list[tuple[str, float, int]],
        half_close: bool,
    ) -> None:
        say(server, *who, mutated(conversation(path, payload, length, stream), changes), half_close=half_close)

    survives()
    for plane in ("device", "enrolment"):  # what is no TLS at all
        host, _, port = server.addresses[plane].rpartition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(conversation("/fwdllm.v1.EnrolmentService/Enroll", b""))
    with closing(Callers(server)) as callers:
        callers.check_in()
    assert server.answers()
    assert not server.complaints()


def test_frames_that_are_cut_off_or_spoilt(server: LiveServer) -> None:
    spoil(server, 60)


@pytest.mark.nightly
def test_a_night_of_frames(server: LiveServer) -> None:
    spoil(server, 3_000)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_night_of_calls(server: LiveServer) -> None:
    print(fuzz(server, NIGHTLY_BURSTS), "messages")
