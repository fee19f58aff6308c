"""The metrics of predicted tags: of entities by seqeval, which counts as CoNLL's script does, or of tags."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from seqeval.metrics import classification_report
from sklearn.metrics import accuracy_score
from sklearn.metrics import classification_report as report_of_tags

from fwdllm_server.tasks.scores import ClassScores, Figure, Scores

_ENTITY_TAG = re.compile("O|[BIES]-.+")
_AVERAGES = ("micro avg", "macro avg", "weighted avg", "samples avg", "accuracy")

Tags = Sequence[Sequence[str]]


@dataclass(frozen=True)
class EntityScores(Scores):
    """Metrics of tagged words; ``loss`` is the mean cross-entropy of tags in nats.

    Of tags such as B-PER and I-PER ``f1``, ``precision`` and ``recall`` are those of all entities, and ``classes`` are
    their kinds. Of others, such as parts of speech, they are means over the tags.
    """

    f1: float
    precision: float
    recall: float
    token_accuracy: float
    classes: Sequence[ClassScores]

    @classmethod
    def of(cls, truth: Tags, said: Tags, loss: float) -> EntityScores:
        """Compare the tags of each row's words, which are as many in both."""
        wanted, found = list(chain.from_iterable(truth)), list(chain.from_iterable(said))
        if all(_ENTITY_TAG.fullmatch(tag) for tag in {*wanted, *found}):
            has_entities = any(tag != "O" for tag in (*wanted, *found))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)  # no entity in the truth
                report = (
                    classification_report([*truth], [*said], output_dict=True, zero_division=0) if has_entities else {}
                )
            average = report.get("micro avg", {})
        else:
            report = report_of_tags(wanted, found, output_dict=True, zero_division=0.0)
            average = report["macro avg"]
        return cls(
            rows=len(truth),
            loss=loss,
            f1=_share(average, "f1-score"),
            precision=_share(average, "precision"),
            recall=_share(average, "recall"),
            token_accuracy=float(accuracy_score(wanted, found)),
            classes=[
                ClassScores(
                    name,
                    _share(each, "precision"),
                    _share(each, "recall"),
                    _share(each, "f1-score"),
                    int(each["support"]),
                )
                for name, each in report.items()
                if name not in _AVERAGES
            ],
        )

    def figures(self) -> Iterator[Figure]:
        """Yield F1, precision, recall, the accuracy of tags and the loss."""
        yield "F1", f"{self.f1:.1%}"
        yield "precision", f"{self.precision:.1%}"
        yield "recall", f"{self.recall:.1%}"
        yield "token accuracy", f"{self.token_accuracy:.1%}"
        yield "loss", f"{self.loss:.4f}"


def _share(report: Mapping[str, Any], name: str) -> float:
    return float(report.get(name, 0.0))
