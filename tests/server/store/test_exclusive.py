"""One coordinator for each SQLite file, by what the file is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fwdllm_common.errors import BadInputError, BusyError
from fwdllm_server.store.database import Database
from fwdllm_server.store.exclusive import only_user

_TRY = """
import sys
from fwdllm_common.errors import BusyError
from fwdllm_server.store.exclusive import only_user
try:
    with only_user(sys.argv[1]):
        print("held")
except BusyError as error:
    print("busy:", error)
"""


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def in_another_process(path: Path) -> str:
    command = [sys.executable, "-c", _TRY, url(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    return tmp_path / "one" / "fwdllm.db"


@pytest.fixture
def names(file: Path, tmp_path: Path) -> list[Path]:
    """Every kind of name that a file can have, of which each is the file itself."""
    Database(url(file)).close()
    symbolic, hard, folder = tmp_path / "other" / "symbolic.db", tmp_path / "other" / "hard.db", tmp_path / "folder"
    symbolic.symlink_to(file)
    hard.hardlink_to(file)
    folder.symlink_to(file.parent)
    return [file, symbolic, hard, folder / file.name, tmp_path / "other" / ".." / "one" / file.name]


def test_no_name_of_the_file_lets_a_second_one_in(file: Path, names: list[Path]) -> None:
    with only_user(url(file)):
        for name in names:
            assert in_another_process(name).startswith(f"busy: another fwdllm-server uses {name}; stop it first"), name


def test_it_holds_while_the_file_is_used_and_not_longer(file: Path, names: list[Path]) -> None:
    with only_user(url(names[1])):
        database = Database(url(file))
        with database.transaction() as connection:
            connection.exec_driver_sql("CREATE TABLE more (x INTEGER)")
        database.close()
        assert in_another_process(names[2]).startswith("busy")
    assert in_another_process(names[2]) == "held\n"


def test_another_file_of_the_same_name_is_another(file: Path, tmp_path: Path) -> None:
    with only_user(url(file)):
        assert in_another_process(tmp_path / "other" / file.name) == "held\n"


def test_the_second_in_the_same_process_is_refused_too(file: Path) -> None:
    with only_user(url(file)), pytest.raises(BusyError), only_user(url(file)):
        pass


def test_a_uri_of_sqlites_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="name SQLite's file by its path"), only_user("sqlite:///file:x?mode=ro"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("several", ["sqlite://", "postgresql+psycopg://host/database"])
def test_others_have_several_users(several: str) -> None:
    with only_user(several), only_user(several):
        pass
