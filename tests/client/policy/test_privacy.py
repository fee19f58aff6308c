"""The owner says how much may be asked of the rows; without a word, eight or all of a small device behind a number."""

import pytest

from fwdllm_client.policy.policy import USUAL, MinBatchRows
from fwdllm_client.policy.settings import Settings
from fwdllm_common.errors import BadInputError, NotAllowedError


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "client.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(("rows", "least"), [(1, 1), (7, 7), (8, 8), (1000, 8)])
def test_a_small_device_takes_all_that_it_has(rows, least):
    usual = Settings().privacy.min_batch_rows
    assert usual.of(rows) == least
    assert usual.is_shortened_for(rows) == (rows < USUAL)
    assert usual.description == "8 distinct rows or more, or over all of a device with fewer"


def test_what_the_owner_says_holds_for_any_number_of_rows(written):
    found = Settings.load(written("[privacy]\nmin_batch_rows = 32\n")).privacy.min_batch_rows
    assert found == MinBatchRows(32, insisted=True)
    assert (found.of(5), found.is_shortened_for(5), found.description) == (32, False, "32 distinct rows or more")


@pytest.mark.parametrize("value", ["0", "-1", "8.5", '"8"', "true", "65537"])
def test_what_is_no_number_of_rows_is_refused(written, value):
    with pytest.raises(BadInputError, match=r"\[privacy\] min_batch_rows is .*; use a whole number from 1 to 65536"):
        Settings.load(written(f"[privacy]\nmin_batch_rows = {value}\n"))


def test_the_owner_bounds_directions_and_names_the_labels(written):
    usual = Settings().privacy
    assert (usual.max_directions, usual.labels) == (65536, None)
    usual.check_labels(["anything"])
    found = Settings.load(written('[privacy]\nmax_directions = 5000\nlabels = ["sport", "politics"]\n')).privacy
    assert (found.max_directions, found.labels) == (5000, frozenset({"sport", "politics"}))
    assert found.description == (
        "every scalar is over 8 distinct rows or more, or over all of a device with fewer; at most 5000 directions of "
        "a block at one θ; jobs with the labels politics, sport alone; jobs with secure aggregation read sums over 8 "
        "devices or more, all others this device's own scalars, from which they can infer the gradient of its rows"
    )
    found.check_labels(["politics"])
    with pytest.raises(
        NotAllowedError, match="it learns the label 'health', which this device's owner has not allowed"
    ):
        found.check_labels(["sport", "health"])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("max_directions = 0", "max_directions is 0; use a whole number from 1 to 1073741824"),
        ("max_directions = true", "max_directions is True; use a whole number"),
        ('labels = "sport"', "labels is 'sport'; use a list such as"),
        ("labels = [1]", "labels is .1.; use a list such as"),
        ("least_rows = 8", "least_rows is not known"),
    ],
)
def test_what_is_no_bound_is_refused(written, line, why):
    with pytest.raises(BadInputError, match=why):
        Settings.load(written(f"[privacy]\n{line}\n"))
