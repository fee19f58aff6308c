"""Which tokens of a pair are the second text: models with segment embeddings want to be told.

Devices send token ids alone, so the exported graph finds it out: all that follows the first separator.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer
from torch import Tensor


def segment_separator(config: Any, tokenizer_json: bytes) -> int | None:
    """The token after which the second text begins; None where model or tokenizer tell the two apart in no such way."""
    if (getattr(config.get_text_config(), "type_vocab_size", None) or 0) < 2:
        return None
    pair = Tokenizer.from_str(tokenizer_json.decode()).encode("a", "b")
    if 1 not in pair.type_ids or pair.type_ids[0] != 0:
        return None
    return int(pair.ids[pair.type_ids.index(1) - 1])


def token_types(input_ids: Tensor, separator: int) -> Tensor:
    """0 up to the first ``separator`` of each row and 1 after it, int64 ``[N, T]`` as ``input_ids``."""
    is_separator = (input_ids == separator).to(input_ids.dtype)
    return (is_separator.cumsum(dim=1) - is_separator).clamp(max=1)
