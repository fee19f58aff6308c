from pathlib import Path

import pytest
from helpers.tiny_job import job_toml

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.resolved_spec import dump_resolved, load_resolved
from fwdllm_server.preparation.job_file import read_job

HELD_OUT = {"model": {"labels": None}, "held_out": {"file": "rows.csv", "label_column": "topic"}}


def write(folder: Path, *labels: str) -> Path:
    (folder / "rows.csv").write_text("text,topic\n" + "".join(f"a text,{label}\n" for label in labels))
    return folder


def test_labels_that_are_left_out_are_those_of_the_held_out_rows(tmp_path):
    spec = read_job(job_toml(HELD_OUT), write(tmp_path, "sport", "arts", "sport", "law"))

    assert spec.model.labels == ["arts", "law", "sport"]
    assert load_resolved(dump_resolved(spec), "kept").model.labels == ["arts", "law", "sport"]


def test_numbers_are_in_their_own_order(tmp_path):
    assert read_job(job_toml(HELD_OUT), write(tmp_path, "10", "9", "2")).model.labels == ["2", "9", "10"]


def test_labels_that_are_named_stay_as_they_are(tmp_path):
    named = {**HELD_OUT, "model": {"labels": ["law", "arts"]}}
    assert read_job(job_toml(named), tmp_path / "nowhere").model.labels == ["law", "arts"]


def test_a_column_that_cannot_be_the_labels_is_named(tmp_path):
    with pytest.raises(BadInputError, match=r"rows.csv: column 'topic' has 1 labels.*at least two.*label_column"):
        read_job(job_toml(HELD_OUT), write(tmp_path, "one", "one"))
    with pytest.raises(BadInputError, match=r"column 'topic' has 1025 labels"):
        read_job(job_toml(HELD_OUT), write(tmp_path, *map(str, range(1025))))


def test_questions_have_no_labels(tmp_path):
    asking = {"model": {"labels": None, "task": "question-answering"}}
    assert read_job(job_toml(asking), tmp_path).model.labels == []
