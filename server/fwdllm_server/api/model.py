"""A trained model as scripts use it, with scikit-learn's names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.tasks import RowOptions
from fwdllm_common.errors import BadInputError
from fwdllm_server.api.quiet import quiet
from fwdllm_server.api.rows import RowReader, Rows
from fwdllm_server.evaluation.trained import TrainedModel
from fwdllm_server.tasks.scores import Scores


class Model:
    """A version of a trained model, run by the devices' own engine, in this process.

    Its columns are those that it was trained with.

    :param owner: what deletes the model's files when nothing refers to it any more.
    """

    def __init__(self, trained: TrainedModel, options: RowOptions, owner: object = None) -> None:
        self._trained = trained
        self._options = options
        self._owner = owner

    @property
    def version(self) -> int:
        """The version of the job's model: the number of rounds that made it."""
        return self._trained.version

    @property
    def labels(self) -> Sequence[str]:
        """The classes, in the order of :meth:`predict_proba`'s columns; none for questions."""
        return self._trained.manifest.labels

    @property
    def theta(self) -> NDArray[np.float32]:
        """The trained parameters θ, float32 ``[d]``."""
        return self._trained.theta

    def predict(self, rows: Sequence[str] | Sequence[Mapping[str, Any]]) -> list[str]:
        """Predict each of ``rows``: the label of a text, the answer to a mapping of ``question`` and ``context``.

        Mappings have the columns of the task's rows; labels and answers may be left out.

        :raises BadInputError: the rows are for another task, or there are none.
        """
        with self._reader() as reader:
            if isinstance(rows, str) or any(isinstance(row, str) for row in rows):
                found = self._trained.predict(_texts(rows))
            else:
                file = reader.file([_with_answer(row) for row in rows if not isinstance(row, str)], "rows")
                found = self._trained.predict_file(file, self._options)
        return [each.text for each in found]

    def predict_proba(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the probability of each label for each text, float64 ``[N, labels]``.

        :raises BadInputError: the model answers questions, or there is no text.
        """
        with quiet():
            found = self._trained.predict(_texts(texts))
        return np.array([each.probabilities for each in found], dtype=np.float64)

    def evaluate(self, rows: Rows) -> Scores:
        """Compare what the model says of each row with its label or its answers.

        :raises BadInputError: a column is missing, or a label is not the model's.
        """
        with self._reader() as reader:
            return self._trained.evaluate(reader.source(rows, "rows"))

    @contextmanager
    def _reader(self) -> Iterator[RowReader]:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            yield RowReader(Path(folder), self._trained.manifest.task, self._options)


def _texts(rows: Sequence[str] | Sequence[Mapping[str, Any]]) -> Sequence[str]:
    texts = [row for row in rows if isinstance(row, str)]
    if isinstance(rows, str) or len(texts) < len(rows):
        raise BadInputError("give a list of texts, or a list of mappings with the columns of the task's rows")
    return texts


def _with_answer(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a question with an answer, which a file of questions must have; it is not looked at."""
    if "context" not in row or "answer" in row or "answers" in row:
        return row
    return {**row, "answer_start": 0, "answer": str(row["context"])[:1]}
