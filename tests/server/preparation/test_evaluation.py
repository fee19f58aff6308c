"""The held-out rows through the device's engine."""

from dataclasses import replace

import numpy as np
import pytest
from client.engine.tiny_bundle import make_theta, write_bundle
from helpers.tiny_job import job_spec
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from fwdllm_common.errors import BadInputError
from fwdllm_common.files import sha256_of
from fwdllm_common.manifest import BundleFile
from fwdllm_server.preparation.evaluation import (
    HeldOutEvaluator,
    check_held_out,
    held_out_texts,
    split_held_out,
)
from fwdllm_server.rounds.diverged import absurd_loss
from fwdllm_server.store.ledger import EvaluationRecord

SPEC = job_spec({"held_out": {"file": "held_out.csv"}, "model": {"source": "none", "labels": ["a", "b", "c"]}})


@pytest.fixture
def manifest(tmp_path):
    written = write_bundle(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({"pad": 0, "one": 1, "two": 2}, unk_token="pad"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    return replace(written.manifest, tokenizer=BundleFile(file.name, sha256_of(file), file.stat().st_size))


@pytest.fixture
def evaluator(manifest, tmp_path):
    (tmp_path / "held_out.csv").write_text("text,label\none,a\none two,b\ntwo,c\n")
    return HeldOutEvaluator(SPEC, tmp_path, tmp_path, manifest, tmp_path / "cache")


def test_every_row_counts(evaluator, manifest):
    found = evaluator.evaluate(4, make_theta(manifest))
    assert (found.version, found.rows) == (4, 3)
    assert found.loss > 0
    assert found.accuracy in (0, 1 / 3, 2 / 3, 1)


def test_a_model_that_has_diverged_is_told_from_one_that_is_bad(evaluator, manifest):
    theta = np.full_like(make_theta(manifest), np.nan)
    assert absurd_loss(evaluator.evaluate(4, theta)) == "the loss on the held-out rows is nan at version 4"
    assert absurd_loss(EvaluationRecord(4, 0.1, 1e30, 10)) == "the loss on the held-out rows is 1e+30 at version 4"
    assert absurd_loss(EvaluationRecord(4, 0.1, 90.0, 10)) == ""


def test_a_label_that_the_job_does_not_name_is_refused(tmp_path):
    (tmp_path / "held_out.csv").write_text("text,label\none,a\ntwo,d\n")
    with pytest.raises(BadInputError, match=r"held_out.csv: label 'd' is not in \[model\] labels"):
        check_held_out(SPEC, tmp_path)


def test_rows_without_a_label_are_left_out_if_the_job_says_so(manifest, tmp_path):
    (tmp_path / "held_out.csv").write_text("text,label\none,a\none two,\ntwo,c\n")
    with pytest.raises(BadInputError, match=r"line 3: 'label' is empty; .* \[held_out\] skip_incomplete"):
        check_held_out(SPEC, tmp_path)
    section = SPEC.held_out.model_copy(update={"skip_incomplete": True})
    spec = SPEC.model_copy(update={"held_out": section})
    check_held_out(spec, tmp_path)
    evaluator = HeldOutEvaluator(spec, tmp_path, tmp_path, manifest, tmp_path / "cache")
    assert evaluator.evaluate(0, make_theta(manifest)).rows == 2


@pytest.mark.parametrize(("rows", "taken", "last"), [(3, 3, 2), (512, 512, 511), (513, 257, 512), (2000, 500, 1996)])
def test_texts_are_taken_from_all_over_the_file(tmp_path, rows, taken, last):
    lines = [f"text {row},{'ab'[2 * row // rows]}" for row in range(rows)]
    (tmp_path / "held_out.csv").write_text("\n".join(["text,label", *lines, ""]))
    texts = held_out_texts(SPEC, tmp_path)
    assert (len(texts), texts[0], texts[-1]) == (taken, "text 0", f"text {last}")


def test_the_rows_that_choose_the_version_are_not_among_those_that_are_told_of(manifest, tmp_path):
    (tmp_path / "held_out.csv").write_text("text,label\n" + "one,a\ntwo,b\none two,c\n" * 5)
    held_out = SPEC.held_out.model_copy(update={"validation": 0.2})
    spec = SPEC.model_copy(update={"held_out": held_out})
    evaluator = HeldOutEvaluator(spec, tmp_path, tmp_path, manifest, tmp_path / "cache")
    found = evaluator.evaluate(4, make_theta(manifest))
    assert found.rows == 12
    assert found.validation_loss is not None
    assert found.validation_loss != found.loss
    assert found.validation_accuracy in (0, 1 / 3, 2 / 3, 1)


@given(rows=st.integers(1, 200), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda two: sum(two) < 1))
def test_no_row_has_two_uses(rows, shares):
    found = split_held_out(rows, *shares)
    assert sorted(np.concatenate(found).tolist()) == list(range(rows))
    assert len(found.reported) > 0
    np.testing.assert_array_equal(found.validation, split_held_out(rows, shares[0]).validation)


def test_nothing_is_evaluated_on_rows_that_the_head_starts_from(manifest, tmp_path):
    (tmp_path / "held_out.csv").write_text("text,label\n" + "one,a\ntwo,b\none two,c\n" * 5)
    held_out = SPEC.held_out.model_copy(update={"validation": 0.2, "start": 0.4})
    spec = SPEC.model_copy(update={"held_out": held_out})
    evaluator = HeldOutEvaluator(spec, tmp_path, tmp_path, manifest, tmp_path / "cache")
    assert evaluator.evaluate(4, make_theta(manifest)).rows == 6
