"""A PEFT model becomes the bundle of files that a device runs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel

from fwdllm_common.chat import Chat
from fwdllm_common.errors import BadInputError
from fwdllm_common.files import write_atomically
from fwdllm_common.layout import Layout
from fwdllm_common.manifest import MANIFEST_FILE, BundleFile, Manifest, Stage
from fwdllm_common.prompt import Prompt
from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.model.batched_modules import BatchedModel, ThetaInputs, copy_sharing_weights, make_batched_model
from fwdllm_server.model.cost import weights_multiplied
from fwdllm_server.model.load import TokenizerFile, quiet_transformers
from fwdllm_server.model.modeling_fwdllm import SideModules
from fwdllm_server.model.peft.side import side_of
from fwdllm_server.model.peft.side_stages import side_stages
from fwdllm_server.model.segments import segment_separator
from fwdllm_server.model.split import cut_stage, save_stage
from fwdllm_server.model.staged import StagedLoss, StagedStates, frozen_cuts
from fwdllm_server.model.trainable import trainable_layout
from fwdllm_server.tasks import Task, task_named

OPSET = 20
"""The operators that accelerators know: ``Gelu`` is in it, ``Attention`` and ``RotaryEmbedding`` are not yet."""
STAGE_WEIGHTS = 1 << 28
"""Most weights of a frozen stage that holds more than one layer: a gigabyte in float32, a sixth of that in int4."""
TOKENIZER_FILE = "tokenizer.json"

# Sizes of the example that is traced; pairwise different, so that no two of them look like one dimension.
_COPIES, _BATCH, _TOKENS, _COMPLETION = 2, 3, 7, 5


@dataclass(frozen=True)
class ModelInputs:
    """How rows become what a model reads: at most ``max_tokens`` token ids, and targets of the ``task``.

    ``labels`` are empty for a task without them; ``prompt``, ``no_answer``, ``chat`` and ``class_weights`` are
    the manifest's.
    """

    tokenizer: TokenizerFile
    max_tokens: int
    labels: Sequence[str] = ()
    task: str = CLASSIFICATION
    prompt: Prompt | None = None
    no_answer: bool = False
    chat: Chat | None = None
    class_weights: Sequence[float] = ()


def export_bundle(
    peft_model: PeftModel,
    inputs: ModelInputs,
    folder: Path,
    one_block: bool = False,
    stage_weights: int = STAGE_WEIGHTS,
) -> Manifest:
    """Write tokenizer, stage graphs and ``manifest.json`` into ``folder`` (made if need be); returns the manifest.

    The stages are the frozen prefix and one per block of the layout, of which there is but one with ``one_block``. A
    prefix of more than ``stage_weights`` weights becomes several stages of whole layers.
    Number of copies P, batch and text length stay dynamic, the length up to ``max_tokens``; the graphs call them
    ``copies_<block>``, ``rows`` and ``tokens``, for devices that have to fix them. Attention is in single operators.

    :raises BadInputError: the model pads with another id, cannot read ``max_tokens`` tokens, or has a trainable
        module that cannot be perturbed.
    """
    layout = trainable_layout(peft_model, one_block)
    _check_padding(peft_model, inputs.tokenizer.pad_token_id)
    _check_length(peft_model, inputs.max_tokens)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TOKENIZER_FILE, inputs.tokenizer.json)
    named = task_named(inputs.task)
    separator = segment_separator(peft_model.config, inputs.tokenizer.json) if named.is_pair else None
    side, features = side_of(peft_model.get_base_model()), 0
    if side is not None:
        if one_block:
            raise BadInputError("side modules have blocks of their own; leave out one_block")
        stages, features = _side_bundle(peft_model, side, layout, inputs.max_tokens, stage_weights, folder, separator)
    else:
        batched = make_batched_model(peft_model, layout)
        fix_rotations(batched.model, inputs.max_tokens)
        single_operators(batched.model)
        cuts = frozen_cuts(batched, stage_weights)
        staged = StagedLoss(batched, list(layout.blocks), named, cuts, separator)
        model = _export(staged, layout, inputs.max_tokens, named, len(inputs.labels), len(cuts))
        stages = list(_write_stages(model, len(cuts), layout, folder))
    manifest = Manifest(
        labels=tuple(inputs.labels),
        max_tokens=inputs.max_tokens,
        pad_token_id=inputs.tokenizer.pad_token_id,
        tokenizer=BundleFile.of(folder / TOKENIZER_FILE),
        layout=layout,
        stages=tuple(stages),
        prompt=inputs.prompt,
        task=inputs.task,
        no_answer=inputs.no_answer,
        features=features,
        chat=inputs.chat,
        class_weights=tuple(inputs.class_weights),
    )
    write_atomically(folder / MANIFEST_FILE, manifest.to_bytes())
    return manifest


def _export(staged: StagedLoss, layout: Layout, max_tokens: int, task: Task, labels: int, cuts: int) -> ir.Model:
    """One graph: ``input_ids, attention_mask, theta.<block>…, labels`` → ``loss, logits, cut.<stage>…``."""
    blocks = list(layout.blocks)
    rows = _COPIES * _BATCH
    ids = torch.ones(rows, _TOKENS, dtype=torch.int64)
    thetas = [torch.zeros(_COPIES, layout.block(block).size) for block in blocks]
    sizes = {"tokens": _TOKENS, "completion": _COMPLETION, "labels": labels}
    axes = [sizes[axis] if isinstance(axis, str) else axis for axis in task.label_axes]
    targets = torch.zeros((rows, *axes), dtype=getattr(torch, task.label_dtype))
    example: tuple[Tensor | list[Tensor], ...] = (ids, ids.clone(), thetas, targets)
    row_dim, token_dim = Dim("rows", min=1), Dim("tokens", min=2, max=max_tokens)
    dims = {"tokens": token_dim, "completion": Dim("completion", min=1, max=max_tokens)}
    text = {0: row_dim, 1: token_dim}
    # A block may have its own number of copies: where only one block is perturbed, the others need a single copy.
    copies = [{0: Dim(f"copies_{block}", min=1)} for block in blocks]
    model = _traced(
        staged,
        example,
        ["input_ids", "attention_mask", *(f"theta.{block}" for block in blocks), "labels"],
        ["loss", "logits", *(f"cut.{name}" for name in _stage_names(cuts, layout)[1:])],
        (
            text,
            text,
            copies,
            {0: row_dim, **{1 + at: dims[axis] for at, axis in enumerate(task.label_axes) if axis in dims}},
        ),
    )
    if task.label_axes == ("tokens",):
        _take_sizes_from_text(model)
    return model


def _take_sizes_from_text(model: ir.Model) -> None:
    """Take sizes from the text where they are those of labels of tokens, which only the last stage reads."""
    inputs = {str(value.name): value for value in model.graph.inputs}
    for node in model.graph:
        if node.op_type == "Shape" and node.inputs[0] is inputs["labels"]:
            node.replace_input_with(0, inputs["attention_mask"])


def _traced(
    module: nn.Module, example: tuple[Any, ...], inputs: Sequence[str], outputs: Sequence[str], shapes: tuple[Any, ...]
) -> ir.Model:
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return program.model


def _side_bundle(
    peft_model: PeftModel,
    side: SideModules,
    layout: Layout,
    max_tokens: int,
    stage_weights: int,
    folder: Path,
    separator: int | None = None,
) -> tuple[list[Stage], int]:
    """Return the stages of a model with side modules, written into ``folder``, and how many features the head reads."""
    frozen = copy_sharing_weights(peft_model)
    fix_rotations(frozen, max_tokens)
    single_operators(frozen)
    cuts = frozen_cuts(BatchedModel(frozen, ThetaInputs(), {}), stage_weights)
    ids = torch.ones(_BATCH, _TOKENS, dtype=torch.int64)
    text = {0: Dim("rows", min=1), 1: Dim("tokens", min=2, max=max_tokens)}
    names = _frozen_names(len(cuts))
    model = _traced(
        StagedStates(frozen, cuts, separator),
        (ids, ids.clone()),
        ["input_ids", "attention_mask"],
        ["numbers", "features", *(f"cut.{name}" for name in names[1:])],
        (text, text),
    )
    values = ir.convenience.create_value_mapping(model.graph)
    features = _width(values["features"])
    stages = []
    for name, following in zip(names, (*names[1:], None), strict=True):
        inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
        if name != names[0]:
            inputs |= {f"cut.{name}": "activation"}
        outputs = {f"cut.{following}": "next_activation"}
        if following is None:
            outputs = {"numbers": "next_activation", "features": "features"}
        width = _width(values[next(iter(outputs))])
        stage = cut_stage(model, inputs, outputs)
        stages.append(_write_stage(stage, name, folder, None, True, width, weights_multiplied(stage)))
    for part in side_stages(layout, side.sizes, features):
        dims = {name: Dim(name, min=1) for _, axes in part.inputs.values() for name in axes.values()}
        dims["tokens"] = Dim("tokens", min=2, max=max_tokens)
        model = _traced(
            part.module,
            tuple(example for example, _ in part.inputs.values()),
            list(part.inputs),
            part.outputs,
            tuple({axis: dims[name] for axis, name in axes.items()} for _, axes in part.inputs.values()),
        )
        stage = cut_stage(model, {name: name for name in part.inputs}, {name: name for name in part.outputs})
        stages.append(_write_stage(stage, part.block, folder, part.block, False, part.width, part.multiplications))
    return stages, features


def _frozen_names(cuts: int) -> list[str]:
    return ["prefix", *(f"prefix-{index + 2}" for index in range(cuts))]


def _stage_names(cuts: int, layout: Layout) -> list[str]:
    return [*_frozen_names(cuts), *layout.blocks]


def _write_stages(model: ir.Model, cuts: int, layout: Layout, folder: Path) -> Iterator[Stage]:
    names = _stage_names(cuts, layout)
    text = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    values = ir.convenience.create_value_mapping(model.graph)
    for name, following in zip(names, (*names[1:], None), strict=True):
        block = name if name in layout.blocks else None
        inputs = dict(text)
        if name != names[0]:
            inputs |= {f"cut.{name}": "activation"}
        if block is not None:
            inputs |= {f"theta.{block}": "theta"}
        if following is None:
            inputs |= {"labels": "labels"}
            outputs = {"loss": "loss", "logits": "logits"}
            last = values["logits"]
        else:
            # A graph may not call an input and an output the same, so the activation leaves under another name.
            outputs = {f"cut.{following}": "next_activation"}
            last = values[f"cut.{following}"]
        width, per_token = _width(last), last.shape is not None and len(last.shape) == 3
        stage = cut_stage(model, inputs, outputs)
        multiplications = weights_multiplied(stage) + (0 if block is None else layout.block(block).size)
        yield _write_stage(stage, name, folder, block, per_token, width, multiplications)


def _write_stage(
    stage: ir.Model, name: str, folder: Path, block: str | None, per_token: bool, width: int, multiplications: int
) -> Stage:
    graph_file = folder / f"{name}.onnx"
    weights = save_stage(stage, graph_file)
    return Stage(
        block=block,
        graph=BundleFile.of(graph_file),
        weights=None if weights is None else BundleFile.of(weights),
        inputs=tuple(str(value.name) for value in stage.graph.inputs),
        per_token=per_token,
        width=width,
        multiplications=multiplications,
    )


def _width(value: ir.Value) -> int:
    if value.shape is None or not isinstance(value.shape[-1], int):
        raise BadInputError(f"the activation {value.name!r} has no fixed width")
    return value.shape[-1]


def single_operators(model: nn.Module) -> None:
    """Compute attention as products and a softmax: no slower on the CPU (decision 0021), and all that an NPU takes."""
    with quiet_transformers():  # our own classes, whose backbone does the attention, have none to set
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                module.set_attn_implementation("eager")


def fix_rotations(model: Any, max_tokens: int) -> None:
    """Keep rotary positions that follow the longest text of a batch as they are for short ones.

    :raises BadInputError: ``max_tokens`` is above the length up to which they do.
    """
    for module in model.modules():
        kinds: str | Mapping[str, str] | None = getattr(module, "rope_type", None)
        if kinds is None:
            continue
        by_layer = {None: kinds} if isinstance(kinds, str) else kinds
        for layer, kind in by_layer.items():
            longest = _longest_fixed(module.config, layer, kind)
            if longest is not None and max_tokens > longest:
                raise BadInputError(
                    f"{module.config.model_type} with rope_type {kind!r} places tokens by the longest text of a batch "
                    f"above {longest} tokens, which a graph cannot; set max_tokens to {longest} or less"
                )
        module.rope_type = "default" if isinstance(kinds, str) else dict.fromkeys(kinds, "default")


def _longest_fixed(config: Any, layer: str | None, kind: str) -> int | None:
    """Tokens up to which positions of this ``rope_type`` are fixed; None if they always are."""
    if kind == "longrope":
        rope = config.rope_parameters if layer is None else config.rope_parameters[layer]
        return int(rope["original_max_position_embeddings"])
    return int(config.max_position_embeddings) if "dynamic" in kind else None


def _check_padding(peft_model: PeftModel, pad_token_id: int) -> None:
    """Check the padding id: decoders and RoBERTa find the text by that of their config."""
    config: Any = peft_model.config
    own = config.get_text_config().pad_token_id
    if own is not None and own != pad_token_id:
        raise BadInputError(f"the model pads with token {own}, not {pad_token_id}; pass the pad_token_id of its source")


def _check_length(peft_model: PeftModel, max_tokens: int) -> None:
    """Models with learned positions end somewhere; a trial shows where better than their configs, which differ."""
    if max_tokens < 2:
        raise BadInputError(f"max_tokens is {max_tokens}; at least 2 are needed")
    model: Any = peft_model
    pad_token_id = model.config.get_text_config().pad_token_id
    ids = torch.full((1, max_tokens), 1 if pad_token_id == 0 else 0)
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError) as error:
        raise BadInputError(f"the model cannot read {max_tokens} tokens; lower max_tokens") from error


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter: it logs what it does as warnings, and trips over deprecations in its own dependencies."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
            yield
    finally:
        logger.setLevel(level)
