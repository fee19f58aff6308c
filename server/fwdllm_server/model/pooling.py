"""A classifier on the mean token vector, for backbones trained to be pooled like that (sentence encoders)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanPooledClassifier(nn.Module):
    """``backbone`` → mean of the last hidden state over unmasked tokens → ``classifier`` (linear)."""

    def __init__(self, backbone: Any, labels: int) -> None:
        super().__init__()
        self.backbone: nn.Module = backbone
        self.config: Any = backbone.config
        # PEFT records it in the adapter as the name of the base model.
        self.name_or_path: Any = backbone.name_or_path
        self.classifier = nn.Linear(self.config.get_text_config().hidden_size, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> SequenceClassifierOutput:
        """Logits ``[N, labels]`` from ``input_ids`` and ``attention_mask``, int64 ``[N, T]``."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        weights = attention_mask.to(hidden.dtype).unsqueeze(-1)
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        return SequenceClassifierOutput(logits=self.classifier(pooled))
