import pytest

from fwdllm_client.policy.choices import Choices, ChoicesFile
from fwdllm_common.errors import BadInputError
from fwdllm_common.job_choice import JobChoice


def test_an_owner_who_has_said_nothing_allows_everything(tmp_path):
    assert ChoicesFile(tmp_path / "choices.json").read() == Choices(paused=False, jobs=JobChoice())


def test_what_is_written_is_read_by_whoever_has_the_file_open(tmp_path):
    agent, owner = ChoicesFile(tmp_path / "choices.json"), ChoicesFile(tmp_path / "choices.json")
    for choices in (
        Choices(paused=True),
        Choices(jobs=JobChoice().deny("news")),
        Choices(jobs=JobChoice(only=True).allow("news")),
        Choices(),
    ):
        owner.write(choices)
        assert agent.read() == choices


def test_a_file_that_is_gone_is_no_choice(tmp_path):
    file = ChoicesFile(tmp_path / "choices.json")
    file.write(Choices(paused=True))
    assert file.read().paused
    (tmp_path / "choices.json").unlink()
    assert not file.read().paused


@pytest.mark.parametrize("text", ["", "{}", '{"paused": true, "jobs": 3}', "[]"])
def test_a_damaged_file_says_what_to_do(tmp_path, text):
    (tmp_path / "choices.json").write_text(text)
    with pytest.raises(BadInputError, match="delete it and choose again"):
        ChoicesFile(tmp_path / "choices.json").read()
