"""The export of a job's model with torch: bundle, adapter template and initial θ."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog

from fwdllm_common.files import write_atomically
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import MANIFEST_FILE, BundleFile, Manifest
from fwdllm_common.prompt import Prompt
from fwdllm_common.task import CAUSAL_LM
from fwdllm_server.algorithm.class_means import LinearHead
from fwdllm_server.config.job import JobSpec
from fwdllm_server.model.faults import faults_named
from fwdllm_server.model.source import check_source
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.known_answers import KNOWN_ANSWERS_FILE, draw_test, expect_of, fidelity
from fwdllm_server.tasks import task_named

_log = structlog.get_logger()


@faults_named
def export_model(spec: JobSpec, source: str, folder: JobFolder, texts: Sequence[str] = ()) -> None:
    """Load the model from ``source``, apply the PEFT method, and write bundle, adapter template and θ₀ to ``folder``.

    :param texts: unlabelled texts, to centre features by and for PEFT methods that read activations.
    :raises BadInputError: there is no such model, it cannot be exported, it has no such layer or target, the prompt or
        the verbaliser does not suit it, its tokenizer has more tokens than it, or texts are needed and absent.
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
    head_init = "verbaliser" if spec.model.words else spec.model.head if has_new_head(base) else "checkpoint"
    sample = TextSample(texts, tokenizer, spec.model.max_tokens, prompt)
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
        load_chat(source) if spec.model.task == CAUSAL_LM else None,
        spec.model.weights_of_labels,
    )
    manifest = export_bundle(model, inputs, folder.bundle, spec.model.one_block)
    theta = initial_theta(model, manifest.layout)
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
