"""Unlabelled texts, to see what passes through a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from fwdllm_server.model.load import TokenizerFile

_BATCH = 16


@dataclass(frozen=True)
class TextSample:
    """Texts and how the devices tokenise them."""

    texts: Sequence[str]
    tokenizer: TokenizerFile
    max_tokens: int

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """``input_ids`` and ``attention_mask``, int64 ``[N, T]``, padded at the end."""
        tokenizer = Tokenizer.from_str(self.tokenizer.json.decode())
        tokenizer.enable_truncation(self.max_tokens)
        tokenizer.enable_padding(pad_id=self.tokenizer.pad_token_id)
        for start in range(0, len(self.texts), _BATCH):
            encodings = tokenizer.encode_batch(list(self.texts[start : start + _BATCH]))
            if encodings[0].ids:  # all are padded to one length, 0 if every text is empty
                yield {
                    "input_ids": torch.tensor([encoding.ids for encoding in encodings]),
                    "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings]),
                }
