"""The head made from class means: nearest mean, whatever the order in which the sums come."""

import numpy as np
import pytest
from helpers.tiny_head import HEAD, LABELS, WIDTH, manifest_of
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import TensorSpec
from fwdllm_server.algorithm.class_means import CONFIDENCE, MAX_SUM, ClassTotals, LinearHead, head_from_means

MANIFEST = manifest_of()
LINEAR = LinearHead.of(MANIFEST)
THETA = np.linspace(-1, 1, MANIFEST.layout.size, dtype=np.float32)


def totals_of(*sums):
    totals = ClassTotals(LINEAR)
    for label, rows, features in sums:
        totals.add(label, rows, np.array(features, dtype=np.float32))
    return totals


def head_of(totals):
    """Weight ``[classes, width]`` and bias ``[classes]``, float64."""
    tensors = MANIFEST.layout.unpack(head_from_means(THETA, LINEAR, totals))
    return tensors["classifier.weight"].astype(np.float64), tensors["classifier.bias"].astype(np.float64)


def random_sums(devices=5, seed=0):
    rng = np.random.default_rng(seed)
    return [(label, 10, rng.normal(3 * label, 2, WIDTH) * 10) for _ in range(devices) for label in range(len(LABELS))]


def test_a_text_gets_the_class_whose_mean_is_nearest():
    sums = random_sums()
    weight, bias = head_of(totals_of(*sums))
    means = np.array([np.median([s / rows for c, rows, s in sums if c == label], axis=0) for label in range(3)])
    features = np.random.default_rng(1).normal(3, 5, (500, WIDTH))

    nearest = np.square(features[:, None] - means).sum(axis=2).argmin(axis=1)
    assert ((features @ weight.T + bias).argmax(axis=1) == nearest).all()
    assert len(set(nearest)) == 3


def test_only_the_head_changes():
    initial = head_from_means(THETA, LINEAR, totals_of(*random_sums()))

    peft = MANIFEST.layout.block("peft").slice
    np.testing.assert_array_equal(initial[peft], THETA[peft])
    assert initial.dtype == np.float32
    assert not np.isin(initial[MANIFEST.layout.block("head").slice], THETA).any()


@given(st.permutations(range(15)))
def test_the_order_of_arrival_changes_no_bit(order):
    sums = random_sums()
    expected = head_from_means(THETA, LINEAR, totals_of(*sums))

    again = head_from_means(THETA, LINEAR, totals_of(*(sums[index] for index in order)))
    assert again.tobytes() == expected.tobytes()


def test_rows_count_alike_wherever_they_are():
    """One device with all rows and many with a part each make the same head."""
    many = [(label, 8, np.full(WIDTH, label + 1) * 8) for label in range(3) for _ in range(4)]
    one = [(label, 32, np.full(WIDTH, label + 1) * 32) for label in range(3)]

    assert head_from_means(THETA, LINEAR, totals_of(*many)).tobytes() == (
        head_from_means(THETA, LINEAR, totals_of(*one)).tobytes()
    )


def test_two_devices_have_the_mean_of_their_rows():
    both = totals_of((0, 8, [8, 0, 0, 0]), (0, 16, [0, 32, 0, 0]))

    np.testing.assert_allclose(both.means(np.array([0])), [[1 / 3, 4 / 3, 0, 0]])


def test_the_middle_of_an_even_number_of_equal_devices_is_between_two():
    four = totals_of(*((0, 8, np.full(WIDTH, 8 * value)) for value in (1, 2, 4, 100)))

    np.testing.assert_array_equal(four.means(np.array([0])), np.full((1, WIDTH), 3.0))


def test_no_device_counts_for_more_than_twice_the_median_of_rows():
    three = totals_of(
        (0, 10**9, np.full(WIDTH, 9e8)), *((0, 10, np.full(WIDTH, 10 * value)) for value in (1.0, 1.1, 1.2))
    )

    np.testing.assert_allclose(three.means(np.array([0])), np.full((1, WIDTH), 1.0), rtol=1e-6)


@pytest.mark.parametrize("lie", [-1e6, 1e6])
def test_one_device_moves_the_head_hardly_at_all(lie):
    """It claims most of the rows of every class, and that they lie where those of another class do."""
    honest = random_sums(devices=8)
    lies = [(label, 10**8, np.full(WIDTH, lie * (label - 1)) * 100) for label in range(len(LABELS))]
    features = np.random.default_rng(1).normal(3, 5, (500, WIDTH))
    (weight, bias), (with_lies, bias_with_lies) = head_of(totals_of(*honest)), head_of(totals_of(*honest, *lies))

    same = (features @ weight.T + bias).argmax(axis=1) == (features @ with_lies.T + bias_with_lies).argmax(axis=1)
    assert same.mean() > 0.85


def test_of_two_devices_one_is_held_to_twice_the_length_of_the_median_mean():
    means = totals_of((0, 8, [8, 0, 0, 0]), (1, 8, [0, 8, 0, 0]), (1, 8, [0, 0, 8e6, 0])).means(np.array([1]))

    np.testing.assert_allclose(means, [[0, 0.5, 1, 0]])


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_at_the_mean_distance_is_sure_of_its_own_mean(classes):
    means = np.eye(classes, WIDTH) * 7
    weight, bias = head_of(totals_of(*((label, 8, means[label] * 8) for label in range(classes))))

    logits = (means @ weight.T + bias)[:, :classes]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities.diagonal(), CONFIDENCE, rtol=1e-5)


def test_a_class_that_nobody_has_starts_with_zeros_at_the_mean_of_the_others():
    weight, bias = head_of(totals_of((0, 8, [8, 0, 0, 0]), (2, 8, [0, 8, 0, 0])))

    assert not weight[1].any()
    assert bias[1] == 0
    assert (weight @ [0.5, 0.5, 0, 0] + bias).argmax() == 1
    assert [(weight @ mean + bias).argmax() for mean in np.eye(2, WIDTH)] == [0, 2]


def test_means_that_are_all_the_same_say_nothing():
    weight, bias = head_of(totals_of(*((label, 8, [8, 8, 8, 8]) for label in range(3))))

    assert not weight.any()
    assert not bias.any()


def test_features_far_from_the_origin_do_no_harm():
    """What all features have in common is left out before it can drown the difference."""
    near = head_of(totals_of(*((label, 8, np.eye(3, WIDTH)[label] * 8) for label in range(3))))
    far = head_of(totals_of(*((label, 8, (np.eye(3, WIDTH)[label] + 1000) * 8) for label in range(3))))

    np.testing.assert_allclose(far[0], near[0], rtol=1e-6)
    np.testing.assert_allclose(far[1], near[1] - 1000 * near[0].sum(axis=1), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(
    "features",
    [[0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, np.nan], [0, 0, 0, np.inf], [0, 0, 0, -np.inf], [0, 0, 0, 2 * MAX_SUM]],
)
def test_what_is_no_sum_of_features_is_not_taken(features):
    assert not LINEAR.takes(0, np.array(features, dtype=np.float32))


def test_the_largest_sums_of_the_last_class_are_taken():
    assert LINEAR.takes(2, np.full(WIDTH, -MAX_SUM, dtype=np.float32))
    assert not LINEAR.takes(3, np.zeros(WIDTH, dtype=np.float32))


def test_where_the_head_lies():
    assert (LINEAR.classes, LINEAR.width) == (3, WIDTH)
    assert THETA[LINEAR.weight].shape == (12,)
    assert THETA[LINEAR.bias].shape == (3,)


@pytest.mark.parametrize(
    "manifest",
    [
        manifest_of(per_token=True),
        manifest_of(width=WIDTH + 1),
        manifest_of(HEAD[0]),
        manifest_of(TensorSpec("dense.weight", (WIDTH, WIDTH), "head"), *HEAD),
    ],
    ids=["on tokens", "of another width", "without a bias", "of two layers"],
)
def test_any_other_head_is_refused_with_a_remedy(manifest):
    with pytest.raises(BadInputError, match=r'one linear layer with a bias .* pooling = "mean", or head = "zeros"'):
        LinearHead.of(manifest)
