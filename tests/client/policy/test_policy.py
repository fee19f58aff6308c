import pytest

from fwdllm_client.cli.main import run_command
from fwdllm_client.policy.policy import Policy
from fwdllm_common.errors import BadInputError
from fwdllm_common.protocol import FEATURE_SUMS


def test_nothing_but_scalars_is_allowed_by_default():
    assert Policy().class_rows is None
    assert Policy().capabilities == ()


def test_what_is_allowed_is_said():
    assert tuple(Policy(8).capabilities) == (FEATURE_SUMS,)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_sums_of_too_few_rows_cannot_be_allowed(rows):
    with pytest.raises(BadInputError, match=f"over {rows} rows reveal too much of each; allow 8 or more"):
        Policy(rows)


@pytest.mark.parametrize("rows", ["7", "-9", "many"])
def test_nor_on_the_command_line(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("fwdllm_client.cli.main.configure_logging", lambda *, verbose: None)
    arguments = ["run", "--data", "rows.csv", "--home", str(tmp_path), f"--allow-feature-sums={rows}"]
    assert run_command(arguments) == 2
