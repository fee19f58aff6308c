from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_client.engine.activations import ActivationCache, cache_dtype, packed, rounded, unpacked_features
from fwdllm_common.errors import StorageError

TAG = 0x123456789ABCDEF0


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    width=st.integers(1, 4),
    limit=st.integers(0, 600),
    per_token=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_row_that_fits_comes_back(tmp_path_factory, lengths, width, limit, per_token, seed):
    path = tmp_path_factory.mktemp("cache") / "file"
    rng, dtype = np.random.default_rng(seed), cache_dtype(per_token)
    rows = [rounded(rng.normal(size=(length, width)).astype(np.float32), dtype) for length in lengths]
    cache = ActivationCache(path, np.array(lengths), width, dtype, limit)
    for row in rng.permutation(len(rows)):
        cache.write(int(row), TAG, rows[row])
    cache.close()
    assert path.stat().st_size <= cache.max_bytes <= limit or cache.max_bytes == 0
    again = ActivationCache(path, np.array(lengths), width, dtype, limit)
    ends = 8 * len(rows) + np.cumsum([row.nbytes for row in rows])
    for index, row in enumerate(rows):
        found = again.read(index, TAG)
        if ends[index] > limit:
            assert found is None
        else:
            np.testing.assert_array_equal(found, row)
            assert again.read(index, TAG ^ 1) is None
            assert again.read(index, TAG ^ (1 << 40)) is None
    again.close()


def test_float16_keeps_what_is_too_large_finite():
    values = np.array([1e6, -1e6, np.nan, 1 / 3], dtype=np.float32)
    found = rounded(values, np.dtype(np.float16))
    np.testing.assert_array_equal(found, np.array([65504, -65504, np.nan, 1 / 3], dtype=np.float16))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        ActivationCache(tmp_path / "file" / "cache", np.ones(1, dtype=np.int64), 1, np.dtype(np.float32), 100)


def test_a_cache_that_is_let_go_gives_back_its_file(tmp_path):
    path = tmp_path / "file"
    cache = ActivationCache(path, np.array([1]), 1, cache_dtype(per_token=False), 100)
    assert str(path) in open_files()
    del cache
    assert str(path) not in open_files()


def open_files() -> list[str]:
    return [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]


@given(tokens=st.integers(1, 5), width=st.integers(1, 9), features=st.integers(1, 40), seed=st.integers(0, 100))
def test_features_travel_behind_an_activation_bit_for_bit(tokens, width, features, seed):
    rng = np.random.default_rng(seed)
    activation = rng.normal(size=(tokens, width)).astype(np.float16)
    vector = rng.integers(0, 1 << 32, features, dtype=np.uint32).view(np.float32)  # whatever the bits are
    kept = packed(activation, vector)
    assert (kept.dtype, kept.shape[1]) == (np.float16, width)
    np.testing.assert_array_equal(kept[:tokens], activation)
    assert unpacked_features(kept, features).tobytes() == vector.tobytes()
