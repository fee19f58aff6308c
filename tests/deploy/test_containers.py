"""The local test cluster as containers: images that are built, a job that survives failures, and nothing left.

What the test needs beyond pip is named when it is skipped. Base images are those that are here or that a registry has;
for others ``stand_ins.sh`` makes stand-ins from Debian's packages, and the output says for which.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import yaml
from helpers.podman import Podman, full_name, mounts_in, why_not
from safetensors.numpy import load_file

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "deploy" / "compose.yaml"
DOCKER = REPOSITORY / "deploy" / "docker"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
BUILT = {"fwdllm-client": "client", "fwdllm-demo": "demo", "fwdllm-server": "server"}
LASTING = ["coordinator", *(f"device-{number}" for number in range(1, 5))]
JOB, ROUNDS = "bbc-news", 8
CLIENT_BYTES = 250_000_000  # above its base
PATIENCE_S = 600

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    if reason := why_not():
        pytest.skip(reason)
    before = _interfaces()
    with Podman() as podman:
        yield podman
    assert not podman.folder.exists()
    assert mounts_in(podman.folder) == []
    assert _interfaces() == before


@pytest.fixture(scope="module")
def origins(podman: Podman) -> dict[str, str]:
    """Where each image from elsewhere came from; our own are built on them."""
    base = _base(DOCKER / "client.Dockerfile")
    assert base == _base(DOCKER / "server.Dockerfile")
    others = [service["image"] for service in SERVICES.values() if "build" not in service]
    origins = podman.provide([base, *others])
    print(*(f"{image}: {origin}" for image, origin in origins.items()), sep="\n")
    missing = [image for image, origin in origins.items() if origin == "missing"]
    # Grafana reads its provisioning from files, which test_compose.py checks; Debian does not have it.
    if needed := [image for image in missing if not image.startswith("grafana/")]:
        pytest.skip(f"no registry, no debootstrap, and no {', '.join(needed)} here")
    for tag, target in BUILT.items():
        dockerfile = DOCKER / ("client.Dockerfile" if target == "client" else "server.Dockerfile")
        podman.build(dockerfile, target, REPOSITORY, tag)
    return origins


def test_images_are_small_and_belong_to_nobody(podman: Podman, origins: dict[str, str]) -> None:
    base = podman.inspect(full_name(next(iter(origins))))
    sizes = {tag: podman.inspect(full_name(tag))["Size"] - base["Size"] for tag in BUILT}
    print(*(f"{tag}: {size / 1e6:.0f} MB above its base" for tag, size in sizes.items()), sep="\n")
    assert sizes["fwdllm-client"] <= CLIENT_BYTES
    for tag in BUILT:
        image = podman.inspect(full_name(tag))
        assert image["Config"]["User"] == "10001:10001"
        assert image["Healthcheck"]["Test"][0].startswith("CMD")
        # Neither pip's settings nor certificates of the machine that builds are in an image.
        look = ("--entrypoint=sh", full_name(tag), "-c", "cat /etc/pip.conf /run/secrets/* 2> /dev/null; true")
        assert podman("run", "--rm", "--network=none", *look) == ""


def test_the_cluster_trains_through_failures(podman: Podman, origins: dict[str, str], tmp_path: Path) -> None:
    ports = {name: _free_port() for name in ("DASHBOARD_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")}
    podman.environment |= {"ROUNDS": str(ROUNDS), "ARTICLES": "150"} | {name: str(port) for name, port in ports.items()}
    services = [name for name, service in SERVICES.items() if origins.get(service["image"]) != "missing"]
    with podman.health_checks():
        podman.compose(COMPOSE, "up", "--detach", "--no-build", *services)
        _until(lambda: _rounds(podman) >= 1, podman)
        _survives_death(podman, "device-2")
        _until(lambda: _rounds(podman) >= 2, podman)
        podman.compose(COMPOSE, "restart", "--timeout", "30", "coordinator")
        assert _rounds_when_back(podman) < ROUNDS, "the job was over before the coordinator's restart"
        assert podman("wait", podman.container("job")) == "0", podman("logs", podman.container("job"))

        job = _job(podman)
        assert job["rounds_committed"] == ROUNDS
        assert len(job["devices"]) == 4
        assert all(int(device["scalars"]) > 0 for device in job["devices"]), job["devices"]
        for name in LASTING:
            _is_confined(podman, name)
        up = _prometheus(ports["PROMETHEUS_PORT"], "query?query=up")["result"]
        assert [series["value"][1] for series in up] == ["1"]
        groups = _prometheus(ports["PROMETHEUS_PORT"], "rules")["groups"]
        assert groups
        assert all(rule["health"] == "ok" for group in groups for rule in group["rules"])
        podman("cp", f"{podman.container('coordinator')}:/srv/shared/adapter", tmp_path)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("lora_B" in name for name in weights)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"

    podman.compose(COMPOSE, "down", "--volumes", "--timeout", "20")
    assert podman("ps", "--all", "--quiet") == ""
    assert podman("volume", "ls", "--quiet") == ""
    assert podman("network", "ls", "--format={{.Name}}") == "podman"


def _survives_death(podman: Podman, service: str) -> None:
    """Kill the program, not its container, as a lack of memory would; its restart policy brings it back."""
    name = podman.container(service)
    started = podman.inspect(name)["State"]
    (program,) = Path(f"/proc/{started['Pid']}/task/{started['Pid']}/children").read_text().split()
    os.kill(int(program), signal.SIGKILL)
    _until(lambda: (state := podman.inspect(name)["State"])["Running"] and state["Pid"] != started["Pid"], podman)


def _is_confined(podman: Podman, service: str) -> None:
    container = podman.inspect(podman.container(service))
    podman("healthcheck", "run", container["Name"])
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert container["Config"]["User"] == "10001:10001"
    status = podman("exec", container["Name"], "cat", "/proc/self/status")
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    with pytest.raises(AssertionError, match="Read-only file system"):
        podman("exec", container["Name"], "touch", "/opt/fwdllm/new")
    if service.startswith("device-"):
        volumes = [mount["Name"] for mount in container["Mounts"] if mount["Type"] == "volume"]
        assert volumes == [f"{podman.environment['COMPOSE_PROJECT_NAME']}_{service}"]


def _job(podman: Podman) -> dict[str, Any]:
    show = ("exec", podman.container("coordinator"), "fwdllm-server", "job", "show", JOB, "--json")
    found = json.loads(podman(*show))
    assert isinstance(found, dict)
    return found


def _rounds(podman: Podman) -> int:
    """Committed rounds, none while there is no job yet."""
    try:
        return int(_job(podman).get("rounds_committed", 0))
    except AssertionError:
        return 0


def _rounds_when_back(podman: Podman) -> int:
    _until(lambda: _rounds(podman) > 0, podman)
    return _rounds(podman)


def _until(condition: Callable[[], object], podman: Podman) -> None:
    ends = monotonic() + PATIENCE_S
    while not condition():
        if monotonic() > ends:
            raise AssertionError(podman("ps", "--all") + podman("logs", "--tail=50", podman.container("coordinator")))
        sleep(0.5)


def _prometheus(port: int, what: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{what}", timeout=30) as answer:
        data = json.load(answer)["data"]
    assert isinstance(data, dict)
    return data


def _base(dockerfile: Path) -> str:
    text = dockerfile.read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    (base,) = {image for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if ":" in image}
    return re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}
