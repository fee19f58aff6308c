"""``personalise`` on the model that a device holds, and predictions with the weights that it leaves."""

from __future__ import annotations

import json

import pytest

from fwdllm_client.cli.main import run_command
from fwdllm_client.data.split import split


@pytest.fixture
def own_rows(tmp_path):
    """Rows whose label is their first word's: what no model of random weights knows."""
    path = tmp_path / "own.csv"
    lines = [f"w{2 + row % 3} w{5 + row % 40},{('arts', 'law', 'sport')[row % 3]}\n" for row in range(60)]
    path.write_text("text,label\n" + "".join(lines))
    return path


@pytest.fixture
def personalise(home, capsys):
    def run(*arguments):
        capsys.readouterr()
        code = run_command(["personalise", "--home", str(home.folder), "--threads", "1", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_own_weights_are_used_on_request_and_the_jobs_stay(
    work_on,
    predict,
    personalise,
    own_rows,
    coordinator,
    home,
):
    work_on("news", 1, 1000)
    coordinator.stop()
    code, _, error = predict("--data", own_rows, "--personal")
    assert (code, "no weights of its own for job 'news'" in error) == (2, True)
    _, plain, _ = predict("--data", own_rows, "--json")
    code, out, _ = personalise(
        "--data", own_rows, "--validation-fraction", 0.3, "--rounds", 30, "--learning-rate", 0.1, "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert (found["job"], found["version"], found["training_rows"], found["validation_rows"]) == ("news", 0, 42, 18)
    assert found["kept"]
    assert found["personal_score"] > found["global_score"]
    _, own, _ = predict("--data", own_rows, "--personal", "--json")
    assert json.loads(own)["personal"]
    assert json.loads(own)["predictions"] != json.loads(plain)["predictions"]
    assert predict("--data", own_rows, "--json")[1] == plain

    (file,) = home.personal.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    code, _, error = predict("--data", own_rows, "--personal")
    assert (code, "is damaged" in error) == (2, True)
    file.write_bytes(bytes(32) + whole[32:])
    code, _, error = predict("--data", own_rows, "--personal")
    assert (code, "belong to an earlier model" in error) == (2, True)
    home.forget()
    assert not home.personal.exists()
    coordinator.start()


def test_worse_weights_are_not_kept(work_on, predict, personalise, own_rows, tmp_path, home):
    work_on("news", 1, 1000)
    _, out, _ = predict("--data", own_rows, "--json")
    other = {"arts": "law", "law": "sport", "sport": "arts"}
    header, *lines = own_rows.read_text().splitlines()
    _, validation = split(len(lines), 0.3)
    for row, predicted in enumerate(json.loads(out)["predictions"]):
        label = predicted["label"]  # right on all validation rows; the training rows teach another one
        lines[row] = f"{lines[row].split(',')[0]},{label if row in validation else other[label]}"
    (tmp_path / "wrong.csv").write_text("\n".join([header, *lines]) + "\n")
    code, out, _ = personalise(
        *("--data", tmp_path / "wrong.csv", "--validation-fraction", 0.3, "--rounds", 30, "--learning-rate", 0.1)
    )
    assert code == 0
    assert "100.0% of 18 validation rows before" in out
    assert "not better, so not kept" in out
    assert not home.personal.exists()


def test_a_file_without_rows_to_learn_from(work_on, personalise, tmp_path):
    work_on("news", 1, 1000)
    (tmp_path / "empty.csv").write_text("text,label\n")
    code, _, error = personalise("--data", tmp_path / "empty.csv")
    assert code == 2
    assert "row" in error
