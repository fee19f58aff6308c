import pytest

from fwdllm_server.tasks.entity_scores import EntityScores


def test_entities_count_as_a_whole():
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"]]
    said = [["B-PER", "I-PER", "O", "O"], ["B-PER", "B-LOC"]]
    found = EntityScores.of(truth, said, loss=0.5)

    assert (found.precision, found.recall, found.f1) == (pytest.approx(2 / 3),) * 3
    assert found.token_accuracy == pytest.approx(4 / 6)
    assert (found.rows, found.loss) == (2, 0.5)
    assert [(each.label, each.precision, each.recall, each.support) for each in found.classes] == [
        ("LOC", 1.0, 0.5, 2),
        ("PER", 0.5, 1.0, 1),
    ]


def test_half_an_entity_is_none():
    assert EntityScores.of([["B-PER", "I-PER"]], [["B-PER", "O"]], loss=1).f1 == 0


@pytest.mark.parametrize("said", [[["O", "O"]], [["B-PER", "O"]]])
def test_a_file_without_entities_has_metrics(said):
    found = EntityScores.of([["O", "O"]], said, loss=1)

    assert (found.f1, found.precision, found.recall) == (0, 0, 0)


def test_tags_that_are_no_entities_are_classes():
    found = EntityScores.of([["NOUN", "VERB", "NOUN"]], [["NOUN", "NOUN", "NOUN"]], loss=1)

    assert found.f1 == pytest.approx((0.8 + 0) / 2)
    assert [(each.label, each.recall) for each in found.classes] == [("NOUN", 1), ("VERB", 0)]
