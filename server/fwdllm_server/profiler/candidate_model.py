"""Apply a candidate PEFT method to the job's model, and export it as for devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest
from fwdllm_common.prompt import Prompt
from fwdllm_common.task import CAUSAL_LM
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.export import ModelInputs, export_bundle
from fwdllm_server.model.load import load_base, load_chat, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.pooling import centre
from fwdllm_server.model.segments import segment_separator
from fwdllm_server.model.trainable import HEAD_BLOCK, trainable_layout
from fwdllm_server.model.verbaliser import Prompting
from fwdllm_server.tasks import task_named


@dataclass(frozen=True)
class CandidateModel:
    """The PyTorch model and its bundle in ``folder``; ``separator`` is that of :func:`segment_separator`."""

    model: PeftModel
    folder: Path
    manifest: Manifest
    separator: int | None


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
        """Export the candidate into ``folder``, with a block of its own for the head regardless of the job.

        :raises BadInputError: it does not fit the model.
        """
        model, task = self._wrapped(peft), self._task
        inputs = ModelInputs(
            self._tokenizer,
            task.max_tokens,
            task.labels,
            task.task,
            self._sample.prompt,
            task.no_answer,
            chat=load_chat(self._source) if task.task == CAUSAL_LM else None,
        )
        manifest = export_bundle(model, inputs, folder / "bundle")
        separator = segment_separator(model.config, self._tokenizer.json) if task_named(task.task).is_pair else None
        return CandidateModel(model, folder / "bundle", manifest, separator)

    def _wrapped(self, peft: PeftSpec) -> PeftModel:
        texts = len(self._sample.texts)
        base = load_base(
            self._source, self._task.labels, self._task.pooling, task=self._task.task, most_projected=texts - 1
        )
        Prompting(self._sample.prompt, self._task.words).prepare(
            base, self._source, self._tokenizer, self._task.max_tokens
        )
        centre(base, self._sample.batches())
        model = apply_peft(base, peft, self._seed, self._sample)
        if peft.layers != [] and trainable_layout(model).blocks.keys() <= {HEAD_BLOCK}:
            raise BadInputError("it trains the head alone; choose layers in which the model has the targets")
        return model
