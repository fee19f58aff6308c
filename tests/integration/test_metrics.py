"""/metrics of a running coordinator: the numbers that the operator's service says, in Prometheus' words."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import AsyncIterator

import aiohttp
import pytest
from helpers.serving import Clock, ScriptedDevice, Serving, derivative, seeds_of, work_until_done
from prometheus_client.parser import text_string_to_metric_families

from fwdllm.v1.conditions_pb2 import HOLD_LOW_BATTERY, HOLD_METERED, Conditions
from fwdllm.v1.device_pb2 import AssignmentFailure
from fwdllm_server.coordinator.health import Health
from fwdllm_server.metrics.state import DEFINITIONS
from fwdllm_server.rounds.stalled import STALLED_S
from fwdllm_server.web.listening import listening
from fwdllm_server.web.metrics import metrics_app


class Scrape:
    """One answer of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = {
            (sample.name, frozenset(sample.labels.items()) - {("job_name", "tiny")}): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]


class Port:
    """The metrics port, and the health that it tells of."""

    def __init__(self, url: str, health: Health, session: aiohttp.ClientSession) -> None:
        self.url, self.health, self.session = url, health, session

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(f"{self.url}{path}", headers=headers) as answer:
            return answer.status, await answer.text()

    async def scrape(self) -> Scrape:
        status, text = await self.get("/metrics")
        assert status == 200
        return Scrape(text)


@pytest.fixture
async def port(server: Serving) -> AsyncIterator[Port]:
    health = Health(server.runtime, late_s=math.inf)  # a busy machine is not what is tested
    app = metrics_app(server.runtime, health)
    async with listening(app, "metrics", "127.0.0.1:0") as address, aiohttp.ClientSession() as session:
        yield Port(f"http://{address}", health, session)


async def test_numbers_are_those_of_the_job(port: Port, server: Serving, device: ScriptedDevice) -> None:
    async with port.health.watching():
        assignment = await device.assignment()
        seeds = seeds_of(assignment)
        values = [derivative(seed) for seed in seeds]
        await device.report(assignment.assignment_id, [*values[:-1]])
        await device.report(assignment.assignment_id, values[:2])  # again
        found, job = await port.scrape(), await server.job()
        of_job = {"job_id": job.job_id}

        assert found.value("fwdllm_round_directions", kind="wanted", **of_job) == job.round.directions_wanted
        assert found.value("fwdllm_round_directions", kind="collected", **of_job) == len(seeds) - 1
        assert found.value("fwdllm_scalars_rejected_total", reason="repeated", **of_job) == 2
        assert found.value("fwdllm_round_phase", phase=job.round.phase, **of_job) == 1
        assert found.value("fwdllm_job_state", state="running", **of_job) == 1
        assert found.value("fwdllm_devices", state="working") == 1
        assert found.value("fwdllm_devices", state="away") == 3
        assert found.value("fwdllm_serving") == 1
        assert found.value("fwdllm_store_seconds_count") > 0
        method = "/fwdllm.v1.DeviceService/CheckIn"
        assert found.value("fwdllm_rpc_calls_total", method=method, status="OK", reason="") >= 1

        await work_until_done(server, device)
        found, job = await port.scrape(), await server.job()
        assert found.value("fwdllm_rounds_total", outcome="committed", **of_job) == job.rounds_committed == 2
        assert found.value("fwdllm_directions_total", **of_job) == job.directions
        latest = found.value("fwdllm_accuracy_ratio", which="latest", **of_job)
        assert latest == pytest.approx(job.latest_evaluation.accuracy)
        assert found.value("fwdllm_jobs", state="done") == 1
        assert ("fwdllm_round_variance_threshold", frozenset(of_job.items())) not in found.samples


async def test_refusals_of_devices_are_counted(port: Port, server: Serving, device: ScriptedDevice) -> None:
    async with port.health.watching():
        assignment = await device.assignment()
        refusal = AssignmentFailure(
            assignment_id=assignment.assignment_id, code="not-allowed", message="it asks for scalars over 1 rows"
        )
        await device.check_in(failures=[refusal])
        found, job = await port.scrape(), await server.job()
        assert found.value("fwdllm_job_devices_failing", code="not-allowed", job_id=job.job_id) == 1


async def test_held_and_refused_devices_say_why(port: Port, device: ScriptedDevice, other: ScriptedDevice) -> None:
    async with port.health.watching():
        await device.check_in(conditions=Conditions(holds=[HOLD_LOW_BATTERY, HOLD_METERED]))
        with pytest.raises(Exception, match="training_examples is 0"):
            await other.check_in(training_examples=0)
        found = await port.scrape()

        assert found.value("fwdllm_devices", state="held") == 1
        assert found.value("fwdllm_devices_ineligible", reason="low_battery") == 1
        assert found.value("fwdllm_devices_ineligible", reason="metered") == 1
        assert found.value("fwdllm_devices_ineligible", reason="hot") == 0
        refused = {"method": "/fwdllm.v1.DeviceService/CheckIn", "status": "INVALID_ARGUMENT"}
        assert found.value("fwdllm_rpc_calls_total", reason="bad-field", **refused) >= 1


async def test_a_coordinator_in_trouble_still_tells_what_it_has_in_memory(port: Port, server: Serving) -> None:
    status, text = await port.get("/healthz")
    assert (status, text) == (503, "the coordinator is starting\n")
    with server.runtime.database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs RENAME TO away")
    found = await port.scrape()
    assert "fwdllm_serving" in found.text
    assert "fwdllm_jobs{" not in found.text
    with server.runtime.database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO jobs")
    async with port.health.watching():
        assert "fwdllm_jobs{" in (await port.scrape()).text
        assert await port.get("/healthz") == (200, "serving\n")


async def test_promtool_finds_nothing_to_say(port: Port, server: Serving, device: ScriptedDevice) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    async with port.health.watching():
        await work_until_done(server, device)
        found = await port.scrape()
    shown = {name for name, _ in found.samples}
    assert {each.name for each in DEFINITIONS} - shown == {
        "fwdllm_round_variance_threshold",
        "fwdllm_job_devices_failing",
    }
    ours = re.sub(r"^(# \w+ )?(process|python)_.*\n", "", found.text, flags=re.MULTILINE)
    done = subprocess.run([promtool, "check", "metrics"], input=ours, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_a_page_from_elsewhere_whose_name_points_here_reads_nothing(port: Port) -> None:
    async with port.health.watching():
        for path in ("/metrics", "/healthz"):
            for name in ("localhost:1", "LOCALHOST", "10.0.0.7:7447", "[2001:db8::1]:7447", "[::1]"):
                assert (await port.get(path, Host=name))[0] == 200
            for name in ("attacker.example", "127.0.0.1.nip.example:7447", "localhost.example", ""):
                assert "fwdllm_" not in (await port.get(path, Host=name))[1]
                assert (await port.get(path, Host=name))[0] == 421


async def test_openmetrics_is_spoken_too(port: Port) -> None:
    async with port.health.watching():
        _, text = await port.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


async def test_health_tells_of_a_job_that_waits_for_long(port: Port, server: Serving, clock: Clock) -> None:
    async with port.health.watching():
        clock.now += STALLED_S
        status, text = await port.get("/healthz")

    assert (status, text) == (200, "serving\njob tiny waits: waiting for devices: 0 of 1 are here\n")
