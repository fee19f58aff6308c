import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_client.data.split import split
from fwdllm_common.errors import BadInputError


@given(count=st.integers(1, 3000), fraction=st.floats(0, 0.99))
def test_every_row_is_in_one_part(count, fraction):
    training, validation = split(count, fraction)
    assert sorted([*training, *validation]) == list(range(count))
    assert len(training) >= 1
    assert (len(validation) > 0) == (fraction > 0 and count > 1)
    assert abs(len(validation) - count * fraction) <= 1
    assert (np.diff(training) > 0).all()
    assert (np.diff(validation) > 0).all()


def test_the_split_is_fixed_for_all_machines():
    assert split(40, 0.1)[1].tolist() == [3, 10, 18, 21]


def test_more_rows_move_few_rows_across():
    before, after = split(1000, 0.1)[1], split(1010, 0.1)[1]
    assert len(np.intersect1d(before, after)) > 95


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_is_refused(fraction):
    with pytest.raises(BadInputError, match="validation fraction"):
        split(10, fraction)
