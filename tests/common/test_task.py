"""Tasks by name: fwdllm's own, and those of installed packages."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fwdllm_client import tasks as client_tasks
from fwdllm_common import task
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import CLASSIFICATION, TaskSpec, find_task, known_tasks
from fwdllm_server import tasks as server_tasks


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with two tasks, one of them called as one of fwdllm's own."""
    (tmp_path / "polarity.py").write_text(
        "from fwdllm_client.tasks.classification import Classification\n"
        "from fwdllm_common.task import TaskSpec\n"
        "from fwdllm_server.tasks import classification\n"
        "class OnDevice(Classification):\n    name = 'polarity'\n"
        "class OnServer(classification.Classification):\n    name = 'polarity'\n"
        "CLIENT, SERVER = OnDevice(), OnServer()\n"
        "SPEC = TaskSpec('polarity', 'polarity:CLIENT', 'polarity:SERVER', has_labels=True)\n"
    )
    info = tmp_path / "polarity-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: polarity\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fwdllm.tasks]\npolarity = polarity:SPEC\nclassification = polarity:SPEC\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    task._installed.cache_clear()
    yield
    task._installed.cache_clear()
    sys.modules.pop("polarity", None)


def test_every_task_has_its_parts_under_its_own_name():
    for name in known_tasks():
        spec = find_task(name)
        assert spec is not None
        parts = client_tasks.task_named(name), server_tasks.task_named(name)
        assert [spec.name, *(part.name for part in parts)] == [name] * 3
        assert spec.has_labels == ("labels" in parts[1].keys)


@pytest.mark.usefixtures("installed")
def test_an_installed_package_brings_a_task_and_replaces_none():
    assert find_task("polarity") == TaskSpec("polarity", "polarity:CLIENT", "polarity:SERVER", has_labels=True)
    assert known_tasks()[-1] == "polarity"
    assert client_tasks.task_named("polarity").name == server_tasks.task_named("polarity").name == "polarity"
    assert client_tasks.task_named(CLASSIFICATION).name == CLASSIFICATION


def test_an_unknown_one_is_named():
    assert find_task("translation") is None
    for task_named in (client_tasks.task_named, server_tasks.task_named):
        with pytest.raises(BadInputError, match="'translation'"):
            task_named("translation")
