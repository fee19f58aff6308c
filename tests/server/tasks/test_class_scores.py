import math

import pytest

from fwdllm_server.tasks.class_scores import ClassificationScores, MultiLabelScores

LABELS = ("arts", "law", "sport", "never")
TRUTH = [0, 0, 1, 1, 1, 2]
SAID = [0, 1, 1, 1, 0, 1]
CHANCES = [[0.7 if index == said else 0.1 for index in range(4)] for said in SAID]


@pytest.fixture
def scores() -> ClassificationScores:
    return ClassificationScores.of(LABELS, TRUTH, CHANCES)


def test_metrics_are_those_of_a_count_by_hand(scores):
    assert scores.rows == 6
    assert scores.accuracy == pytest.approx(3 / 6)
    assert scores.confusion_matrix == [[1, 1, 0], [1, 2, 0], [0, 1, 0]]
    arts, law, sport = scores.classes
    assert (arts.label, arts.precision, arts.recall, arts.support) == ("arts", 1 / 2, 1 / 2, 2)
    assert (law.label, law.precision, law.recall, law.support) == ("law", 2 / 4, pytest.approx(2 / 3), 3)
    assert (sport.label, sport.precision, sport.recall, sport.f1, sport.support) == ("sport", 0, 0, 0, 1)
    assert scores.macro_f1 == pytest.approx((1 / 2 + 4 / 7 + 0) / 3)
    # Gorodkin 2004: (c s - Σ p t) / √((s² - Σ p²)(s² - Σ t²)), c = 3 of s = 6 correct, p = (2, 4, 0), t = (2, 3, 1).
    assert scores.matthews_correlation == pytest.approx((3 * 6 - 16) / math.sqrt((36 - 20) * (36 - 14)))
    assert scores.loss == pytest.approx(-(3 * math.log(0.7) + 3 * math.log(0.1)) / 6)


def test_a_class_that_is_neither_there_nor_said_lowers_no_mean(scores):
    assert "never" not in [each.label for each in scores.classes]


def test_a_file_of_one_class_has_metrics():
    found = ClassificationScores.of(("no", "yes"), [1, 1], [[0.4, 0.6], [0.1, 0.9]])

    assert (found.accuracy, found.macro_f1, found.matthews_correlation) == (1, 1, 0)
    assert found.confusion_matrix == [[2]]


def test_metrics_of_several_labels_are_those_of_a_count_by_hand():
    truth = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    said = [[True, True, False, False], [True, False, False, False], [False, False, False, False]]
    found = MultiLabelScores.of(LABELS, truth, said, loss=0.5)

    assert found.micro_f1 == pytest.approx(2 * 2 / (3 + 3))
    assert found.macro_f1 == pytest.approx((1 + 0) / 2)
    assert (found.rows, found.exact_match, found.loss) == (3, pytest.approx(1 / 3), 0.5)
    assert [(each.label, each.f1, each.support) for each in found.classes] == [("arts", 1, 2), ("law", 0, 1)]


def test_rows_without_labels_have_metrics():
    found = MultiLabelScores.of(LABELS, [[0, 0, 0, 0]], [[False] * 4], loss=0.1)

    assert (found.micro_f1, found.macro_f1, found.exact_match, found.classes) == (0, 0, 1, [])
