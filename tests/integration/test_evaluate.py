"""``fwdllm-server evaluate`` beside a server at work: what the coordinator said of a version is what it says."""

from __future__ import annotations

import asyncio
import csv
import json

import pytest
import structlog
from helpers.serving import work_until_done

from fwdllm_server.cli import run


@pytest.fixture
def evaluate(folder, capfd):
    """Runs the command in a thread, beside the server of the test's own loop, whose log lines come before."""

    async def call(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, ["evaluate", *arguments, "--dir", str(folder / "server")])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    yield call
    structlog.reset_defaults()


async def test_the_held_out_rows_give_what_the_coordinator_found(server, device, workplace, evaluate):
    job = await work_until_done(server, device)
    held_out = str(workplace / "held_out.csv")
    for version, told in (("0", job.initial_evaluation), ("", job.latest_evaluation)):
        code, out, err = await evaluate("tiny", "--data", held_out, "--json", *(["--version", version] * bool(version)))
        assert code == 0, err
        found = json.loads(out.splitlines()[-1])
        assert (found["job_id"], found["version"], found["rows"]) == (job.job_id, told.version, told.rows)
        assert found["accuracy"] == told.accuracy
        assert found["loss"] == pytest.approx(told.loss, rel=1e-5)
        assert sum(map(sum, found["confusion_matrix"])) == 30
    assert [path.name for path in (server.home.folder).glob(".evaluate*")] == []


async def test_columns_of_another_name_are_read_and_tables_printed(server, workplace, evaluate, tmp_path):
    with (workplace / "device-1.csv").open() as file:
        rows = list(csv.reader(file))
    with (tmp_path / "other.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("review", "section"), *rows[1:]])
    names = ("--text-column", "review", "--label-column", "section")
    code, out, err = await evaluate("tiny", "--data", str(tmp_path / "other.csv"), "--version", "best", *names)

    assert code == 0, err
    assert "at version 0, on 21 rows of" in out
    assert {"accuracy", "Matthews", "macro"} <= {line.split()[0] for line in out.splitlines() if line}
    assert "CLASS \\ SAID" in out


@pytest.mark.parametrize(
    ("job", "version", "message"),
    [("gone", "", "no job 'gone'"), ("tiny", "9", "has no version 9"), ("tiny", "new", "or the word best")],
)
async def test_what_is_not_there_is_named(server, workplace, evaluate, job, version, message):
    code, _, err = await evaluate(job, "--data", str(workplace / "held_out.csv"), "--version", version)

    assert code == 2
    assert message in err


async def test_a_label_that_the_model_does_not_know_is_named(server, evaluate, tmp_path):
    (tmp_path / "other.csv").write_text("text,label\na song,weather\n")
    code, _, err = await evaluate("tiny", "--data", str(tmp_path / "other.csv"))

    assert code == 2
    assert "label 'weather' is not one of the model's" in err


async def test_a_folder_without_a_store_is_no_place_to_evaluate(server, workplace, evaluate):
    server.home.database.rename(server.home.folder / "elsewhere.db")
    code, _, err = await evaluate("tiny", "--data", str(workplace / "held_out.csv"))

    assert code == 2
    assert "run this on the coordinator's machine" in err
    assert not server.home.database.exists()
