"""The export of a job's model with torch: bundle, adapter template and initial θ."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import structlog

from fwdllm_client.data import Dataset, Source
from fwdllm_client.tasks.causal_lm.rows import CompletionSource
from fwdllm_client.tasks.causal_lm.tokens import tokenise
from fwdllm_common.chat import Chat
from fwdllm_common.errors import BadInputError
from fwdllm_common.files import write_atomically
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import MANIFEST_FILE, BundleFile, Manifest
from fwdllm_common.prompt import Prompt
from fwdllm_common.task import CAUSAL_LM
from fwdllm_server.algorithm.class_means import LinearHead
from fwdllm_server.config.job import JobSpec
from fwdllm_server.model.faults import faults_named
from fwdllm_server.model.source import check_source
from fwdllm_server.preparation.evaluation import SAMPLE, split_held_out
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.known_answers import KNOWN_ANSWERS_FILE, draw_test, expect_of, fidelity
from fwdllm_server.preparation.labelled_start import with_labelled_start
from fwdllm_server.tasks import task_named

_log = structlog.get_logger()


@faults_named
def export_model(
    spec: JobSpec, source: str, folder: JobFolder, texts: Sequence[str] = (), held_out: Source | None = None
) -> None:
    """Load the model from ``source``, apply the PEFT method, and write bundle, adapter template and θ₀ to ``folder``.

    :param texts: unlabelled texts, to centre features by and for PEFT methods that read activations.
    :param held_out: the held-out rows, for side modules of a model that generates and a head that starts from some.
    :raises BadInputError: there is no such model, it cannot be exported, it has no such layer or target, the prompt or
        the verbaliser does not suit it, its tokenizer has more tokens than it, texts are needed and absent, or the head
        cannot start from rows.
    :raises FwdllmError: there is not enough memory.
    """
    # Imported here: the process that serves devices imports this module and must not load torch.
    from fwdllm_server.model.adapter_template import Reading, save_adapter_template, tokenizer_for
    from fwdllm_server.model.export import ModelInputs, export_bundle
    from fwdllm_server.model.load import check_vocabulary, has_new_head, load_base, load_chat, load_tokenizer_file
    from fwdllm_server.model.peft.methods import apply_peft
    from fwdllm_server.model.peft.sample import TextSample
    from fwdllm_server.model.pooling import centre
    from fwdllm_server.model.segments import segment_separator
    from fwdllm_server.model.trainable import initial_theta
    from fwdllm_server.model.verbaliser import Prompting

    check_source(source)
    # Files of an interrupted export may be hard links to artifacts: remove them, never write into them.
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(parents=True)
    folder.begin("reading the model")
    tokenizer = load_tokenizer_file(source)
    base = load_base(
        source,
        spec.model.labels,
        spec.model.pooling,
        spec.model.head == "random",
        spec.model.task,
        most_projected=len(texts) - 1,
    )
    check_vocabulary(base, tokenizer, source)
    prompt = Prompt.of(spec.model.prompt)
    Prompting(prompt, spec.model.words).prepare(base, source, tokenizer, spec.model.max_tokens)
    head_init: str = "verbaliser" if spec.model.words else spec.model.head if has_new_head(base) else "checkpoint"
    chat = load_chat(source) if spec.model.task == CAUSAL_LM else None
    completions = None
    if held_out is not None and chat is not None and spec.peft.method == "side":
        completions = _completions(spec, held_out, tokenizer.json, chat)
    sample = TextSample(texts, tokenizer, spec.model.max_tokens, prompt, completions)
    centre(base, sample.batches())
    model = apply_peft(base, spec.peft, spec.job.seed, sample)
    folder.begin("exporting the model's graph")
    inputs = ModelInputs(
        tokenizer,
        spec.model.max_tokens,
        spec.model.labels,
        spec.model.task,
        prompt,
        spec.model.no_answer,
        chat,
        spec.model.weights_of_labels,
    )
    linearised = spec.perturbation.linearised_loss
    manifest = export_bundle(model, inputs, folder.bundle, spec.model.one_block, linearised=linearised)
    theta = initial_theta(model, manifest.layout)
    if spec.held_out.start:
        if head_init == "checkpoint":
            raise BadInputError(f"the head of {source!r} is trained already; leave out [held_out] start")
        assert held_out is not None, "the caller names the rows that the head starts from"
        head_init = "held-out"
        folder.begin("starting the head from held-out rows")
        theta = with_labelled_start(folder.bundle, manifest, theta, held_out, spec.held_out)
    folder.begin("computing the known answers" if spec.model.precision == "float32" else "quantising the weights")
    _finish_bundle(spec, folder.bundle, manifest, theta)
    if head_init == "class-means":
        LinearHead.of(manifest)
    reading = Reading(spec.model.max_tokens, spec.model.task, spec.model.prompt, spec.model.verbaliser)
    task = task_named(spec.model.task)
    has_segments = task.is_pair and segment_separator(model.config, tokenizer.json) is not None
    tokenizer_of_users = tokenizer_for(source, tokenizer, spec.model.max_tokens, has_segments, task.tags_words)
    save_adapter_template(model, tokenizer_of_users, reading, folder.adapter)
    write_atomically(folder.head_init, head_init.encode())
    np.save(folder.initial_theta, theta)


def _completions(spec: JobSpec, source: Source, tokenizer: bytes, chat: Chat) -> Dataset:
    """Tokenise some rows: those to choose by where there are any, since results are told of the others."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        file.write_bytes(tokenizer)
        rows = tokenise(cast(CompletionSource, source), file, spec.model.max_tokens, chat)
    shares = split_held_out(len(rows), spec.held_out.validation)
    chosen = shares.validation if len(shares.validation) else shares.reported
    return rows.only(chosen[:: ceil(len(chosen) / SAMPLE)])


def _finish_bundle(spec: JobSpec, bundle: Path, manifest: Manifest, theta: Float32Vector) -> None:
    """Quantise the exported weights as the job asks, and add the known-answer test to the bundle."""
    from fwdllm_server.model.quantise import quantise_bundle

    test = draw_test(bundle, manifest, theta, spec.perturbation)
    if spec.model.precision != "float32":
        manifest = quantise_bundle(bundle, manifest, spec.model.precision)
        test = expect_of(bundle, manifest, test)
        _log.info("weights quantised", precision=spec.model.precision, signal_to_noise=round(fidelity(test), 2))
    write_atomically(bundle / KNOWN_ANSWERS_FILE, test.to_bytes())
    file = BundleFile.of(bundle / KNOWN_ANSWERS_FILE)
    write_atomically(bundle / MANIFEST_FILE, replace(manifest, known_answers=file).to_bytes())
