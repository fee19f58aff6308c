"""The folder of ``fwdllm-server demo``: files of others in it are safe."""

import pytest

from fwdllm_common.errors import BadInputError
from fwdllm_server.cli.demo.running import begin


@pytest.mark.parametrize("name", ["thesis.tex", "ended", "server"])
def test_a_folder_with_files_of_others_is_refused(name, tmp_path):
    (tmp_path / name).write_text("mine")

    with pytest.raises(BadInputError, match="choose another"):
        begin(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_mark_that_is_not_the_demos_is_refused(tmp_path):
    for name in ("began", "ended", "server"):
        (tmp_path / name).write_text("mine")

    with pytest.raises(BadInputError, match="not the mark of a demo"):
        begin(tmp_path)

    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupted_run_goes_on(tmp_path):
    folder = tmp_path / "new" / "demo"
    began = begin(folder)
    (folder / "server").mkdir()

    assert begin(folder) == began
    assert (folder / "server").exists()


def test_of_a_finished_run_only_what_it_wrote_is_deleted(tmp_path):
    folder, outside = tmp_path / "demo", tmp_path / "outside"
    began = begin(folder)
    for name in ("server", "device-1", "device-4"):
        (folder / name).mkdir()
        (folder / name / "key.pem").touch()
    for name in ("server.log", "device-1.csv", "device-4.log", "ports.json", "held_out.csv", "ended", "notes.txt"):
        (folder / name).touch()
    (folder / "mine").mkdir()
    (outside / "kept").mkdir(parents=True)
    (folder / "adapter").symlink_to(outside)

    assert begin(folder) > began
    assert {path.name for path in folder.iterdir()} == {"began", "notes.txt", "mine"}
    assert (outside / "kept").exists()
