"""The disk quota: the least recently used files are deleted, files in use never."""

import os

import pytest

from fwdllm_client.cache.quota import CacheQuota, bytes_below
from fwdllm_common.errors import NoRoomError

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
SHARED = "5" * 64


@pytest.fixture
def new_quota(tmp_path):
    return lambda limit: CacheQuota(tmp_path, limit)


@pytest.fixture
def add(tmp_path):
    """Puts a bundle there as :class:`ArtifactCache` does, last used at ``moment``; returns the sizes of its files."""

    def add(bundle, moment, *files):
        folder = tmp_path / "bundles" / bundle
        folder.mkdir(parents=True)
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / bundle).write_bytes(b"{}")
        for name in files:
            source = tmp_path / "files" / name
            if not source.exists():
                source.write_bytes(bytes(100))
            (folder / f"{name[0]}.onnx").hardlink_to(source)
        os.utime(folder, (moment, moment))
        return dict.fromkeys(files, 100)

    return add


@pytest.fixture
def put(tmp_path):
    """Puts a file of 100 bytes there."""

    def put(name, moment):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (moment, moment))
        return path

    return put


def bundles(quota):
    return sorted(path.name[0] for path in quota.bundles.iterdir())


def files(quota):
    return sorted(path.name[0] for path in quota.files.iterdir())


def test_the_bundle_used_longest_ago_goes_with_its_files(new_quota, add):
    quota = new_quota(400)
    add(A, 2, "1" * 64)
    add(B, 1, "2" * 64)
    quota.reserve(C, {"3" * 64: 100, "4" * 64: 100})
    assert bundles(quota) == ["a"]
    assert files(quota) == ["1", "a"]


def test_nothing_goes_while_there_is_room(new_quota, add):
    quota = new_quota(1000)
    add(A, 1, "1" * 64)
    quota.reserve(B, {"3" * 64: 100})
    assert bundles(quota) == ["a"]


def test_a_file_that_another_bundle_has_stays_until_the_last_one_goes(new_quota, add):
    quota = new_quota(320)
    add(A, 1, SHARED, "1" * 64)
    add(B, 2, SHARED)
    quota.reserve(C, {"3" * 64: 150})
    assert (bundles(quota), files(quota)) == (["b"], ["5", "b"])
    quota.reserve(C, {"3" * 64: 250})
    assert (bundles(quota), files(quota)) == ([], [])


def test_what_the_new_bundle_shares_with_an_old_one_stays(new_quota, add):
    quota = new_quota(250)
    add(A, 1, SHARED, "1" * 64)
    quota.reserve(B, {SHARED: 100, "3" * 64: 150})
    assert (bundles(quota), files(quota)) == ([], ["5"])


def test_the_bundle_itself_stays_though_it_was_used_longest_ago(new_quota, add):
    quota = new_quota(350)
    sizes = add(A, 1, "1" * 64)
    add(B, 2, "2" * 64)
    quota.reserve(A, sizes | {"3" * 64: 150})
    assert bundles(quota) == ["a"]
    assert files(quota) == ["1", "a"]


def test_activations_weights_and_prepared_models_go_in_turn(new_quota, add, put):
    quota = new_quota(500)
    prepared = put("activations/prepared/key/graph.onnx", 1)
    os.utime(prepared.parent, (1, 1))
    weights = put("weights/job.weights", 2)
    activations = put("activations/x.activations", 3)
    tuning = put("activations/tunings/x.json", 0)
    quota.reserve(A, {"1" * 64: 200})
    assert (prepared.exists(), weights.exists(), activations.exists(), tuning.exists()) == (False, True, True, True)
    quota.reserve(A, {"1" * 64: 300})
    assert (weights.exists(), activations.exists()) == (False, True)


def test_what_grows_with_a_bundle_stays_until_another_is_named(new_quota, add, put):
    quota = new_quota(400)
    sizes = add(A, 1, "1" * 64)
    own, other = put("activations/own.activations", 1), put("activations/other.activations", 2)
    quota.reserve(A, sizes, {own: 250})  # 100 of the file, 2 of the manifest, 250: no room for the other
    assert (own.exists(), other.exists()) == (True, False)
    put("weights/job.weights", 3)
    quota.reserve(A, sizes)
    assert own.exists()
    quota.reserve(B, {"2" * 64: 350})
    assert not own.exists()


def test_half_a_download_counts_and_stays(new_quota, put):
    quota = new_quota(210)
    other = put(f"files/{B}.part", 2)
    part = put(f"files/{A}.part", 1)
    quota.reserve(C, {A: 110})
    assert (part.exists(), other.exists()) == (True, True)
    quota.reserve(C, {A: 120})
    assert (part.exists(), other.exists()) == (True, False)


def test_a_model_beyond_the_limit_is_refused_and_nothing_goes(new_quota, add):
    quota = new_quota(150)
    add(A, 1, "1" * 64)
    with pytest.raises(NoRoomError, match=r"raise limit_gb in \[cache\] of client\.toml"):
        quota.reserve(B, {"3" * 64: 151})
    assert bundles(quota) == ["a"]


def test_a_full_disk_counts_as_a_limit(new_quota, add, monkeypatch):
    quota = new_quota(10_000)
    add(A, 1, "1" * 64)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 50}))
    quota.reserve(B, {"3" * 64: 40})
    assert bundles(quota) == ["a"]
    quota.reserve(B, {"3" * 64: 60})
    assert bundles(quota) == []


def test_a_file_with_two_names_is_counted_once(new_quota, add, tmp_path):
    add(A, 1, "1" * 64)
    assert bytes_below(tmp_path) == 102
    assert bytes_below(tmp_path / "files" / A) == 2
    assert bytes_below(tmp_path / "nothing") == 0
