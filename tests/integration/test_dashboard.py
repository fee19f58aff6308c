"""The dashboard's facts are the store's, live."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from helpers.serving import ScriptedDevice, Serving, derivative, work_until_done

from fwdllm.v1.conditions_pb2 import HOLD_LOW_BATTERY, Conditions
from fwdllm_common.fixed_point import to_fixed_point
from fwdllm_common.ledger import LedgerEntry
from fwdllm_server.dashboard.app import dashboard_app
from fwdllm_server.web.listening import listening


class Dashboard:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session

    async def get(self, path: str, expect: int = 200) -> Any:
        async with self.session.get(f"{self.url}{path}") as answer:
            assert answer.status == expect, await answer.text()
            return await answer.json()

    @asynccontextmanager
    async def events(self, query: str = "") -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
        async with self.session.get(f"{self.url}/api/events{query}") as answer:
            assert answer.content_type == "text/event-stream"
            yield _events(answer)


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@pytest.fixture
async def dashboard(server: Serving) -> AsyncIterator[Dashboard]:
    app = dashboard_app(server.runtime, server.home.dashboard_token(), lambda: "")
    async with listening(app, "dashboard", "127.0.0.1:0") as address, aiohttp.ClientSession() as session:
        yield Dashboard(f"http://{address}", session)


async def test_a_viewer_hears_of_every_round_and_evaluation(
    dashboard: Dashboard, server: Serving, device: ScriptedDevice
) -> None:
    job_id = (await server.job()).job_id
    evaluations: list[Any] = []
    rounds: list[Any] = []
    shown: Any = {}
    async with asyncio.timeout(60), dashboard.events(f"?job={job_id}") as events:
        working = asyncio.create_task(work_until_done(server, device))
        async for name, data in events:
            if name == "curve":
                evaluations[data["evaluations_from"] :] = data["evaluations"]
                rounds[data["rounds_from"] :] = data["rounds"]
            if name == "job":
                shown = data
            if shown.get("state") == "done" and len(evaluations) == 3:
                break
        job = await working
    assert [each["version"] for each in evaluations] == [0, 1, 2]
    assert evaluations[-1]["accuracy"] == pytest.approx(job.latest_evaluation.accuracy)
    assert [each["version"] for each in rounds] == [1, 2]
    assert rounds[-1]["theta_digest"] == job.theta_digest.hex()
    assert all(each["directions"] == 20 for each in rounds)
    assert shown["spent"]["scalars"] == 40  # counted by the coordinator, also of devices that report no resource usage
    assert shown["rounds_committed"] == 2
    assert shown["devices"] == []  # they have a page of their own


async def test_a_viewer_who_comes_later_hears_the_same(
    dashboard: Dashboard, server: Serving, device: ScriptedDevice
) -> None:
    job = await work_until_done(server, device)
    async with asyncio.timeout(60), dashboard.events(f"?job={job.job_id}") as events:
        seen = {}
        async for name, data in events:
            seen[name] = data
            if "curve" in seen and len(seen["curve"]["rounds"]) == 2:
                break
    assert seen["curve"]["rounds_from"] == 0
    assert seen["overview"]["jobs"][0]["name"] == "tiny"
    async with asyncio.timeout(60), dashboard.events("?job=none") as events:
        assert "gone" in [(await anext(events))[0] for _ in range(2)]


async def test_streams_end_when_the_server_does(server: Serving) -> None:
    app = dashboard_app(server.runtime, "token", lambda: "")
    async with aiohttp.ClientSession() as session:
        async with listening(app, "dashboard", "127.0.0.1:0") as address:
            answer = await session.get(f"http://{address}/api/events")
            assert b"retry" in await answer.content.readline()
        with pytest.raises(aiohttp.ClientError):
            await answer.content.read()
        answer.close()


async def test_a_round_of_the_ledger_is_shown_whole(
    dashboard: Dashboard, server: Serving, device: ScriptedDevice
) -> None:
    job = await work_until_done(server, device)
    entry = LedgerEntry.from_bytes(server.ledger()[1])
    found = await dashboard.get(f"/api/jobs/{job.job_id}/ledger/2")

    assert (found["version"], found["round"], found["theta_digest"]) == (2, 2, entry.theta_digest.hex())
    [participant] = found["participants"]
    assert (participant["name"], participant["directions"], participant["assignments"]) == ("device-1", 20, {"done": 1})
    for block, update in zip(found["blocks"], entry.updates, strict=True):
        assert block["block"] == update.block
        assert [int(seed) for seed in block["seeds"]] == update.seeds.tolist()
        assert [int(value) for value in block["coefficients"]] == update.coefficients.tolist()
        for seed, value in zip(block["seeds"], block["derivatives"], strict=True):
            assert value * (1 << 24) == to_fixed_point(derivative(int(seed)))
    second = (await dashboard.get("/api/jobs/tiny/ledger/2?offset=3&limit=2"))["blocks"][0]
    assert second["seeds"] == found["blocks"][0]["seeds"][3:5]
    listed = await dashboard.get("/api/jobs/tiny/ledger?limit=1")
    assert [each["version"] for each in listed["rounds"]] == [2]
    assert "has no version 9" in (await dashboard.get("/api/jobs/tiny/ledger/9", expect=404))["error"]
    assert "no such job" in (await dashboard.get("/api/jobs/none/ledger/1", expect=404))["error"]


async def test_a_curve_has_what_each_version_had_cost_and_can_be_taken_along(
    dashboard: Dashboard, server: Serving, device: ScriptedDevice
) -> None:
    job = await work_until_done(server, device)
    found = await dashboard.get("/api/jobs/tiny/curve")

    assert (found["job_id"], found["name"], found["metric"]) == (job.job_id, "tiny", "accuracy")
    assert [(each["version"], each["directions"]) for each in found["points"]] == [(0, 0), (1, 20), (2, 40)]
    assert found["points"][0]["seconds"] == 0
    assert 0 <= found["points"][1]["seconds"] <= found["points"][2]["seconds"]
    assert found["points"][2]["accuracy"] == job.latest_evaluation.accuracy
    async with dashboard.session.get(f"{dashboard.url}/api/jobs/tiny/curve.csv") as answer:
        assert (answer.content_type, answer.content_disposition.filename) == ("text/csv", "tiny.csv")
        rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert [row["version"] for row in rows] == ["0", "1", "2"]
    assert float(rows[2]["loss"]) == job.latest_evaluation.loss


async def test_devices_are_found_by_name_and_state(
    dashboard: Dashboard, device: ScriptedDevice, other: ScriptedDevice
) -> None:
    await device.check_in(conditions=Conditions(holds=[HOLD_LOW_BATTERY], battery_percent=12, charging=False))
    await other.assignment()
    found = {each["name"]: each for each in (await dashboard.get("/api/devices"))["devices"]}

    assert {name: each["state"] for name, each in found.items()} == {
        "device-1": "held",
        "device-2": "working",
        "device-3": "away",
        "device-4": "away",
    }
    assert found["device-1"]["reasons"] == ["low_battery"]
    assert found["device-1"]["conditions"]["battery_percent"] == 12
    assert (await dashboard.get("/api/devices?search=ICE-3"))["devices"] == [found["device-3"]]
    away = await dashboard.get("/api/devices?state=away&offset=1&limit=1")
    assert (away["total"], away["devices"]) == (2, [found["device-4"]])
    states = (await dashboard.get("/api/overview"))["devices"]
    assert states["states"] == {"revoked": 0, "working": 1, "away": 2, "held": 1, "idle": 0}
    assert states["reasons"] == {"away": 2, "low_battery": 1}


async def test_a_job_shows_the_devices_at_work_before_their_first_report(
    dashboard: Dashboard, server: Serving, device: ScriptedDevice
) -> None:
    job_id = (await server.job()).job_id
    await device.assignment()
    [found] = (await dashboard.get(f"/api/devices?job={job_id}"))["devices"]
    assert (found["name"], found["state"], found["spent"]) == ("device-1", "working", None)


async def test_profiles_in_the_servers_directory_are_shown(dashboard: Dashboard, server: Serving) -> None:
    assert (await dashboard.get("/api/profiles"))["profiles"] == []
    folder = server.home.profiles / "first"
    folder.mkdir(parents=True)
    (folder / "profile.json").write_text(json.dumps({"format": 1, "candidates": [{"name": "lora"}]}))
    (folder / "profile.png").write_bytes(b"\x89PNG picture")
    (server.home.profiles / "broken").mkdir()
    (server.home.profiles / "broken" / "profile.json").write_text("{")
    [found] = (await dashboard.get("/api/profiles"))["profiles"]

    assert (found["name"], found["plot"], found["report"]["candidates"][0]["name"]) == ("first", True, "lora")
    async with dashboard.session.get(f"{dashboard.url}/api/profiles/first/plot.png") as answer:
        assert (answer.content_type, await answer.read()) == ("image/png", b"\x89PNG picture")
