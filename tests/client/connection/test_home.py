from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fwdllm_client.connection.home import HOME_VARIABLE, ClientHome, Identity
from fwdllm_common.errors import BadInputError, BusyError, StorageError


def test_two_agents_in_one_home_are_refused(tmp_path):
    home, other = ClientHome(tmp_path), ClientHome(tmp_path)
    with home.lock():
        assert other.running
        with pytest.raises(BusyError, match=rf"{tmp_path}.*--home"), other.lock():
            pytest.fail("both hold it")
    assert not other.running
    with other.lock():
        pass


def test_the_lock_is_let_go_after_an_error(tmp_path):
    home = ClientHome(tmp_path)
    with pytest.raises(ZeroDivisionError), home.lock():
        raise ZeroDivisionError
    assert not home.running


def test_where_home_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    assert ClientHome.choose(None).folder == tmp_path / ".fwdllm"
    monkeypatch.setenv(HOME_VARIABLE, "~/elsewhere")
    assert ClientHome.choose(None).folder == tmp_path / "elsewhere"
    assert ClientHome.choose(Path("~/named")).folder == tmp_path / "named"


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"{tmp_path}/file/home"):
        ClientHome(tmp_path / "file" / "home")


def test_a_home_without_identity_says_how_to_join(tmp_path):
    with pytest.raises(BadInputError, match="fwdllm-client join TOKEN"):
        ClientHome(tmp_path).load_identity()


IDENTITY = Identity("dev-1", "host:1", "host:2", 1000, b"old key", b"old certificate", b"ca")
RENEWED = replace(IDENTITY, key=b"new key", certificate=b"new certificate", expires_unix_s=2000)


@pytest.mark.parametrize("writes", range(5))
def test_a_crash_while_an_identity_is_renewed_leaves_the_old_or_the_new_one(tmp_path, monkeypatch, writes):
    """Whichever file is the last that gets to the disk, the folder has a key and its own certificate."""
    home = ClientHome(tmp_path)
    home.save_identity(IDENTITY)
    left = [writes]

    def write_some(path, data, mode=0o644):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr("fwdllm_client.connection.home.write_atomically", write_some)
        with suppress(KeyboardInterrupt):
            home.renew_identity(RENEWED)

    assert ClientHome(tmp_path).load_identity() == (RENEWED if writes else IDENTITY)
