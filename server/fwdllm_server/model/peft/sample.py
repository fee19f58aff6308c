"""Unlabelled texts, to see what passes through a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fwdllm_client.data.dataset import Dataset
from fwdllm_common.prompt import Prompt
from fwdllm_server.model.load import TokenizerFile

_BATCH = 16


@dataclass(frozen=True)
class TextSample:
    """Texts and how the devices tokenise them; ``completions`` are rows of which tokens are to be predicted."""

    texts: Sequence[str]
    tokenizer: TokenizerFile
    max_tokens: int
    prompt: Prompt | None = None
    completions: Dataset | None = None

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """``input_ids`` and ``attention_mask``, int64 ``[N, T]``, padded at the end."""
        tokenizer = Tokenizer.from_str(self.tokenizer.json.decode())
        if self.prompt is None:
            tokenizer.enable_truncation(self.max_tokens)
        for start in range(0, len(self.texts), _BATCH):
            token_ids = self._token_ids(tokenizer, self.texts[start : start + _BATCH])
            rows = [torch.tensor(row, dtype=torch.int64) for row in token_ids]
            ids = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
            if ids.shape[1]:  # 0 if every text is empty
                mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
                yield {"input_ids": ids, "attention_mask": mask}

    def _token_ids(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        prompt = self.prompt
        if prompt is None:
            return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        encoded = tokenizer.encode_batch([prompt.apply(text) for text in texts])
        return [prompt.cut(encoding, text, self.max_tokens) for encoding, text in zip(encoded, texts, strict=True)]
