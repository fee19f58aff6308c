"""The manifest of a model bundle: the stages of the graph, the tokenizer and the layout of θ.

A forward pass runs the stages in order. The first stages have no block and are the frozen prefix: a single stage, or
several so that a device need not hold all of it in memory at once. Every later stage reads the activation of the stage
before it and its own block of θ; the last stage returns the per-example loss and the logits. A direction in a block
costs the stages from that block on; the activation before them comes from a cache.

Where small modules are trained beside a frozen model (decision 0023), the last frozen stage returns ``features`` too,
one vector a row, which later stages may read. Of such a chain nothing but what the frozen stages return is worth a
cache, and every stage of a block takes its rows once, whatever the number of copies: see :class:`Stage`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.chat import Chat
from fwdllm_common.errors import BadInputError
from fwdllm_common.files import sha256_of
from fwdllm_common.layout import Layout
from fwdllm_common.prompt import Prompt
from fwdllm_common.task import CLASSIFICATION, find_task

MANIFEST_FORMAT = 1
MANIFEST_FILE = "manifest.json"
STAGE_INPUTS = ("input_ids", "attention_mask", "activation", "features", "theta", "labels")
MOST_CLASS_WEIGHT = 1e6
MAX_FEATURES = 1 << 24

_PLAIN_NAME = re.compile(r"[^/\\:\x00-\x1f]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BundleFile:
    """One file of the bundle: its plain name, SHA-256 (hex) and size in bytes."""

    name: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not _PLAIN_NAME.fullmatch(self.name) or self.name in (".", ".."):
            raise BadInputError(f"manifest: {self.name!r} is not a plain file name")
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise BadInputError(f"manifest: file {self.name!r} has no SHA-256 in lower-case hex")
        if not isinstance(self.bytes, int) or self.bytes < 0:
            raise BadInputError(f"manifest: file {self.name!r} has an invalid size, {self.bytes!r}")

    @classmethod
    def of(cls, path: Path) -> BundleFile:
        """Return the entry of the file at ``path``."""
        return cls(path.name, sha256_of(path), path.stat().st_size)


@dataclass(frozen=True)
class Stage:
    """One ONNX graph of the chain.

    ``inputs`` are the graph's inputs, a subset of :data:`STAGE_INPUTS`: ``input_ids``, ``attention_mask`` int64
    ``[N, T]``; ``activation`` float32, the previous stage's output; ``theta`` float32 ``[P, block size]``, with N a
    multiple of P and row n using copy n // (N / P); ``labels``, whose shape ``[N, …]`` and dtype are the task's.
    The output is ``next_activation``, float32 ``[N, T, width]`` when ``per_token`` else ``[N, width]``; the last stage
    returns ``loss`` float32 ``[N]`` and ``logits`` float32 ``[N, labels]``, ``[N, T, 2]``, or ``[N, C, vocabulary]`` at
    C completion tokens, instead (width is then the last of these sizes). ``weights`` is the graph's external data file,
    if it has one. ``multiplications`` is the cost of the stage: the multiplications by weights (θ included) for one
    token of a row, or for one row where the stage reads pooled features.

    In a chain with ``features`` (float32 ``[N, features]``) a stage of a block reads N rows, not repeated for its
    copies, and returns each with every copy: from ``activation`` ``[N, T, width]``, or ``[N, C, width]`` with the C
    copies of the stage before, ``[N, C · P, width]``, the last one ``loss`` ``[N, C · P]`` and ``logits``
    ``[N, C · P, labels]``.
    """

    block: str | None
    graph: BundleFile
    weights: BundleFile | None
    inputs: tuple[str, ...]
    per_token: bool
    width: int
    multiplications: int

    def __post_init__(self) -> None:
        if unknown := set(self.inputs) - set(STAGE_INPUTS):
            raise BadInputError(f"manifest: unknown stage input {sorted(unknown)[0]!r}")


@dataclass(frozen=True)
class Manifest:
    """Everything a device needs to compute a loss, by hash.

    ``max_tokens`` is the truncation length in tokens, ``pad_token_id`` the padding token. ``labels`` are the names of
    the classes, by index; they exist if and only if the ``task`` has them. The model reads each text inside
    the ``prompt``, if there is one. ``known_answers`` is the file of a known-answer test
    (:class:`fwdllm_common.known_answers.KnownAnswerTest`). With ``no_answer`` the model also learns questions without
    an answer.
    ``features`` is the width of the vector that the frozen stages return beside their activation, 0 if there is none.
    ``chat`` is how a model that generates writes conversations. Where there are ``class_weights``, one for each label,
    the mean loss of rows is weighted by those of their labels.
    """

    labels: tuple[str, ...]
    max_tokens: int
    pad_token_id: int
    tokenizer: BundleFile
    layout: Layout
    stages: tuple[Stage, ...]
    prompt: Prompt | None = None
    known_answers: BundleFile | None = None
    task: str = CLASSIFICATION
    no_answer: bool = False
    features: int = 0
    chat: Chat | None = None
    class_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.frozen < len(self.stages):
            raise BadInputError("manifest: the first stage must be the frozen prefix and a block must follow")
        if [stage.block for stage in self.stages[self.frozen :]] != list(self.layout.blocks):
            raise BadInputError("manifest: the stages do not follow the blocks of the layout")
        spec = find_task(self.task)
        if spec is None:
            raise BadInputError(f"manifest: the task {self.task!r} is not known here; update fwdllm")
        if spec.has_labels and len(self.labels) < 2:
            raise BadInputError("manifest: at least two labels are needed")
        if not spec.has_labels and self.labels:
            raise BadInputError(f"manifest: {self.task} has no labels")
        if self.class_weights and not (
            len(self.class_weights) == len(self.labels)
            and all(0 < weight <= MOST_CLASS_WEIGHT for weight in self.class_weights)
        ):
            raise BadInputError(f"manifest: class weights are not above 0 and up to {MOST_CLASS_WEIGHT}, one a label")
        if not 0 <= self.features <= MAX_FEATURES:
            raise BadInputError(f"manifest: {self.features} features are not 0 to {MAX_FEATURES}")
        lowest = self.stages[self.frozen - 1]
        if self.features and not (lowest.per_token and lowest.width > 0):
            raise BadInputError("manifest: features go with the states of tokens, and the frozen stages give none")
        if self.max_tokens < 1:
            raise BadInputError("manifest: at least one token is needed")
        names = [file.name for file in self.files]
        if twice := [name for name in names if names.count(name) > 1]:
            raise BadInputError(f"manifest: {twice[0]!r} is the name of two files")

    @cached_property
    def frozen(self) -> int:
        """Number of stages before the first block, which is also the index of that block's stage."""
        return sum(1 for _ in takewhile(lambda stage: stage.block is None, self.stages))

    @property
    def head_width(self) -> int | None:
        """How many numbers of each row the head reads; None if it reads tokens."""
        if self.features:
            return self.features
        return None if self.stages[-2].per_token else self.stages[-2].width

    def stage_of(self, block: str) -> int:
        """Return the index of the stage that reads this block of θ.

        :raises BadInputError: there is no such block.
        """
        return self.frozen + list(self.layout.blocks).index(self.layout.block(block).name)

    @cached_property
    def files(self) -> tuple[BundleFile, ...]:
        """Every file of the bundle, without repetition."""
        return tuple(dict.fromkeys(self._files()))

    @property
    def sizes(self) -> Mapping[str, int]:
        """Size of each file in bytes, by SHA-256 (hex)."""
        return {file.sha256: file.bytes for file in self.files}

    def row_costs(self, tokens: NDArray[Any]) -> NDArray[Any]:
        """Return the multiplications of every stage for rows of these padded lengths, ``[stages, rows]``.

        :param tokens: tokens of each row, int64 ``[rows]``.
        """
        reads_tokens = [True, *(stage.per_token for stage in self.stages[:-1])]
        return np.array(
            [
                np.full(len(tokens), stage.multiplications) * (tokens if on_tokens else 1)
                for stage, on_tokens in zip(self.stages, reads_tokens, strict=True)
            ]
        )

    def _files(self) -> Iterator[BundleFile]:
        yield self.tokenizer
        if self.known_answers is not None:
            yield self.known_answers
        for stage in self.stages:
            yield stage.graph
            if stage.weights is not None:
                yield stage.weights

    def to_bytes(self) -> bytes:
        """Return the manifest as canonical JSON, UTF-8; its SHA-256 names the bundle."""
        value = {
            "format": MANIFEST_FORMAT,
            "labels": list(self.labels),
            "max_tokens": self.max_tokens,
            "pad_token_id": self.pad_token_id,
            "tokenizer": asdict(self.tokenizer),
            "layout": self.layout.to_json(),
            "stages": [asdict(stage) for stage in self.stages],
            **({} if self.prompt is None else {"prompt": self.prompt.template}),
            **({} if self.known_answers is None else {"canary": asdict(self.known_answers)}),
            **({} if self.task == CLASSIFICATION else {"task": self.task}),
            **({"no_answer": True} if self.no_answer else {}),
            **({} if self.features == 0 else {"features": self.features}),
            **({"class_weights": list(self.class_weights)} if self.class_weights else {}),
            **({} if self.chat is None else {"chat": self.chat.to_json()}),
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse the bytes that :meth:`to_bytes` returns.

        :raises BadInputError: the bytes are not a manifest, or one of another format.
        """
        try:
            value = json.loads(data)
            if value["format"] != MANIFEST_FORMAT:
                raise BadInputError(f"manifest: format {value['format']} is not {MANIFEST_FORMAT}; update fwdllm")
            return cls(
                labels=tuple(str(label) for label in value["labels"]),
                max_tokens=int(value["max_tokens"]),
                pad_token_id=int(value["pad_token_id"]),
                tokenizer=BundleFile(**value["tokenizer"]),
                layout=Layout.from_json(value["layout"]),
                stages=tuple(_stage(item) for item in value["stages"]),
                prompt=Prompt.of(value.get("prompt")),
                known_answers=BundleFile(**value["canary"]) if "canary" in value else None,
                task=str(value.get("task", CLASSIFICATION)),
                no_answer=value.get("no_answer") is True,
                features=int(value.get("features", 0)),
                class_weights=tuple(float(weight) for weight in value.get("class_weights", ())),
                chat=Chat.from_json(value["chat"]) if "chat" in value else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BadInputError(f"manifest: not a model bundle ({error})") from error


def _stage(item: dict[str, object]) -> Stage:
    weights = item["weights"]
    return Stage(
        block=None if item["block"] is None else str(item["block"]),
        graph=BundleFile(**item["graph"]),  # type: ignore[arg-type]
        weights=None if weights is None else BundleFile(**weights),  # type: ignore[arg-type]
        inputs=tuple(str(name) for name in item["inputs"]),  # type: ignore[attr-defined]
        per_token=bool(item["per_token"]),
        width=int(item["width"]),  # type: ignore[call-overload]
        multiplications=int(item["multiplications"]),  # type: ignore[call-overload]
    )
