"""The forward pass to be exported: per-example loss from θ inputs, with the activations at which it may be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fwdllm_server.model.architecture import head_name, layer_stack
from fwdllm_server.model.batched_modules import BatchedModel
from fwdllm_server.model.logits import logits_of
from fwdllm_server.model.modeling_fwdllm import AdaptedModule
from fwdllm_server.model.peft.side import side_of
from fwdllm_server.model.segments import segments
from fwdllm_server.tasks import Task

Outputs = tuple[Tensor, Tensor, *tuple[Tensor, ...]]


class _CutModel(nn.Module):
    """A model whose pass can be cut: the inputs of some of its modules (path and name of the cut) are remembered.

    What the head pools of lower layers goes along beside a layer's input: nothing else crosses a cut.
    """

    def __init__(self, model: Any, entries: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        # The model itself: PEFT's wrapper adds nothing to the pass.
        self.classifier: Any = model.base_model.model
        self._cuts: list[dict[str, Tensor]] = []
        for path, name in entries:
            model.get_submodule(path).register_forward_pre_hook(self._remember_input(name), with_kwargs=True)

    @contextmanager
    def _cutting(self) -> Iterator[Mapping[str, Tensor]]:
        """In a pass inside, the inputs of the modules by the name of the cut."""
        self._cuts.append({})
        try:
            yield self._cuts[-1]
        finally:
            self._cuts.clear()

    def _remember_input(self, name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            activation: Tensor = args[0] if args else kwargs["hidden_states"]
            lower: list[Tensor] = getattr(self.classifier, "lower_states", [])
            if name in self._cuts[-1] or not lower:
                self._cuts[-1].setdefault(name, activation)
                return None
            packed = torch.cat((activation, *lower), dim=-1)
            self._cuts[-1][name] = packed
            activation, *lower[:] = packed.chunk(1 + len(lower), dim=-1)
            return ((activation, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": activation})

        return hook


class StagedStates(_CutModel):
    """The frozen pass below side modules: the numbers of each token that they read, and what the head reads.

    After these, the activations that the frozen layers at ``frozen_cuts`` (paths in ``model``) read. With a
    ``separator`` (token id) the model is told which tokens come after it.
    """

    def __init__(self, model: Any, frozen_cuts: Sequence[str] = (), separator: int | None = None) -> None:
        super().__init__(model, [(path, path) for path in frozen_cuts])
        self._frozen_cuts = tuple(frozen_cuts)
        self._separator = separator

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """``numbers [N, T, width]``, ``features [N, width]`` and the cuts; inputs are int64 ``[N, T]``."""
        with self._cutting() as cuts:
            states = self.classifier.states(input_ids, attention_mask, **segments(input_ids, self._separator))
        side = side_of(self.classifier)
        assert side is not None, "only for models with side modules"
        features = self.classifier.features(states, attention_mask)
        return (side.compressed(states), features, *(cuts[path] for path in self._frozen_cuts))


class StagedLoss(_CutModel):
    """Loss, logits and, for every block, the activation that is the first thing its weights touch.

    Before these, the activations that the frozen layers at ``frozen_cuts`` (paths in the batched model) read.
    The loss is that of the ``task``. With a ``separator`` (token id) the model is told which tokens come after it.
    """

    def __init__(
        self,
        batched: BatchedModel,
        blocks: Sequence[str],
        task: Task,
        frozen_cuts: Sequence[str] = (),
        separator: int | None = None,
    ) -> None:
        entries = [(path, path) for path in frozen_cuts] + [
            (_entry(batched, p), block) for p, block in batched.blocks.items()
        ]
        super().__init__(batched.model, entries)
        self._blocks = tuple(blocks)
        self._task = task
        self._frozen_cuts = tuple(frozen_cuts)
        self._separator = separator
        self._theta = batched.inputs

    def forward(self, input_ids: Tensor, attention_mask: Tensor, thetas: list[Tensor], labels: Tensor) -> Outputs:
        """``loss [N]``, ``logits [N, …]``, and one activation per frozen cut and block.

        ``input_ids``, ``attention_mask`` int64 ``[N, T]``, ``thetas`` per block float32 ``[P, block size]``, ``labels``
        ``[N, …]``; row n uses copy n // (N / P) of each block.
        """
        self._theta.by_block.update(zip(self._blocks, thetas, strict=True))
        with self._cutting() as cuts:
            try:
                positions = self._task.positions(labels)
                logits = logits_of(
                    self.classifier, input_ids, attention_mask, self._separator, positions, self._task.tags_words
                )
            finally:
                self._theta.by_block.clear()
        loss = self._task.losses(logits, labels, attention_mask)
        return (loss, logits, *(cuts[name] for name in (*self._frozen_cuts, *self._blocks)))


def frozen_cuts(batched: BatchedModel, stage_weights: int) -> Sequence[str]:
    """Return the layers (paths) before which to cut the frozen part, into parts of at most so many weights.

    A layer is never cut itself, however large it is.
    """
    classifier: Any = batched.model.base_model.model
    stack = classifier.get_submodule(layer_stack(classifier))
    layers = {f"base_model.model.{layer_stack(classifier)}.{name}": layer for name, layer in stack.named_children()}
    entries = {_entry(batched, path) for path in batched.blocks}
    if any(path not in layers and not path.startswith(_head_path(batched)) for path in entries):
        return ()
    everything = (classifier, stack, classifier.get_submodule(head_name(classifier)))
    weights, inside, head = (sum(parameter.numel() for parameter in each.parameters()) for each in everything)
    held, cuts = weights - inside - head, []
    for path, layer in takewhile(lambda item: item[0] not in entries, layers.items()):
        size = sum(parameter.numel() for parameter in layer.parameters())
        if held and held + size > stage_weights:
            cuts.append(path)
            held = 0
        held += size
    return cuts


def _head_path(batched: BatchedModel) -> str:
    return f"base_model.model.{head_name(batched.model.base_model.model)}."


def _entry(batched: BatchedModel, path: str) -> str:
    """Return the module around a batched module whose input is the activation to cut at.

    In the head it is the batched module itself; else the transformer layer around it, or outside the layers the
    adapted module.
    """
    if path.startswith(_head_path(batched)):
        return path
    stack = "base_model.model." + layer_stack(batched.model.base_model.model)
    if path.startswith(f"{stack}."):
        return f"{stack}.{path.removeprefix(f'{stack}.').split('.')[0]}"
    parts = path.split(".")
    parents = [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
    adapted = (p for p in parents if isinstance(batched.model.get_submodule(p), BaseTunerLayer | AdaptedModule))
    return next(adapted, path)
