from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_job import job_spec
from helpers.tiny_text import LABELS, write_rows

from fwdllm_common.errors import BadInputError
from fwdllm_server.profiler.public_rows import PublicRows

SPEC = job_spec({"model": {"labels": list(LABELS)}, "held_out": {"file": "rows.csv"}})


def test_rows_are_divided_by_the_seed_alone(tmp_path: Path):
    write_rows(tmp_path / "rows.csv", 60, seed=1)
    rows, again, others = (PublicRows.draw(SPEC, tmp_path, 16, seed) for seed in (1, 1, 2))

    assert len(rows.training) == 16
    assert sorted([*rows.training, *rows.validation]) == list(range(60))
    assert len(rows.texts) == 60
    np.testing.assert_array_equal(rows.training, again.training)
    assert not np.array_equal(rows.training, others.training)


def test_too_few_rows(tmp_path: Path):
    write_rows(tmp_path / "rows.csv", 9, seed=1)
    with pytest.raises(BadInputError, match=r"rows.csv: 9 rows are too few .* lower --rows to 4"):
        PublicRows.draw(SPEC, tmp_path, 5, 0)


def test_a_label_that_the_job_does_not_name(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("text,label\na song,opera\n")
    with pytest.raises(BadInputError, match="label 'opera' is not in"):
        PublicRows.draw(SPEC, tmp_path, 1, 0)
