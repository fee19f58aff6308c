"""Whatever bytes arrive, a decoder returns a value or raises BadInputError."""

import base64
import json
from contextlib import suppress

import pytest
from common.bundles import MANIFEST
from common.runs import KINDS, LAYOUT, initial_state, round_of
from common.test_join_token import TOKEN, encoded
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.errors import BadInputError
from fwdllm_common.join_token import JoinToken
from fwdllm_common.layout import Layout
from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.manifest import Manifest
from fwdllm_common.replay import ModelState

DEEP = "[" * 100_000
STATES = [initial_state(kind) for kind in KINDS]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(2**70)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def tampered(valid):
    """Arbitrary bytes, and ``valid`` with a slice replaced by some."""
    places = st.integers(0, len(valid))
    return st.binary(max_size=64) | st.builds(
        lambda a, b, patch: valid[: min(a, b)] + patch + valid[max(a, b) :], places, places, st.binary(max_size=4)
    )


@st.composite
def grafted(draw, tree):
    """JSON ``tree`` with one value, at any depth, replaced by another."""
    if not isinstance(tree, dict | list) or not tree or draw(st.integers(0, 3)) == 0:
        return draw(values)
    changed = tree.copy()
    key = draw(st.sampled_from(list(tree) if isinstance(tree, dict) else range(len(tree))))
    changed[key] = draw(grafted(tree[key]))
    return changed


@given(tampered(round_of(1).to_bytes()))
def test_ledger_entry(data):
    with suppress(BadInputError):
        LedgerEntry.from_bytes(LedgerEntry.from_bytes(data).to_bytes())


@given(tampered(STATES[2].header.to_bytes()))
def test_run_header(data):
    with suppress(BadInputError):
        RunHeader.from_bytes(RunHeader.from_bytes(data).to_bytes())


@pytest.mark.parametrize("state", STATES, ids=KINDS)
@given(data=st.data())
def test_snapshot(state, data):
    with suppress(BadInputError):
        restored = ModelState.from_bytes(state.header, LAYOUT, data.draw(tampered(state.to_bytes())))
        assert restored.theta.shape == state.theta.shape


@given(tampered(MANIFEST.to_bytes()) | grafted(json.loads(MANIFEST.to_bytes())).map(lambda v: json.dumps(v).encode()))
def test_manifest(data):
    with suppress(BadInputError):
        Manifest.from_bytes(data)


@given(values | grafted(LAYOUT.to_json()))
def test_layout(value):
    with suppress(BadInputError):
        layout = Layout.from_json(value)
        assert Layout.from_json(layout.to_json()).digest == layout.digest


@given(st.text() | tampered(TOKEN.encode().encode()).map(lambda data: data.decode("latin-1")) | values.map(encoded))
def test_join_token(text):
    with suppress(BadInputError):
        assert JoinToken.decode(JoinToken.decode(text).encode()) == JoinToken.decode(text)


@pytest.mark.parametrize("data", [DEEP.encode(), b'{"format":' + DEEP.encode(), b"\xff", b"\xff\xfe", b"", b"1e999"])
def test_hostile_json_is_not_a_manifest(data):
    with pytest.raises(BadInputError):
        Manifest.from_bytes(data)


def test_deep_json_is_not_a_token():
    with pytest.raises(BadInputError):
        JoinToken.decode("fwdllm1-" + base64.urlsafe_b64encode(DEEP.encode()).decode())
