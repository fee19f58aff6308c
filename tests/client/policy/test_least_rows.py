"""The owner says how many rows are behind every number; without a word, eight or all of a small device."""

import pytest

from fwdllm_client.policy.policy import USUAL, LeastRows
from fwdllm_client.policy.settings import Settings
from fwdllm_common.errors import BadInputError


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "client.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(("rows", "least"), [(1, 1), (7, 7), (8, 8), (1000, 8)])
def test_a_small_device_takes_all_that_it_has(rows, least):
    usual = Settings().least_rows
    assert usual.of(rows) == least
    assert usual.is_shortened_for(rows) == (rows < USUAL)
    assert usual.description == "8 distinct rows or more, or over all of a device with fewer"


def test_what_the_owner_says_holds_for_any_number_of_rows(written):
    found = Settings.load(written("[privacy]\nleast_rows = 32\n")).least_rows
    assert found == LeastRows(32, insisted=True)
    assert (found.of(5), found.is_shortened_for(5), found.description) == (32, False, "32 distinct rows or more")


@pytest.mark.parametrize("value", ["0", "-1", "8.5", '"8"', "true", "65537"])
def test_what_is_no_number_of_rows_is_refused(written, value):
    with pytest.raises(BadInputError, match=r"\[privacy\] least_rows is .*; use a whole number from 1 to 65536"):
        Settings.load(written(f"[privacy]\nleast_rows = {value}\n"))
