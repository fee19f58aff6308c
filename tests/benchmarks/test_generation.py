"""The benchmark of generation from its rows to its table, with a tiny decoder in the place of SmolLM2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.tiny_completions import save_language_model

from benchmarks.generation import __main__ as command
from benchmarks.generation.rows import MAX_TOKENS, prepare, tokenised
from benchmarks.reporting import output_folder

pytestmark = pytest.mark.timeout(600)
_INTENTS = ("bright", "dark", "wet_street", "grey_stone", "long", "old_house", "river", "day", "night", "sun")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file in CLINC150's form, whose requests and intents are words of the tiny model."""
    folder = tmp_path / "data"
    (folder / "clinc150").mkdir(parents=True)
    rows = [
        [f"the {intent.replace('_', ' ')} by a river {'the ' * row}".strip(), intent]
        for intent in _INTENTS
        for row in range(12)
    ]
    parts = dict.fromkeys(("train", "val", "test"), rows)
    (folder / "clinc150" / "data_full.json").write_text(json.dumps(parts))
    return folder


def test_rows_are_so_many_of_each_intent_and_apart(data: Path, tmp_path: Path) -> None:
    save_language_model(tmp_path / "work" / "model")
    files = prepare(data, tmp_path / "work", 8)
    rows = tokenised(files)
    assert (len(rows.training), len(rows.held_out), len(rows.test), len(rows.validation)) == (80, 48, 24, 24)
    assert not set(rows.test) & set(rows.validation)
    assert rows.training.lengths.max() <= MAX_TOKENS
    intents = {json.loads(line)["completion"] for line in files.training.read_text().splitlines()}
    assert len(intents) == 8


def test_a_quick_run_reports_both_sides(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "output"
    monkeypatch.setattr("sys.argv", ["generation", "--data", str(data), "--quick", "--output", str(output)])
    folder = output_folder("generation", command._arguments()) / "clinc-8"
    save_language_model(folder / "model")
    command.main()

    value = json.loads((folder / "generation.json").read_text())
    figures = {each["name"]: each["value"] for each in value["figures"]}
    assert {"loss_gain_ratio_clinc", "cpu_ratio_today_over_new", "mb_up_per_device"} <= figures.keys()
    assert figures["mb_up_per_device"] > 0
    (scalars,) = value["scalars"].values()
    assert [point["version"] for point in scalars["points"]] == [0, 1, 2]
    (lora,) = value["lora"].values()
    # The untrained model is the same on both sides.
    assert scalars["points"][0]["loss"] == pytest.approx(lora[0]["test"]["loss"], rel=1e-4)
    assert (folder / "generation.md").read_text().count("side network by scalars") == 1
