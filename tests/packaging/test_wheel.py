"""What users install: the wheel's contents, and each extra in an environment that holds nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from helpers.installed import run

REPOSITORY = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRAS = sorted(PYPROJECT["project"]["optional-dependencies"])
PACKAGES = ("fwdllm", "fwdllm_common", "fwdllm_server", "fwdllm_client")
TRAINING = {"torch", "transformers", "peft", "onnx", "pydantic", "sqlalchemy"}
MOST_CLIENT_BYTES = 250_000_000


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_the_packages_is_in_it_and_nothing_else(names: set[str]) -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    ours = {
        path.partition("/")[2]
        for path in listed.stdout.splitlines()
        if path.split("/")[0] in ("common", "server", "client")
    }
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed >= ours
    pages = {f"fwdllm_common/error_pages/{path.name}" for path in (REPOSITORY / "docs" / "errors").glob("*.md")}
    assert packed >= pages
    assert {name.split("/")[0] for name in packed} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed


def test_its_metadata(wheel: Path, names: set[str]) -> None:
    (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    with zipfile.ZipFile(wheel) as archive:
        said = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert said["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in names
    assert "Typing :: Typed" in said.get_all("Classifier")
    assert said.get_all("Provides-Extra") == EXTRAS
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", said["Version"]), "semantic versioning"
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(said['Version'])} \(", changelog, re.MULTILINE), "the changelog has the version"


def test_the_client_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=True)
    programs = tmp_path / "empty" / "bin"
    library = next((tmp_path / "empty" / "lib").glob("python*")) / "site-packages"
    before = _bytes_below(library)
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--no-compile"]
    constraints = ["--constraint", REPOSITORY / "constraints.txt"]
    subprocess.run([*install, *constraints, f"{wheel}[client]"], check=True, timeout=280)
    size = _bytes_below(library) - before
    listed = json.loads(run(programs / "python", "-m", "pip", "list", "--format=json"))
    print(f"fwdllm[client]: {size / 1e6:.0f} MB, {len(listed)} packages")
    assert size < MOST_CLIENT_BYTES
    assert {package["name"].lower() for package in listed}.isdisjoint(TRAINING)
    run(programs / "python", "-m", "pip", "check")
    home = {"FWDLLM_HOME": str(tmp_path / "home")}
    found = json.loads(run(programs / "fwdllm-client", "doctor", "--json", expect=1, environment=home))
    states = {fact["check"]: fact["state"] for fact in found}
    assert (states["software"], states["generator"], states["inference"]) == ("ok", "ok", "ok")
    assert {name for name, state in states.items() if state == "failed"} == {"certificate"}, "it has not joined"


def test_the_server_from_the_wheel(beside: Path) -> None:
    where = run(beside / "bin" / "python", "-c", "import fwdllm_server; print(fwdllm_server.__file__)")
    assert where.startswith(str(beside))
    assert "Fine-tune a language model" in run(beside / "bin" / "fwdllm-server", "--help")


def test_the_operators_commands_in_an_environment_without_torch(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a server that runs elsewhere; what takes more says which extra has it."""
    venv.create(tmp_path / "empty", with_pip=True)
    programs = tmp_path / "empty" / "bin"
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--no-compile"]
    constraints = ["--constraint", REPOSITORY / "constraints.txt"]
    subprocess.run([*install, *constraints, f"{wheel}[cli]"], check=True, timeout=280)
    listed = json.loads(run(programs / "python", "-m", "pip", "list", "--format=json"))
    assert {package["name"].lower() for package in listed}.isdisjoint(TRAINING - {"pydantic", "cryptography"})
    run(programs / "python", "-m", "pip", "check")
    program, folder = programs / "fwdllm-server", tmp_path / "server"
    assert run(program, "--version").startswith("fwdllm-server ")
    assert "Exit code 8" in run(program, "explain", "busy")
    run(program, "init", folder, "--host", "localhost")
    for port in ("DEVICE", "ENROLMENT", "METRICS", "DASHBOARD"):
        monkeypatch.setenv(f"FWDLLM_LISTEN__{port}", "127.0.0.1:0")
    here = [sys.executable, "-c", "from fwdllm_server.cli import main; main()", "serve", folder]
    with subprocess.Popen(here, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            next(line for line in server.stderr if "serving" in line)
            assert json.loads(run(program, "job", "list", "--dir", folder, "--json")) == []
            assert json.loads(run(program, "devices", "list", "--dir", folder, "--json")) == []
            assert json.loads(run(program, "top", "--once", "--dir", folder, "--json")) == {"jobs": [], "devices": []}
            assert json.loads(run(program, "health", "--dir", folder, "--json")) == {"status": "serving", "waiting": {}}
            assert "fwdllm-client join " in run(program, "enroll", "--name", "laptop", "--dir", folder)
        finally:
            server.terminate()
    done = subprocess.run([program, "serve", folder], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'fwdllm[server]'" in done.stderr


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_resolves(extra: str, wheel: Path, beside: Path) -> None:
    """With no index at hand, everything that the extra names must be there, in a version that it allows."""
    asked = f"fwdllm[{extra}] @ {wheel.as_uri()}"
    resolved = run(beside / "bin" / "python", "-m", "pip", "install", "--no-index", "--dry-run", asked)
    assert "Would install" not in resolved.replace(f"Would install {wheel.name.partition('-py3')[0]}", "")


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.nightly
def test_it_resolves_beside_flower(wheel: Path, tmp_path: Path) -> None:
    """Which wants a protobuf before 7, as many others do."""
    wanted = tmp_path / "requirements.in"
    wanted.write_text(f"flwr\nfwdllm[client,cli] @ {wheel.as_uri()}\n")
    uv = Path(sys.executable).with_name("uv")
    resolved = run(uv, "pip", "compile", "--quiet", "--no-annotate", wanted, environment=os.environ)
    assert re.search(r"^protobuf==[3-6]\.", resolved, re.MULTILINE)


@pytest.mark.nightly
def test_pipx_installs_the_agent(wheel: Path, tmp_path: Path) -> None:
    """What docs/edge-boxes.md tells owners to type."""
    venv.create(tmp_path / "pipx", with_pip=True)
    own = tmp_path / "pipx" / "bin"
    folders = {"PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | folders
    run(own / "pip", "install", "--quiet", "pipx", environment=environment)
    run(own / "pipx", "install", f"{wheel}[client]", environment=environment)
    programs = sorted(path.name for path in (tmp_path / "bin").iterdir())
    assert "fwdllm-client" in programs
    status = run(tmp_path / "bin" / "fwdllm-client", "status", "--home", tmp_path / "agent", "--json")
    assert json.loads(status)["joined"] is False
