"""Completions as token ids, and which tokens of them are learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import structlog
from numpy.typing import NDArray
from tokenizers import Tokenizer

from fwdllm_client.data.dataset import IGNORED, TokenDataset
from fwdllm_client.data.split import RowIndices
from fwdllm_client.data.tokens import offsets_of, open_tokenizer
from fwdllm_client.tasks.causal_lm.rows import Completion, CompletionSource
from fwdllm_client.tasks.causal_lm.template import ChatTemplate
from fwdllm_common.chat import Chat
from fwdllm_common.errors import BadInputError

_log = structlog.get_logger()


@dataclass(frozen=True)
class CompletionDataset(TokenDataset):
    """Tokenised rows whose ``labels`` are the tokens to be predicted, int32 ``[tokens]``, :data:`IGNORED` elsewhere.

    The first token of a row is never one of them: nothing comes before it. ``files_rows`` are the ``records``.
    """

    files_rows: NDArray[np.int64] | None = None

    @property
    def records(self) -> NDArray[np.int64]:
        """The index in the file of what each row comes from, int64 ``[rows]``."""
        return super().records if self.files_rows is None else self.files_rows

    def weights(self, rows: RowIndices) -> NDArray[np.float64]:
        """Return the number of tokens to be predicted in each of ``rows``, float64 ``[N]``: a mean is over tokens."""
        return self.predicted[rows].astype(np.float64)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """How many tokens of each row are predicted from those before them, int64 ``[rows]``."""
        return self._counts(np.arange(len(self)))

    def places(self, row: int) -> NDArray[np.int64]:
        """Return the positions in a row at which the next token is predicted, int64 ``[predicted]``."""
        labels = self.labels[self.offsets[row] : self.offsets[row + 1]]
        return np.flatnonzero(labels != IGNORED) - 1

    def targets(self, rows: RowIndices, tokens: int = 0) -> NDArray[Any]:  # noqa: ARG002 - has positions instead
        """Return where in ``rows`` a token is predicted and which, int64 ``[N, C, 2]``.

        C is the largest number of predictions of a row; behind those of the others follow position 0 and
        :data:`IGNORED`. A token is predicted at the position before its own.
        """
        counts = self.predicted[rows]
        found = np.zeros((len(rows), max(1, int(counts.max(initial=0))), 2), dtype=np.int64)
        found[:, :, 1] = IGNORED
        for target, row, count in zip(found, rows.tolist(), counts.tolist(), strict=True):
            places = self.places(row)
            target[:count, 0] = places
            target[:count, 1] = self.labels[self.offsets[row] + places + 1]
        return found

    def only(self, rows: RowIndices) -> CompletionDataset:
        """Return the dataset of some of the rows, in this order."""
        spans = [slice(self.offsets[row], self.offsets[row + 1]) for row in rows]
        ids, labels = (np.concatenate([array[span] for span in spans]) for array in (self.token_ids, self.labels))
        return CompletionDataset(ids, offsets_of(self.lengths[rows]), labels, self.records[rows])

    @classmethod
    def of_targets(cls, token_ids: NDArray[np.int32], offsets: NDArray[np.int64], targets: NDArray[Any]) -> Self:
        """Return the dataset of these rows whose labels :meth:`targets` has given for all of them together."""
        labels = np.full(len(token_ids), IGNORED, dtype=np.int32)
        rows, columns = np.nonzero(targets[:, :, 1] != IGNORED)
        labels[offsets[rows] + targets[rows, columns, 0] + 1] = targets[rows, columns, 1]
        return cls(token_ids, offsets, labels)


class _Row(NamedTuple):
    """The ids of a row, and for each whether it is learnt; ``lost`` if the window has cut some off."""

    ids: Sequence[int]
    is_learnt: Sequence[bool]
    lost: bool = False


def tokenise(source: CompletionSource, tokenizer_file: Path, max_tokens: int, chat: Chat | None) -> CompletionDataset:
    """Tokenise the rows of ``source`` for a model that reads ``max_tokens`` and writes conversations as ``chat`` says.

    It is logged how many have lost tokens that go before their completion.

    :raises BadInputError: the file or a row is wrong, the chat template fails, or a completion is too long.
    """
    tokenise_one = _Tokeniser(open_tokenizer(tokenizer_file), max_tokens, chat or Chat())
    found: list[_Row] = []
    records: list[int] = []
    for record, row in enumerate(source.rows()):
        try:
            rows = list(tokenise_one.rows(row))
        except BadInputError as error:
            raise BadInputError(f"{source.place(row.line)}: {error}") from error
        found += rows
        records += [record] * len(rows)
    if lost := sum(row.lost for row in found):
        _log.warning(
            "rows are longer than the model's window and have lost the beginning of what goes before the completion",
            file=str(source.path),
            rows=lost,
            of=len(found),
            max_tokens=max_tokens,
        )
    ids = np.fromiter(chain.from_iterable(row.ids for row in found), dtype=np.int32)
    is_learnt = np.fromiter(chain.from_iterable(row.is_learnt for row in found), dtype=np.bool_)
    offsets = offsets_of(np.array([len(row.ids) for row in found], dtype=np.int64))
    labels = np.where(is_learnt, ids, np.int32(IGNORED))
    return CompletionDataset(ids, offsets, labels, np.array(records, dtype=np.int64))


class _Tokeniser:
    """Tokenises rows one at a time: batches are no faster once the rows are short."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, chat: Chat) -> None:
        self._tokenizer = tokenizer
        self._longest = max_tokens
        self._chat = chat
        self._template: ChatTemplate | None = None

    def rows(self, row: Completion) -> Iterator[_Row]:
        """Yield the rows of one example: one, or the blocks of a plain text."""
        if row.messages:
            yield self._cut(*self._conversation(row))
        elif row.prompt is None:
            yield from self._blocks(row.completion)
        else:
            yield self._cut(*self._completion(row.prompt, row.completion))

    def _conversation(self, row: Completion) -> tuple[Sequence[int], list[bool]]:
        if self._template is None:
            self._template = ChatTemplate(self._chat)
        text, spans = self._template.render(row.messages, row.learnt_from)
        # A template writes the special tokens itself.
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        is_learnt = [any(first < end and last > start for start, end in spans) for first, last in encoding.offsets]
        return encoding.ids, is_learnt

    def _completion(self, prompt: str, completion: str) -> tuple[Sequence[int], list[bool]]:
        """Tokenise both together; learnt is what follows the tokens of the prompt alone, as in TRL."""
        ids = self._tokenizer.encode(self._ended(prompt + completion)).ids
        alone = self._tokenizer.encode(prompt).ids
        start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, alone, strict=False)))
        return ids, [index >= start for index in range(len(ids))]

    def _blocks(self, text: str) -> Iterator[_Row]:
        ids = self._tokenizer.encode(self._ended(text)).ids
        if len(ids) < 2:
            raise BadInputError("the text is a single token, so there is nothing to predict; drop the row")
        for start in range(0, len(ids), self._longest):
            block = ids[start : start + self._longest]
            if len(block) > 1:
                yield _Row(block, [False] + [True] * (len(block) - 1))

    def _ended(self, text: str) -> str:
        return text if text.endswith(self._chat.end) else text + self._chat.end

    def _cut(self, ids: Sequence[int], is_learnt: list[bool]) -> _Row:
        """Cut a row to the window: at its end what comes after the completion, then its beginning."""
        end = 1 + max((index for index, learnt in enumerate(is_learnt) if learnt), default=-1)
        if not end:
            raise BadInputError("no token of it is of the completion, so there is nothing to learn; drop the row")
        begin = max(0, end - self._longest)
        last_turn = end - 1
        while last_turn and is_learnt[last_turn - 1]:
            last_turn -= 1
        if begin and last_turn <= begin:
            raise BadInputError(
                f"the completion has {end - last_turn} tokens, and the model reads {self._longest} together with at "
                "least one before it; shorten or drop the row, or raise [model] max_tokens"
            )
        kept = is_learnt[begin:end]
        kept[0] = False
        if not any(kept):
            raise BadInputError("its completion is one token with none before it, which cannot be predicted; drop it")
        return _Row(ids[begin:end], kept, begin > 0)
