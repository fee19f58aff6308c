from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_job import job_toml
from sklearn.utils.class_weight import compute_class_weight

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


def test_balanced_class_weights_are_scikit_learns(tmp_path):
    labels = ["sport", "arts", "sport", "law", "sport", "law"]
    asking = {**HELD_OUT, "model": {"labels": ["law", "arts", "sport"], "class_weights": "balanced"}}
    spec = read_job(job_toml(asking), write(tmp_path, *labels))

    expected = compute_class_weight("balanced", classes=np.array(spec.model.labels), y=labels)
    assert spec.model.weights_of_labels == pytest.approx(tuple(expected))
    assert load_resolved(dump_resolved(spec), "kept").model.weights_of_labels == spec.model.weights_of_labels


def test_a_label_without_rows_cannot_be_balanced(tmp_path):
    asking = {**HELD_OUT, "model": {"labels": ["law", "arts"], "class_weights": "balanced"}}
    with pytest.raises(BadInputError, match=r"rows.csv: no row has the label 'law', so its class weight cannot be"):
        read_job(job_toml(asking), write(tmp_path, "arts"))


def test_class_weights_are_given_for_each_label(tmp_path):
    weights = "[model.class_weights]\nyes = 2.5\nno = 0.5\n"
    assert read_job(job_toml() + "\n" + weights, tmp_path).model.weights_of_labels == (0.5, 2.5)
    with pytest.raises(BadInputError, match="class_weights and labels differ in 'no'"):
        read_job(job_toml() + "\n" + weights.replace("no", "none"), tmp_path)
    changes = {"model": {"labels": None, "task": "regression", "class_weights": "balanced"}}
    with pytest.raises(BadInputError, match="regression has no class_weights"):
        read_job(job_toml(changes), tmp_path)


def test_metrics_of_all_rows_are_not_asked_of_devices(tmp_path):
    changes = {"model": {"labels": None, "task": "regression"}, "rounds": {"federated_evaluate_every": 1}}
    with pytest.raises(BadInputError, match=r"regression \(Pearson and Spearman\) need all rows in one place"):
        read_job(job_toml(changes), tmp_path)
