"""The local test cluster: its files by the tools of those who run them, its services as processes without Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers.compose_stage import OVERLAID, image_of
from helpers.postgres import program

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "deploy" / "compose.yaml"
DOCKERFILES = sorted((REPOSITORY / "deploy" / "docker").glob("*.Dockerfile"))
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
DASHBOARD = json.loads((REPOSITORY / "deploy/compose/grafana/dashboards/fwdllm.json").read_text())
IN_NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=REPOSITORY)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_reads_it() -> None:
    read = run("docker-compose", "--file", COMPOSE, "config", "--services")
    assert read.returncode == 0, read.stderr
    assert set(read.stdout.split()) == set(SERVICES)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_pass_hadolint(dockerfile: Path) -> None:
    result = run(Path(sys.executable).with_name("hadolint"), dockerfile)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_not_root_and_know_their_health(dockerfile: Path) -> None:
    for target in re.findall(r" AS (\w+)$", dockerfile.read_text(), re.MULTILINE)[1:]:
        image = image_of(dockerfile, target, REPOSITORY)
        assert image.user == "10001:10001"
        assert image.healthcheck
        assert all(source.exists() for source in image.copies.values())


def test_everything_copied_is_in_the_build_context() -> None:
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((REPOSITORY / path).exists() for path in allowed)
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wheel = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    parts = [*wheel["packages"], *wheel["force-include"], pyproject["project"]["readme"], "LICENSE", "constraints.txt"]
    for part in parts:
        assert any(Path(part).is_relative_to(path) for path in allowed), f"pip builds from {part}"
    for dockerfile in DOCKERFILES:
        for source in image_of(dockerfile, None, REPOSITORY).copies.values():
            assert any(source.is_relative_to(REPOSITORY / path) for path in allowed), source


def test_our_containers_write_to_their_volumes_only() -> None:
    for name, service in SERVICES.items():
        if "build" in service:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name


def test_settings_of_pip_are_in_no_image() -> None:
    """A secret is mounted for one command; ARG, ENV and COPY would keep an index's password in the image."""
    for dockerfile in DOCKERFILES:
        text = dockerfile.read_text()
        installs = re.findall(r"^RUN ((?:.*\\\n)*.*pip.* install .*)$", text, re.MULTILINE)
        assert installs
        assert all("--mount=type=secret,id=pip,target=/etc/pip.conf" in install for install in installs)
        assert not re.search(
            r"^(ARG|ENV|COPY).*(INDEX_URL=.+|pip\.conf)", text.replace('INDEX_URL=""', ""), re.MULTILINE
        )


def test_volumes_and_mounted_files_are_there() -> None:
    named = set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (COMPOSE.parent / source).exists() if source.startswith(".") else source in named, (name, volume)
    for number in range(1, 5):
        own = [volume for volume in SERVICES[f"device-{number}"]["volumes"] if volume.startswith("device-")]
        assert own == [f"device-{number}:/var/lib/fwdllm-client"], "a device sees its own shard and nobody else's"


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    documented = set(re.findall(r"`(fwdllm_\w+|process_\w+)`", (REPOSITORY / "docs" / "metrics.md").read_text()))
    shown = {
        re.sub(r"_bucket$", "", metric)
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for metric in re.findall(r"\b(?:fwdllm|process)_\w+", target["expr"])
    }
    assert len(shown) > 15
    assert shown <= documented
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {
        yaml.safe_load((COMPOSE.parent / "compose/grafana/provisioning/datasources/prometheus.yaml").read_text())[
            "datasources"
        ][0]["uid"]
    }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    config = (COMPOSE.parent / "compose" / "prometheus.yml").read_text()
    assert "coordinator:7447" in config, "where the image's coordinator has its metrics"
    rules = COMPOSE.parent / "prometheus" / "alerts.yml"
    (tmp_path / "prometheus.yml").write_text(config.replace("/etc/prometheus/alerts.yml", str(rules)))
    checked = run("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder that every user may enter, as PostgreSQL's must."""
    folder = Path(tempfile.mkdtemp(prefix="fwdllm-compose-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _why_not() -> str:
    if program("initdb") is None:
        return "PostgreSQL is not installed"
    tried = subprocess.run(
        [*IN_NAMESPACES, "sh", "-c", f"ip link set lo up && test -d {OVERLAID[0]}"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "namespaces need root, here and in CI"


@pytest.mark.nightly
@pytest.mark.timeout(1500)
def test_its_services_finish_a_job(state: Path) -> None:
    """Each container's exact command and environment, with the volumes at their paths; the images are not built."""
    if reason := _why_not():
        pytest.skip(reason)
    checkout = ":".join(str(REPOSITORY / package) for package in ("common", "server", "client"))
    environment = {
        **os.environ,
        "ROUNDS": "3",
        "ARTICLES": "150",
        "CHECKOUT": checkout,
        "PYTHONPATH": f"{checkout}:{REPOSITORY / 'tests'}",
    }
    stage = REPOSITORY / "tests" / "helpers" / "compose_stage.py"
    command = [*IN_NAMESPACES, sys.executable, str(stage), str(COMPOSE), str(state), sys.prefix]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["services"]) == {name for name, service in SERVICES.items() if "build" in service}
    assert found["health"] == dict.fromkeys(["coordinator", *(f"device-{number}" for number in range(1, 5))], True)
    assert {path.name for path in (state / "volumes" / "shared" / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert 'fwdllm_rounds_total{job_id="' in found["metrics"]
    log = (state / "job.log").read_text()
    assert "bbc-news done: round 3 committed on 4 devices" in log
