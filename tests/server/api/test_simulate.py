"""``fwdllm.simulate`` as notebooks and scripts call it."""

from __future__ import annotations

import asyncio
import csv
import gc
import tempfile
from pathlib import Path

import datasets
import pandas
import pytest
from helpers.tiny_questions import save_encoder, write_questions
from helpers.tiny_text import LABELS
from server.api.conftest import SMALL

import fwdllm
from fwdllm_client.tasks import RowOptions
from fwdllm_server.api.rows import RowReader

POPULATION = {"devices": 4, "rounds": 3, "threads": 1}


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def digest(run: fwdllm.Run) -> str:
    return run.outcome.theta_digest


def test_the_curve_has_a_row_for_each_evaluated_version(run):
    curve = run.curve
    assert isinstance(curve, pandas.DataFrame)
    assert curve["version"].tolist() == [0, 1, 2, 3]
    assert (curve["loss"] > 0).all()
    assert curve["example_passes"].is_monotonic_increasing
    assert curve["accuracy"].tolist() == [point.accuracy for point in run.points]
    assert repr(run).startswith("Run(3 rounds, accuracy ")


def test_the_model_says_what_was_evaluated(run, place):
    model = run.model_at(3)
    rows = rows_of(place / "held_out.csv")
    scores = model.evaluate(rows)
    texts = [row["text"] for row in rows]

    assert (model.version, tuple(model.labels)) == (3, LABELS)
    said = model.predict(texts)
    assert sum(label == row["label"] for label, row in zip(said, rows, strict=True)) / 40 == scores.accuracy
    chances = model.predict_proba(texts)
    assert chances.shape == (40, 3)
    assert [LABELS[index] for index in chances.argmax(axis=1)] == said
    assert chances.sum(axis=1) == pytest.approx(1)


@pytest.mark.usefixtures("ready", "unconfigured")
async def test_frames_give_the_same_run_in_an_event_loop_that_runs_and_nothing_is_printed(run, place, capfd):
    told: list[fwdllm.Round] = []
    again = fwdllm.simulate(
        model=place / "model",
        train=pandas.read_csv(place / "train.csv"),
        held_out=pandas.read_csv(place / "held_out.csv"),
        job=SMALL,
        on_round=told.append,
        **POPULATION,
    )

    assert asyncio.get_running_loop().is_running()
    again.model.predict(["a text"])
    assert capfd.readouterr() == ("", "")
    assert digest(again) == digest(run)
    assert [(each.version, each.rounds) for each in told] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [each.point for each in told] == list(again.points)


@pytest.mark.usefixtures("ready")
def test_a_model_keeps_the_files_that_it_needs(place):
    model = fwdllm.simulate(
        model=place / "model", train=place / "train.csv", held_out=place / "held_out.csv", job=SMALL, **POPULATION
    ).model
    gc.collect()

    assert model.predict(["the team scored a goal"])[0] in LABELS


@pytest.mark.parametrize("wrong", [{"train": {}}, {"held_out": 7}, {"user_column": "nobody"}, {"devices": 0}])
def test_bad_input_leaves_no_rows_behind(wrong, place, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = rows_of(place / "train.csv")
    with pytest.raises(fwdllm.FwdllmError):
        fwdllm.simulate(**{"model": place / "model", "train": rows, "held_out": rows, "job": SMALL, **wrong})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ready")
def test_a_dataset_with_named_classes_gives_the_same_run(run, place):
    def dataset(name: str) -> datasets.Dataset:
        rows = rows_of(place / f"{name}.csv")
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=[*LABELS])})
        columns = {key: [row[key] for row in rows] for key in ("text", "label")}
        return datasets.Dataset.from_dict(columns).cast(features)

    train, held_out = dataset("train"), dataset("held_out")
    assert isinstance(train[0]["label"], int)
    again = fwdllm.simulate(model=place / "model", train=train, held_out=held_out, job=SMALL, **POPULATION)
    assert digest(again) == digest(run)
    with pytest.raises(fwdllm.FwdllmError, match=r"DatasetDict holds no rows; choose a split, such as data\['train'\]"):
        fwdllm.simulate(model=place / "model", train=datasets.DatasetDict(train=train), held_out=held_out)


@pytest.mark.usefixtures("ready")
def test_other_columns_users_and_missing_labels(place):
    rows = [
        {"body": row["text"], "topic": row["label"], "who": f"u{i % 3}"}
        for i, row in enumerate(rows_of(place / "train.csv"))
    ]
    frame = pandas.DataFrame([*rows, {"body": "a text", "topic": None, "who": "u1"}])
    run = fwdllm.simulate(
        model=place / "model",
        train=frame,
        held_out=rows[:30],
        text_column="body",
        label_column="topic",
        user_column="who",
        partition="user",
        skip_incomplete=True,
        rounds=1,
        job=SMALL,
        threads=1,
    )
    assert run.model.evaluate(frame[:20]).rows == 20


def test_whole_numbers_stay_labels_beside_missing_ones(tmp_path):
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": [1, 0, None]})
    assert frame["label"].dtype == float
    source = RowReader(tmp_path, "classification", RowOptions(skip_incomplete=True)).source(frame, "rows")
    assert source.contents().labels == ("0", "1")


@pytest.mark.usefixtures("ready")
def test_a_run_in_a_folder_goes_on_and_one_without_leaves_nothing(place, tmp_path):
    class EnoughError(Exception):
        pass

    def stop(found: fwdllm.Round) -> None:
        if found.version == 1:
            raise EnoughError

    where = {"model": place / "model", "train": place / "train.csv", "held_out": place / "held_out.csv", "job": SMALL}
    with pytest.raises(EnoughError):
        fwdllm.simulate(**where, **POPULATION, out=tmp_path / "kept", on_round=stop)
    run = fwdllm.simulate(**where, **POPULATION, out=tmp_path / "kept")
    assert [point.version for point in run.points] == [0, 1, 2, 3]
    other = fwdllm.simulate(**where, **POPULATION)
    folder = other.folder
    assert digest(other) == digest(run)
    assert folder.exists()
    del other
    gc.collect()
    assert not folder.exists()


def test_questions_are_answered(tmp_path):
    write_questions(tmp_path / "train.jsonl", 60, seed=1)
    held_out = write_questions(tmp_path / "held_out.jsonl", 20, seed=0)
    run = fwdllm.simulate(
        model=save_encoder(tmp_path / "model"),
        train=tmp_path / "train.jsonl",
        held_out=held_out,
        task="question-answering",
        devices=3,
        rounds=1,
        job={"model": {"max_tokens": 32}, "blocks": SMALL["blocks"]},
        threads=1,
    )
    assert {"accuracy", "exact_match"} <= set(run.curve.columns)
    scores = run.model_at(1).evaluate(held_out)
    assert (scores.f1, scores.exact_match) == (run.points[-1].accuracy, run.points[-1].exact_match)
    (answer,) = run.model.predict([{"question": "who ?", "context": "the house was built by ada"}])
    assert answer in "the house was built by ada"
    with pytest.raises(fwdllm.FwdllmError, match="a text alone is for another"):
        run.model.predict(["who ?"])


def test_what_holds_no_rows_is_named(place):
    with pytest.raises(fwdllm.FwdllmError, match="int holds no rows; give a file"):
        fwdllm.simulate(model=place / "model", train=3, held_out=place / "held_out.csv")
    with pytest.raises(fwdllm.FwdllmError, match="no column 'label'"):
        fwdllm.simulate(model=place / "model", train=place / "train.csv", held_out=[{"text": "a"}])
