"""Causal language modelling: a row is a prompt with a completion, a conversation or a text; tokens are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fwdllm_client.tasks.causal_lm.rows import Completion, CompletionSource
from fwdllm_client.tasks.task import Prediction, RowOptions, Task
from fwdllm_common.counts import Counts
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import CAUSAL_LM

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fwdllm_client.data.dataset import Dataset
    from fwdllm_client.data.split import RowIndices
    from fwdllm_client.tasks.loss_graph import LossGraph
    from fwdllm_common.manifest import Manifest

__all__ = ["TASK", "CausalLm", "Completion", "CompletionSource"]


class CausalLm(Task):
    """The next token after each token of a text."""

    name = CAUSAL_LM
    said = "completion"

    def source(self, path: Path, options: RowOptions = RowOptions()) -> CompletionSource:  # noqa: B008 - has no state
        """Return the source of the rows in the file ``path``."""
        return CompletionSource(path, options.text_column, options.user_column, options.user, options.skip_incomplete)

    def is_loss(self, graph: LossGraph, has_copies: bool) -> bool:
        """Recognise the mean of each row's cross entropies at its completion's tokens."""
        return not has_copies and graph.is_mean_over_tokens("loss", "logits")

    def predictions(
        self,
        dataset: Dataset,  # noqa: ARG002
        rows: RowIndices,  # noqa: ARG002
        logits: NDArray[np.float32],  # noqa: ARG002
        labels: Sequence[str],  # noqa: ARG002
    ) -> Sequence[Prediction]:
        """Refuse: a completion takes a pass for each token."""
        self._refuse()

    def counts(self, dataset: Dataset, rows: RowIndices, logits: NDArray[np.float32]) -> Counts:
        """Count the rows whose every token is the most probable one, and sum the shares of such tokens of all.

        The former are those that greedy generation completes word for word.
        """
        targets = dataset.targets(rows)[:, :, 1]
        is_right = (logits.argmax(axis=2) == targets).sum(axis=1)
        shares = is_right / dataset.weights(rows)
        return Counts(int((shares == 1).sum()), len(rows), float(shares.sum()))

    def dataset(self, token_ids: NDArray[np.int32], offsets: NDArray[np.int64], targets: NDArray[Any]) -> Dataset:
        """Return the dataset of these rows."""
        from fwdllm_client.tasks.causal_lm.tokens import CompletionDataset

        return CompletionDataset.of_targets(token_ids, offsets, targets)

    def to_predict(
        self,
        path: Path,  # noqa: ARG002
        options: RowOptions,  # noqa: ARG002
        tokenizer_file: Path,  # noqa: ARG002
        manifest: Manifest,  # noqa: ARG002
    ) -> Dataset:
        """Refuse, as :meth:`predictions`."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BadInputError(
            f"a model for {CAUSAL_LM} is not asked row by row; export it and generate with transformers"
        )


TASK = CausalLm()
