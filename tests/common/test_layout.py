import numpy as np
import pytest
from common.runs import LAYOUT, initial_theta
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Block, Layout, TensorSpec

shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
layouts = st.lists(st.tuples(shapes, st.integers(0, 2)), min_size=1, max_size=6).map(
    lambda tensors: Layout(
        tuple(
            TensorSpec(f"tensor {i}", shape, f"block {block}")
            for i, (shape, block) in enumerate(sorted(tensors, key=lambda tensor: tensor[1]))
        )
    )
)


@given(layouts)
def test_tensors_make_the_round_trip_through_theta(layout):
    theta = np.arange(layout.size, dtype=np.float32)
    tensors = layout.unpack(theta)
    assert [tensor.shape for tensor in tensors.values()] == [spec.shape for spec in layout.tensors]
    np.testing.assert_array_equal(layout.pack(tensors), theta)


@given(layouts)
def test_blocks_cover_theta_without_gap_or_overlap(layout):
    ends = [0, *(block.stop for block in layout.blocks.values())]
    assert [block.start for block in layout.blocks.values()] == ends[:-1]
    assert ends[-1] == layout.size


@given(layouts)
def test_json_makes_the_round_trip(layout):
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert again.digest == layout.digest


def test_unpacked_tensors_are_views():
    theta = initial_theta()
    LAYOUT.unpack(theta)["bias"][:] = 9
    assert (theta[LAYOUT.block("head").slice] == 9).all()


def test_a_block_is_a_slice_of_theta():
    assert LAYOUT.blocks == {"peft": Block("peft", 0, 327), "head": Block("head", 327, 333)}


def test_offsets_of_huge_tensors_are_exact():
    huge = Layout(tuple(TensorSpec(name, (2**62,), "peft") for name in "abc"))
    assert huge.offsets == (0, 2**62, 2**63)
    assert huge.block("peft").stop == huge.size == 3 * 2**62


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"shape": (2, 3)},
        {"shape": (6, 1)},
        {"block": "other"},
    ],
    ids=str,
)
def test_the_digest_tells_layouts_apart(change):
    spec = {"name": "w", "shape": (3, 2), "block": "peft"}
    assert Layout((TensorSpec(**spec),)).digest != Layout((TensorSpec(**spec | change),)).digest


def test_the_digest_is_the_same_in_every_release():
    assert LAYOUT.digest.hex() == "7369dd9c56ebb96db47321c17c958de5a5b9e5902597ac0dac18d4ec9c750863"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "no trainable tensor"),
        ([("a", (1,), "x"), ("a", (2,), "x")], "occurs twice"),
        ([("a", (3, 0), "x")], "has no elements"),
        ([("a", (-2, -3), "x")], "has no elements"),
        ([("a", (1,), "x"), ("b", (1,), "y"), ("c", (1,), "x")], "must be neighbours"),
    ],
)
def test_a_layout_that_is_not_one_is_refused(tensors, message):
    with pytest.raises(BadInputError, match=message):
        Layout(tuple(TensorSpec(*tensor) for tensor in tensors))


@pytest.mark.parametrize(
    "value",
    [None, 3, "text", {}, [3], [{}], [{"name": "a", "shape": 3, "block": "b"}]]
    + [[{"name": "a", "shape": [size], "block": "b"}] for size in (None, "x", float("inf"), float("nan"))],
    ids=str,
)
def test_json_of_another_form_is_refused(value):
    with pytest.raises(BadInputError, match="layout"):
        Layout.from_json(value)


def test_an_unknown_block_is_refused_with_the_known_ones():
    with pytest.raises(BadInputError, match="unknown block 'neck'; this model has peft, head"):
        LAYOUT.block("neck")


def test_the_tensors_of_a_block_are_slices_of_theta():
    assert LAYOUT.tensors_of("peft") == [slice(0, 320), slice(320, 327)]
    assert LAYOUT.tensors_of("head") == [slice(327, 333)]


def test_a_part_of_a_block_is_one_of_its_tensors_or_the_whole():
    assert LAYOUT.part("peft", "lora_B") == Block("peft", 320, 327)
    assert LAYOUT.part("peft", "") == LAYOUT.block("peft")


def test_a_tensor_that_the_block_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(BadInputError, match="block 'peft' has no tensor 'bias'; it has lora_A, lora_B"):
        LAYOUT.part("peft", "bias")
    with pytest.raises(BadInputError, match="unknown block 'neck'"):
        LAYOUT.part("neck", "")


def test_a_missing_tensor_is_named():
    with pytest.raises(BadInputError, match="'lora_B' is missing"):
        LAYOUT.pack({"lora_A": np.zeros((16, 20), dtype=np.float32)})


def test_a_tensor_of_another_shape_is_refused():
    tensors = LAYOUT.unpack(initial_theta())
    with pytest.raises(BadInputError, match=r"'bias' has shape \(2, 3\), expected \(6,\)"):
        LAYOUT.pack(tensors | {"bias": tensors["bias"].reshape(2, 3)})


def test_theta_of_another_length_is_refused():
    with pytest.raises(BadInputError, match=r"expected \(333,\)"):
        LAYOUT.unpack(np.zeros(334, dtype=np.float32))
