"""Apply a candidate PEFT method to the job's model, and export it as for devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_common.manifest import Manifest
from fwdllm_common.prompt import Prompt
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.export import ModelInputs, export_bundle
from fwdllm_server.model.load import has_new_head, load_base, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.pooling import centre
from fwdllm_server.model.trainable import PEFT_BLOCK, initial_theta, trainable_layout
from fwdllm_server.model.verbaliser import Prompting


@dataclass(frozen=True)
class CandidateModel:
    """The PyTorch model, its bundle in ``folder``, and θ₀ as ``theta``, float32 ``[d]``.

    ``new_head`` is True if the head starts at zero.
    """

    model: PeftModel
    folder: Path
    manifest: Manifest
    theta: Float32Vector
    new_head: bool


class ModelMaker:
    """Makes candidates of the model in ``source``, a folder or a hub id, for the task of ``spec``.

    :raises BadInputError: the model cannot be loaded.
    """

    def __init__(self, spec: JobSpec, source: str, seed: int, texts: Sequence[str]) -> None:
        self._task = spec.model
        self._source = source
        self._seed = seed
        self._tokenizer = load_tokenizer_file(source)
        self._sample = TextSample(texts, self._tokenizer, spec.model.max_tokens, Prompt.of(spec.model.prompt))

    def check(self, peft: PeftSpec) -> None:
        """Check that the candidate fits the model. This is much faster than its export.

        :raises BadInputError: it does not fit.
        """
        self._wrapped(peft)

    def make(self, peft: PeftSpec, folder: Path) -> CandidateModel:
        """Export the candidate into ``folder``, with head and PEFT weights in two blocks regardless of the job.

        Candidates differ in the PEFT block only.

        :raises BadInputError: it does not fit the model.
        """
        model, layout, new_head = self._wrapped(peft)
        task = self._task
        inputs = ModelInputs(self._tokenizer, task.max_tokens, task.labels, prompt=self._sample.prompt)
        manifest = export_bundle(model, inputs, folder / "bundle")
        return CandidateModel(model, folder / "bundle", manifest, initial_theta(model, layout), new_head)

    def _wrapped(self, peft: PeftSpec) -> tuple[PeftModel, Layout, bool]:
        base = load_base(self._source, self._task.labels, self._task.pooling)
        Prompting(self._sample.prompt, self._task.words).prepare(
            base, self._source, self._tokenizer, self._task.max_tokens
        )
        centre(base, self._sample.batches())
        new_head = self._task.words is None and has_new_head(base)
        model = apply_peft(base, peft, self._seed, self._sample)
        layout = trainable_layout(model)
        if PEFT_BLOCK not in layout.blocks:
            raise BadInputError("it trains the head alone; choose layers in which the model has the targets")
        return model, layout, new_head
