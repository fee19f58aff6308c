"""A key or a certificate that is damaged is told from a coordinator that does not answer."""

import pytest

from fwdllm_client.cli.main import run_command
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.connection.identity_check import check_identity
from fwdllm_common.errors import RefusedError


@pytest.fixture
def home(tmp_path, coordinator):
    home = ClientHome(tmp_path / "home")
    home.save_identity(coordinator.identity())
    return home


def changed_inside(path):
    """Another character in the middle of a PEM file."""
    text = bytearray(path.read_bytes())
    place = len(text) // 2
    text[place] = ord("A") if text[place] != ord("A") else ord("B")
    path.write_bytes(text)


def test_a_whole_identity_passes(home):
    check_identity(home, home.load_identity())


@pytest.mark.parametrize("name", ["key", "certificate"])
@pytest.mark.parametrize("damage", [changed_inside, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_a_damaged_file_ends_the_agent(home, coordinator, tmp_path, name, damage, capsys):
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"text {row},{'ab'[row % 2]}\n" for row in range(20)))
    damage(getattr(home, name))

    code = run_command(["run", "--data", str(data), "--home", str(home.folder)])
    said = capsys.readouterr().err.splitlines()[-1]
    assert code in (2, 6)  # 2 if it is not there at all
    assert "is damaged" in said
    assert "fwdllm-client join TOKEN --force" in said
    assert coordinator.check_ins == []


def test_the_key_of_another_is_found(home, coordinator, new_authority):
    key, _ = new_authority().device()
    home.key.write_bytes(key)
    with pytest.raises(RefusedError, match="is damaged"):
        check_identity(home, home.load_identity())


def test_the_certificate_of_another_authority_is_found(home, new_authority):
    key, certificate = new_authority().device()
    home.key.write_bytes(key)
    home.certificate.write_bytes(certificate)
    with pytest.raises(RefusedError, match="is damaged"):
        check_identity(home, home.load_identity())
