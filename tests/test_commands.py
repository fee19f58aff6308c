"""Every command in the documents: run in small by the test that is named, or read by the program that it is for.

Blocks without a language and those marked ``sh`` hold commands, a line each, unless they show something else.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from fwdllm_client.cli import _parser
from fwdllm_server.cli.app import app

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("README.md")),
]
ELSEWHERE = {
    "docker": "no Docker runs here; tests/deploy/test_compose.py runs what the containers run",
    "sudo": "changes the machine; tests/deploy/test_files.py verifies the units",
    "journalctl": "needs the service that sudo installed",
    "bash": "tests/deploy/test_termux.py runs the scripts on stand-ins for Termux' commands",
    "pip": "tests/packaging/test_wheel.py installs each extra",
    "sqlite3": "tests/test_commands.py::test_backup_and_restore does the same by Python's sqlite3",
    "tar": "tests/test_commands.py::test_backup_and_restore",
    "cp": "tests/test_commands.py::test_backup_and_restore",
    "cd": "has no effect of its own",
    ".venv/bin/python": "tests/e2e/test_*example*.py run the examples",
}
"""The first words of commands that are not read here, and what tests them instead, or why nothing does."""


def commands() -> list[tuple[str, str]]:
    """Every command with its page."""
    found = []
    for page in PAGES:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            if language not in ("", "sh", "bash"):
                continue
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            if language or any(re.match(r"(\S*fwdllm-(server|client)|make|docker|pip|sudo) ", line) for line in lines):
                found += [
                    (line, str(page.relative_to(REPOSITORY))) for line in lines if line.strip() and line[0] != "#"
                ]
    return found


COMMANDS = commands()


def test_the_documents_have_commands() -> None:
    assert len(COMMANDS) > 50
    assert {page for _, page in COMMANDS} >= {"README.md", "docs/tutorial.md", "docs/operations.md", "docs/deploy.md"}


@pytest.mark.parametrize(("line", "page"), COMMANDS, ids=lambda text: text[:60])
def test_the_program_understands_it(line: str, page: str) -> None:
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    program = Path(words[0]).name
    if program == "fwdllm-client":
        _parser().parse_args(words[1:])
    elif program == "fwdllm-server":
        parse_server(words[1:])
    elif program == "make":
        done = subprocess.run(
            ["make", "--dry-run", *words[1:]], capture_output=True, text=True, check=False, cwd=REPOSITORY
        )
        assert done.returncode == 0, done.stderr
    else:
        assert words[0] in ELSEWHERE, f"{page}: who tests {words[0]!r}? Add it to ELSEWHERE with its test or a reason"


def parse_server(arguments: list[str]) -> None:
    """What typer does before it calls a command."""
    command, name = typer.main.get_command(app), "fwdllm-server"
    while hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands, f"no command {name!r}"
        command = command.commands[name]
    command.make_context(name, arguments)


def test_each_exception_is_used() -> None:
    first = {shlex.split(re.sub(r"^([A-Z_]+=\S* )+", "", line), comments=True)[0] for line, _ in COMMANDS}
    assert set(ELSEWHERE) <= first


def test_backup_and_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/operations.md on a real directory, the server running: `.backup` is SQLite's own API."""
    import sqlite3

    from fwdllm_server.cli import run
    from fwdllm_server.home import ServerHome
    from fwdllm_server.store.database import Database

    for port in ("DEVICE", "ENROLMENT", "OPERATOR", "METRICS", "DASHBOARD"):
        monkeypatch.setenv(f"FWDLLM_LISTEN__{port}", "127.0.0.1:0")
    folder = tmp_path / "fwdllm-server"
    assert run(["init", str(folder), "--host", "localhost"]) == 0
    home = ServerHome.open(folder)
    database = Database(home.database_url(home.config()))
    with sqlite3.connect(home.database) as source, sqlite3.connect(tmp_path / "fwdllm-backup.db") as backup:
        source.backup(backup)
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    create, extract, copy = (
        next(line for line in page.splitlines() if line.startswith(start))
        for start in ("tar --create", "tar --extract", "cp fwdllm-backup.db")
    )
    subprocess.run(shlex.split(create), check=True, cwd=tmp_path)
    database.close()
    shutil.rmtree(folder)
    subprocess.run(shlex.split(extract), check=True, cwd=tmp_path)
    subprocess.run(shlex.split(copy), check=True, cwd=tmp_path)
    assert run(["doctor", str(folder)]) == 0
    Database(home.database_url(home.config())).close()
