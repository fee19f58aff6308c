"""The segment ids of a pair of texts, for models with segment embeddings.

Devices feed token ids alone, so the exported graph computes them: the second text follows the first separator.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer
from torch import Tensor


def segment_separator(config: Any, tokenizer_json: bytes) -> int | None:
    """Return the token after which the second text begins, None where model or tokenizer do not use one."""
    if (getattr(config.get_text_config(), "type_vocab_size", None) or 0) < 2:
        return None
    pair = Tokenizer.from_str(tokenizer_json.decode()).encode("a", "b")
    if 1 not in pair.type_ids or pair.type_ids[0] != 0:
        return None
    return int(pair.ids[pair.type_ids.index(1) - 1])


def token_types(input_ids: Tensor, separator: int) -> Tensor:
    """Compute the segment ids, int64 ``[N, T]`` as ``input_ids``: 0 up to the first ``separator`` of a row, then 1."""
    is_separator = (input_ids == separator).to(input_ids.dtype)
    return (is_separator.cumsum(dim=1) - is_separator).clamp(max=1)


def segments(input_ids: Tensor, separator: int | None) -> dict[str, Tensor]:
    """Return the argument that tells a model the segment ids; none without a ``separator``."""
    return {} if separator is None else {"token_type_ids": token_types(input_ids, separator)}
