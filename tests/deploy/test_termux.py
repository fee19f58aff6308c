"""The scripts for phones, run against commands that note how they were called: no phone is at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

SCRIPTS = Path(__file__).parents[2] / "deploy" / "termux"
COMMANDS = ("pkg", "pip", "python", "fwdllm-client", "termux-job-scheduler", "termux-wake-lock", "termux-wake-unlock")
DATA = "my reviews.csv"
PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
# Termux's and its user repository's packages of August 2026: those that the agent cannot do without.
TERMUX = {
    "python": "3.14.6",
    "python-numpy": "2.4.4",
    "python-onnxruntime": "1.29.0",
    "python-grpcio": "1.83.0",
    "python-tokenizers": "0.23.1",
}


class Phone:
    """A home and a PREFIX as Termux has them."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.prefix = folder / "usr"
        self.notes = folder / "calls"
        self._commands = self.prefix / "bin"
        self.home.mkdir()
        self._commands.mkdir(parents=True)
        self.install(*COMMANDS, "sv-enable", "proot-distro")
        svlogger = self.prefix / "share" / "termux-services" / "svlogger"
        svlogger.parent.mkdir(parents=True)
        svlogger.touch(mode=0o755)
        bash = shutil.which("bash")
        assert bash is not None
        self._commands.joinpath("bash").symlink_to(bash)
        self._commands.joinpath("sh").symlink_to(bash)

    def install(self, *names: str) -> None:
        for name in names:
            program = self._commands / name
            program.write_text(f'#!/bin/sh\nprintf "%s|" {name} "$@" >>"{self.notes}"\necho >>"{self.notes}"\n')
            program.chmod(0o755)

    def remove(self, name: str) -> None:
        self._commands.joinpath(name).unlink()

    def run(self, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(self.home), "PREFIX": str(self.prefix), "PATH": f"{self._commands}:/usr/bin:/bin"}
        return subprocess.run(
            ["bash", str(script), *arguments],
            env=os.environ | environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[list[str]]:
        if not self.notes.exists():
            return []
        return [line.rstrip("|").split("|") for line in self.notes.read_text().splitlines()]


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    return Phone(tmp_path)


@pytest.fixture
def wheel(phone: Phone) -> Path:
    wheel = phone.home / "fwdllm-0.1.0-py3-none-any.whl"
    wheel.touch()
    return wheel


def test_pip_installs_only_what_needs_no_compiler(phone: Phone, wheel: Path) -> None:
    result = phone.run(SCRIPTS / "install.sh", str(wheel))
    assert result.returncode == 0, result.stderr
    assert [call[1:] for call in phone.calls if call[0] == "pip"][1:] == [
        ["install", "--no-deps", "--force-reinstall", str(wheel)]
    ]


def test_every_requirement_is_met_by_termux_or_pure_python(phone: Phone, wheel: Path) -> None:
    phone.run(SCRIPTS / "install.sh", str(wheel))
    packages = {name for call in phone.calls if call[:2] == ["pkg", "install"] for name in call[3:]}
    assert packages >= {*TERMUX, "termux-api", "termux-services", "python-psutil"}
    by_pip = {
        found.name: found for found in map(Requirement, next(call for call in phone.calls if call[0] == "pip")[2:])
    }
    for requirement in requirements():
        if own := TERMUX.get(f"python-{requirement.name}"):
            assert requirement.specifier.contains(own), requirement
        else:
            assert by_pip.pop(requirement.name).specifier == requirement.specifier
    assert by_pip == {}, "pip installs what nothing requires"
    assert SpecifierSet(PYPROJECT["requires-python"]).contains(TERMUX["python"])


def requirements() -> list[Requirement]:
    """What the agent needs on Android."""
    listed = map(Requirement, [*PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"]["client"]])
    return [found for found in listed if found.marker is None or found.marker.evaluate({"sys_platform": "android"})]


@pytest.mark.parametrize("arguments", [(), ("absent.whl",)])
@pytest.mark.parametrize("script", ["install.sh", "install-proot.sh"])
def test_nothing_is_installed_without_a_wheel(phone: Phone, script: str, arguments: tuple[str, ...]) -> None:
    assert phone.run(SCRIPTS / script, *arguments).returncode == 2
    assert phone.calls == []


def test_elsewhere_than_in_termux_it_says_what_to_do(phone: Phone, wheel: Path) -> None:
    phone.remove("pkg")
    result = phone.run(SCRIPTS / "install.sh", str(wheel))
    assert result.returncode == 2
    assert "pip install 'fwdllm[client]'" in result.stderr
    assert phone.calls == []


def test_android_starts_a_session_that_ends_in_time_and_lets_the_phone_sleep(phone: Phone) -> None:
    result = phone.run(SCRIPTS / "schedule.sh", "--data", DATA)
    assert result.returncode == 0, result.stderr
    (scheduled,) = phone.calls
    session = phone.home / ".fwdllm" / "session.sh"
    assert scheduled[:3] == ["termux-job-scheduler", "--script", str(session)]
    assert "unmetered" in scheduled
    phone.notes.unlink()
    result = phone.run(session)
    assert result.returncode == 0, result.stderr
    assert phone.calls == [
        ["termux-wake-lock"],
        ["fwdllm-client", "run", "--data", DATA],
        ["termux-wake-unlock"],
    ]
    assert "timeout 585 " in session.read_text()
    assert (phone.home / ".fwdllm" / "agent.log").exists()


def test_the_wake_lock_is_given_back_when_the_agent_fails(phone: Phone) -> None:
    phone.run(SCRIPTS / "schedule.sh", "--data", DATA)
    phone.remove("fwdllm-client")
    phone.notes.unlink()
    phone.run(phone.home / ".fwdllm" / "session.sh")
    assert phone.calls[-1] == ["termux-wake-unlock"]


def test_the_service_runs_the_agent_and_starts_with_the_phone(phone: Phone) -> None:
    result = phone.run(SCRIPTS / "service.sh", "--data", DATA, "--threads", "4")
    assert result.returncode == 0, result.stderr
    assert phone.calls == [["sv-enable", "fwdllm"]]
    phone.notes.unlink()
    assert phone.run(phone.prefix / "var" / "service" / "fwdllm" / "run").returncode == 0
    assert phone.calls == [["termux-wake-lock"], ["fwdllm-client", "run", "--data", DATA, "--threads", "4"]]
    boot = phone.home / ".termux" / "boot" / "fwdllm"
    assert os.access(boot, os.X_OK)
    assert (phone.prefix / "var" / "service" / "fwdllm" / "log" / "run").is_symlink()


@pytest.mark.parametrize("script", ["schedule.sh", "service.sh"])
def test_data_must_be_named(phone: Phone, script: str) -> None:
    result = phone.run(SCRIPTS / script)
    assert result.returncode == 2
    assert "--data" in result.stderr
    assert phone.calls == []


def test_in_a_debian_ordinary_wheels_are_used(phone: Phone, wheel: Path) -> None:
    result = phone.run(SCRIPTS / "install-proot.sh", str(wheel))
    assert result.returncode == 0, result.stderr
    assert ["proot-distro", "install", "debian"] in phone.calls
    login = next(call for call in phone.calls if call[:2] == ["proot-distro", "login"])
    assert login[3:5] == ["--bind", f"{wheel}:/tmp/{wheel.name}"]
