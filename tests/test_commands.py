"""Every command in the documents is read by its program, and is run by a test or excepted with a reason."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sqlite3
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
from helpers.documented import EXCEPTIONS, PAGES, PYTHON, REPOSITORY, Block, Command, blocks, commands, exception

from fwdllm_client.cli.main import _parser
from fwdllm_server.cli import run
from fwdllm_server.cli.app import app
from fwdllm_server.config.home import ServerHome
from fwdllm_server.store.database import Database

COMMANDS = commands()


def mentions() -> list[tuple[str, str]]:
    """Page and text of each command that is named in a sentence; what must follow it may be left out there."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for mention in re.findall(r"`((?:fwdllm-server|fwdllm-client|make)\s[^`]+)`", text):
            found.append((str(page.relative_to(REPOSITORY)), " ".join(mention.split())))
    return found


def test_the_documents_have_commands() -> None:
    assert len(COMMANDS) > 50
    assert {command.page for command in COMMANDS} >= {
        "README.md",
        "docs/tutorial.md",
        "docs/operations.md",
        "docs/deploy.md",
    }


def test_every_page_with_python_is_run_by_a_test() -> None:
    assert {block.page for block in blocks("python", "py")} == PYTHON.keys()
    for page, test in PYTHON.items():
        assert f'"{page}"' in (REPOSITORY / test).read_text()


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_every_toml_block_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


def test_no_block_is_in_a_language_that_nobody_reads() -> None:
    """YAML is Prometheus' and Compose's, text is a program's output."""
    assert {block.language for block in blocks()} <= {"", "sh", "bash", "python", "toml", "yaml", "text", "math"}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_it_is_run_by_a_test_or_has_a_reason_not_to_be(command: Command) -> None:
    reason = exception(command)
    assert command.is_ours or reason, f"{command}: run it in a test, and say in helpers/documented.py in which"
    for test in re.findall(r"tests/[\w/]+\.py", reason or ""):
        assert (REPOSITORY / test).exists(), test


@pytest.mark.parametrize("beginning", EXCEPTIONS)
def test_each_exception_is_of_a_command_that_there_is(beginning: str) -> None:
    assert any(exception(command) == EXCEPTIONS[beginning] for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_the_program_understands_it(command: Command) -> None:
    _, *arguments = command.words
    if command.program == "fwdllm-client":
        _parser().parse_args(arguments)
    elif command.program == "fwdllm-server":
        found, rest = command_of(arguments)
        found.make_context(arguments[0], rest)
    elif command.program == "make":
        made = subprocess.run(
            ["make", "--dry-run", *arguments], capture_output=True, text=True, check=False, cwd=REPOSITORY
        )
        assert made.returncode == 0, made.stderr


@pytest.mark.parametrize(("page", "mention"), mentions(), ids=str)
def test_what_a_sentence_names_there_is(page: str, mention: str) -> None:
    program, *arguments = shlex.split(mention)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets
        return
    if program == "fwdllm-server":
        found, rest = command_of(arguments)
        options = {option for parameter in found.params for option in parameter.opts}
    else:
        name, *rest = arguments
        (subparsers,) = [each for each in _parser()._actions if isinstance(each, argparse._SubParsersAction)]
        options = set(subparsers.choices[name]._option_string_actions)
    assert {word for word in rest if word.startswith("--")} <= options


def command_of(arguments: list[str]) -> tuple[typer.core.TyperCommand, list[str]]:
    """What typer finds for the arguments, and those that are left for it."""
    found = typer.main.get_command(app)
    while hasattr(found, "commands") and arguments:
        name, *arguments = arguments
        assert name in found.commands, f"no command {name!r}"
        found = found.commands[name]
    return found, arguments


def test_backup_and_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/operations.md on a real directory whose store is open."""
    for port in ("DEVICE", "ENROLMENT", "OPERATOR", "METRICS", "DASHBOARD"):
        monkeypatch.setenv(f"FWDLLM_LISTEN__{port}", "127.0.0.1:0")
    monkeypatch.chdir(tmp_path)
    folder = Path("fwdllm-server")
    assert run(["init", str(folder), "--host", "localhost"]) == 0
    home = ServerHome.open(folder)
    database = Database(home.database_url(home.config()))
    back_up, copy_files, *restore = [
        command for command in COMMANDS if command.page == "docs/operations.md" and not command.is_ours
    ][:4]
    _, *sqlite_arguments = back_up.words
    assert sqlite_arguments == ["fwdllm-server/fwdllm.db", ".backup fwdllm-backup.db"]
    if shutil.which("sqlite3"):
        subprocess.run(back_up.words, check=True)
    else:  # what the program's .backup calls
        with sqlite3.connect(home.database) as source, sqlite3.connect("fwdllm-backup.db") as backup:
            source.backup(backup)
    subprocess.run(copy_files.words, check=True)
    database.close()
    shutil.rmtree(folder)
    for command in restore:
        subprocess.run(command.words, check=True)
    assert run(["doctor", str(folder)]) == 0
    Database(home.database_url(home.config())).close()
