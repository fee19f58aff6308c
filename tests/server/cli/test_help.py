"""What ``--help`` says: of every command a whole sentence, of every option what it is."""

import pytest
import typer

from fwdllm_server.cli import run
from fwdllm_server.cli.app import app


def commands(group, name=()):
    yield name, group
    for word, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*name, word))


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[" ".join(name) for name, _ in COMMANDS])
def test_it_is_whole(name, command, capfd):
    assert run([*name, "--help"]) == 0
    shown = capfd.readouterr().out
    assert " ".join(command.help.split()) in " ".join(shown.split())
    assert "..." not in shown.replace("COMMAND [ARGS]...", "")
    assert [parameter.name for parameter in command.params if not parameter.help] == []
