"""The model: a chain of ONNX graphs run by ONNX Runtime, each loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fwdllm_client.engine.audit import audit_stage
from fwdllm_client.engine.batches import Text
from fwdllm_client.engine.interruption import INTERRUPTION, RunEndedError
from fwdllm_client.engine.sessions import Provider, Session
from fwdllm_common.errors import BadInputError, FwdllmError, IntegrityError
from fwdllm_common.layout import Block
from fwdllm_common.manifest import BundleFile, Manifest

Float32 = NDArray[np.float32]
_TEXT_INPUTS = {"input_ids", "attention_mask"}


class StageChain:
    """The stages of a bundle in ``folder``: first the frozen ones, then one for each block; the last returns the loss.

    ``threads`` of 0 means one per core. Whatever runs raises :class:`RunEndedError` once the process is told to end it.
    """

    def __init__(self, folder: Path, manifest: Manifest, provider: Provider, threads: int) -> None:
        self.manifest = manifest
        self._folder = folder
        self._provider = provider
        self._threads = threads
        self._sessions: dict[int, Session] = {}

    @property
    def last(self) -> int:
        """Index of the stage that returns the loss."""
        return len(self.manifest.stages) - 1

    def boundary(self, stage: int) -> int:
        """Return the stage whose output is kept for ``stage``: the one before, or with features the last frozen one."""
        return self.manifest.frozen - 1 if self.manifest.features else stage - 1

    def reads_tokens(self, stage: int) -> bool:
        """Whether the length of the texts matters from this stage on."""
        stages = self.manifest.stages
        if self.manifest.at_targets:
            return stage < self.manifest.frozen
        return stage == 0 or stages[stage - 1].per_token or any(_TEXT_INPUTS & set(s.inputs) for s in stages[stage:])

    def block_size(self, stage: int) -> int:
        """Coordinates of θ that a stage after the prefix reads."""
        return self._block(stage).size

    def theta_of(self, stage: int, theta: Float32) -> Float32:
        """Return the block of θ that a stage after the prefix reads, as a single copy: float32 ``[1, block size]``.

        It is empty for a last stage without a block.
        """
        return theta[None, self._block(stage).slice if self.manifest.stages[stage].block else slice(0)]

    def unload_all_but(self, stages: range) -> None:
        """Give back the memory of every other stage; it is loaded again when it is needed."""
        for stage in self._sessions.keys() - set(stages):
            del self._sessions[stage]

    def session(self, stage: int) -> Session:
        """Return the session of a stage, loaded if it is not.

        :raises NotAllowedError: the graph is not what a device runs.
        :raises BadInputError: the graph is unreadable.
        :raises IntegrityError: a file is missing or has another size.
        """
        if stage not in self._sessions:
            self._sessions[stage] = self._load(stage)
        return self._sessions[stage]

    def activation(self, stage: int, text: Text | None, activation: Float32 | None, copies: Float32 | None) -> Float32:
        """Return what one stage before the last returns: float32 ``[N, T, width]`` or ``[N, width]``."""
        feeds = _feeds(text, activation=activation, theta=copies)
        output: Float32 = self._run(stage, ["next_activation"], feeds)[0].numpy()
        return output

    def with_features(self, stage: int, text: Text, activation: Float32 | None) -> tuple[Float32, Float32]:
        """Return what the last frozen stage of a chain with features returns: ``[N, T, width]`` and ``[N, features]``.

        In a chain at targets each token has features, ``[N, T, features]``.

        :raises BadInputError: they have another width than the manifest says.
        """
        values = self._run(stage, ["next_activation", "features"], _feeds(text, activation=activation))
        numbers, features = (value.numpy() for value in values)
        per_row = numbers.shape[1:2] if self.manifest.at_targets else ()
        if features.shape[1:] != (*per_row, self.manifest.features):
            raise BadInputError(
                f"{self.manifest.stages[stage].graph.name} gives features of shape {features.shape}, "
                f"and the manifest says {self.manifest.features}; the bundle is wrong"
            )
        return numbers, features

    def loss(
        self,
        first: int,
        text: Text | None,
        activation: Float32,
        labels: NDArray[np.int64],
        copies: Sequence[Float32],
        outputs: Sequence[str] = ("loss",),
        features: Float32 | None = None,
    ) -> list[Float32]:
        """Return the loss per example, float32 ``[N]``, and logits if asked for, from the input of stage ``first``.

        ``copies`` holds, for each stage from ``first`` on, float32 ``[P, block size]``: row n uses copy n // (N / P).
        With ``features`` N / P rows go in, and the stages repeat them; at targets the labels and features of N rows.
        """
        feeds = _feeds(text, activation=activation, labels=labels, features=features)
        for stage, theta in enumerate(copies, start=first):
            feeds["theta"] = _value(theta)
            if stage < self.last:
                feeds["activation"] = self._run(stage, ["next_activation"], feeds)[0]
        found: list[Float32] = [value.numpy() for value in self._run(self.last, outputs, feeds)]
        if features is not None and not self.manifest.at_targets:  # the axis of copies comes behind the rows'
            found = [array.swapaxes(0, 1).reshape(-1, *array.shape[2:]) for array in found]
        return found

    def _block(self, stage: int) -> Block:
        name = self.manifest.stages[stage].block
        assert name is not None, "a frozen stage reads nothing of θ"
        return self.manifest.layout.blocks[name]

    def _run(self, stage: int, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        inputs = {name: feeds[name] for name in self.manifest.stages[stage].inputs}
        session = self.session(stage)
        with INTERRUPTION.ending():
            values: list[Any] = session.run_with_ort_values(outputs, inputs, INTERRUPTION.run_options)
        return values

    def _load(self, stage: int) -> Session:
        entry = self.manifest.stages[stage]
        for file in (entry.graph, *([entry.weights] if entry.weights else [])):
            self._check(file)
        audit_stage(self._folder, self.manifest, stage)
        try:
            with INTERRUPTION.ending():
                return self._provider.open(self._folder, entry, self._threads)
        except (FwdllmError, RunEndedError):
            raise
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            path, reason = self._folder / entry.graph.name, " ".join(str(error).split())
            raise BadInputError(f"{path}: ONNX Runtime cannot load it ({reason}); update onnxruntime") from error

    def _check(self, file: BundleFile) -> None:
        path = self._folder / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise IntegrityError(f"{path}: missing or not {file.bytes} bytes long; download the model again")


def _feeds(text: Text | None, **arrays: NDArray[Any] | None) -> dict[str, Any]:
    named = {name: _value(array) for name, array in arrays.items() if array is not None}
    if text is not None:
        named |= {"input_ids": _value(text.input_ids), "attention_mask": _value(text.attention_mask)}
    return named


def _value(array: NDArray[Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
