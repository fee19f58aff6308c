"""A prompted decoder starts as the language model that it was: its logits are those of the label's words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.tiny_job import job_spec
from peft import PeftModel
from server.model.conftest import save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fwdllm_client.data import Dataset
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest
from fwdllm_common.prompt import Prompt
from fwdllm_server.config.job import JobSpec
from fwdllm_server.model.adapter import write_adapter
from fwdllm_server.model.adapter_template import load_base_of
from fwdllm_server.model.load import load_base, load_tokenizer_file
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.verbaliser import first_tokens
from fwdllm_server.preparation.adoption import PreparedModel, adopt
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model
from fwdllm_server.store.artifacts import ArtifactStore

PROMPT = "Review: {text} It was"
WORDS = {"negative": "terrible", "positive": "great"}
MAX_TOKENS = 16
TEXTS = ("good film", "dull", "bad film, naïve plot! " * 9, "")
_CORPUS = ["Review: good film It was great", "Review: bad film It was terrible, greater, dull plot"] * 3


def save_decoder(folder: Path, tied: bool, ends_with: str = "", vocabulary: int = 320) -> str:
    """A random LLaMA with byte-level BPE that puts ``<s>`` in front of every text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet)
    )
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single=f"<s> $A {ends_with}".strip(),
                special_tokens=[(token, special.index(token)) for token in special],
            ),
        ]
    )
    config = LlamaConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(folder)
    return str(folder)


def spec_of(words: dict[str, str] | None = WORDS, **model: Any) -> JobSpec:
    base = {"labels": list(WORDS), "max_tokens": MAX_TOKENS, "prompt": PROMPT}
    return job_spec(
        {
            "model": {**base, **model},
            **({} if words is None else {"model.verbaliser": words}),
            "peft": {"rank": 2, "layers": [-1]},
            "blocks.head": None,
        }
    )


@dataclass(frozen=True)
class Exported:
    source: str
    folder: JobFolder
    prepared: PreparedModel
    manifest: Manifest

    def dataset(self, folder: Path, texts: tuple[str, ...] = TEXTS) -> Dataset:
        """The texts as a device tokenises them, all negative."""
        lines = [json.dumps({"text": text, "label": "negative"}) for text in texts]
        (folder / "data.jsonl").write_text("\n".join(lines))
        return Dataset.load(DataSource(folder / "data.jsonl"), self.folder.bundle / "tokenizer.json", self.manifest)

    def logits(self, ids: list[int]) -> np.ndarray:
        """Of the stages at version 0, for one row."""
        theta = self.prepared.state.theta[None]
        values: dict[str, Any] = {"input_ids": np.array([ids]), "labels": np.zeros(1, dtype=np.int64)}
        values["attention_mask"] = np.ones_like(values["input_ids"])
        for stage in self.manifest.stages:
            session = onnxruntime.InferenceSession(self.folder.bundle / stage.graph.name)
            if stage.block is not None:
                values["theta"] = theta[:, self.manifest.layout.block(stage.block).slice]
            *_, values["activation"] = session.run(None, {name: values[name] for name in stage.inputs})
        return values["activation"][0]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A job without ``[blocks.head]``."""
    place = tmp_path_factory.mktemp("decoder")
    source, folder = save_decoder(place / "model", request.param), JobFolder(place / "job")
    export_model(spec_of(), source, folder)
    prepared = adopt(spec_of(), folder, ArtifactStore(place / "artifacts"))
    return Exported(source, folder, prepared, Manifest.from_bytes((folder.bundle / "manifest.json").read_bytes()))


def word_ids(source: str) -> list[int]:
    tokenizer = Tokenizer.from_str(load_tokenizer_file(source).json.decode())
    return [tokenizer.encode(f" {word}", add_special_tokens=False).ids[0] for word in WORDS.values()]


def lm_logits(source: str, ids: list[int]) -> np.ndarray:
    """The language model's own, behind the last token, for the label's words."""
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(source)(input_ids=torch.tensor([ids])).logits
    return logits[0, -1, word_ids(source)].numpy()


def test_the_classifier_starts_as_the_language_model(exported: Exported, tmp_path: Path) -> None:
    dataset = exported.dataset(tmp_path)
    for row in np.split(dataset.token_ids.astype(np.int64), dataset.offsets[1:-1]):
        expected = lm_logits(exported.source, row.tolist())
        np.testing.assert_allclose(exported.logits(row.tolist()), expected, rtol=1e-5, atol=1e-5)
        assert abs(expected).max() > 0.1
    assert exported.prepared.head_init == "verbaliser"


def test_a_device_reads_what_a_user_writes(exported: Exported, tmp_path: Path) -> None:
    """Prompt and text are tokenised together; of a long text the prompt remains."""
    tokenizer = Tokenizer.from_str(load_tokenizer_file(exported.source).json.decode())
    dataset = exported.dataset(tmp_path)
    short, _, long, _ = np.split(dataset.token_ids, dataset.offsets[1:-1])
    assert short.tolist() == tokenizer.encode("Review: good film It was").ids
    assert len(long) == MAX_TOKENS
    whole = tokenizer.encode(PROMPT.replace("{text}", TEXTS[2])).ids
    assert long.tolist() == [*whole[: MAX_TOKENS - 2], *whole[-2:]]
    assert tokenizer.decode(long[-2:].tolist()) == " It was"
    assert dataset.lengths.max() <= MAX_TOKENS


def test_texts_for_bases_are_prompted_alike(exported: Exported, tmp_path: Path) -> None:
    dataset = exported.dataset(tmp_path)
    sample = TextSample(TEXTS, load_tokenizer_file(exported.source), MAX_TOKENS, Prompt(PROMPT))
    [batch] = sample.batches()
    assert batch["input_ids"][batch["attention_mask"] == 1].tolist() == dataset.token_ids.tolist()
    assert batch["attention_mask"].sum(dim=1).tolist() == dataset.lengths.tolist()


def test_the_adapter_brings_the_words_along(exported: Exported, tmp_path: Path) -> None:
    """With the head as it began, since the job trains the block ``peft`` alone; its ``config.json`` has the prompt."""
    layout, theta = exported.manifest.layout, exported.prepared.state.theta.copy()
    head = layout.block("head").slice
    rows = AutoModelForCausalLM.from_pretrained(exported.source).lm_head.weight[word_ids(exported.source)]
    np.testing.assert_array_equal(theta[head], rows.detach().numpy().ravel())
    write_adapter(exported.folder.adapter, layout, theta, tmp_path / "out")
    loaded = PeftModel.from_pretrained(load_base_of(tmp_path / "out"), tmp_path / "out").eval()
    base = json.loads((tmp_path / "out" / "config.json").read_bytes())["fwdllm"]
    assert base["verbaliser"] == WORDS
    tokenizer = Tokenizer.from_str(load_tokenizer_file(exported.source).json.decode())
    ids = tokenizer.encode(base["prompt"].replace("{text}", "good film")).ids
    with torch.no_grad():
        logits = loaded(input_ids=torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits, lm_logits(exported.source, ids), rtol=1e-5, atol=1e-5)


def test_a_prompt_alone_leaves_the_head_at_zero(tmp_path: Path) -> None:
    source, folder = save_decoder(tmp_path / "model", True), JobFolder(tmp_path / "job")
    export_model(spec_of(words=None), source, folder)
    prepared = adopt(spec_of(words=None), folder, ArtifactStore(tmp_path / "artifacts"))
    assert prepared.head_init == "zeros"
    np.testing.assert_array_equal(prepared.state.theta[prepared.state.layout.block("head").slice], 0)
    assert "verbaliser" not in json.loads((folder.adapter / "config.json").read_bytes())["fwdllm"]


@pytest.mark.parametrize("prompt", ["{text} It was", "{text} It was:\n", "{text}\nReview:", "{text}"])
def test_a_word_follows_as_in_running_text(exported: Exported, prompt: str) -> None:
    file = load_tokenizer_file(exported.source)
    tokenizer = Tokenizer.from_str(file.json.decode())
    space = "" if prompt.endswith("\n") else " "
    found = first_tokens(file, Prompt(prompt), ["great", "terrible"])
    assert [tokenizer.decode([token]) for token in found] == [
        tokenizer.decode(tokenizer.encode(f"{space}{word}", add_special_tokens=False).ids[:1])
        for word in ("great", "terrible")
    ]


@pytest.mark.parametrize(
    ("prompt", "words", "message"),
    [
        (PROMPT, ["great", "greatly"], "the words 'great' and 'greatly' begin with the same token, 'Ġgreat'"),
        (PROMPT, ["great", "great"], "the words 'great' and 'great' begin with the same token"),
        (PROMPT + " ", ["great", "terrible"], "the word 'great' has no token of its own after the prompt"),
    ],
)
def test_words_that_do_not_do(exported: Exported, prompt: str, words: list[str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        first_tokens(load_tokenizer_file(exported.source), Prompt(prompt), words)


def refused(source: str, tmp_path: Path, match: str, **model: Any) -> None:
    with pytest.raises(BadInputError, match=match) as caught:
        export_model(spec_of(**model), source, JobFolder(tmp_path / "job"))
    assert "\n" not in str(caught.value)


def test_an_encoder_is_refused(bert_source: str, tmp_path: Path) -> None:
    for words in (WORDS, None):
        refused(bert_source, tmp_path, "a prompt or verbaliser needs a decoder, which BertFor", words=words)


def test_a_prompt_that_does_not_fit_is_refused(exported: Exported, tmp_path: Path) -> None:
    refused(exported.source, tmp_path, r"the prompt has \d+ tokens, which leaves a text no room", max_tokens=4)


def test_a_prompt_with_padding_at_its_end_is_refused(exported: Exported, tmp_path: Path) -> None:
    refused(exported.source, tmp_path, "end with the special token '<pad>'", prompt="{text}<pad>")


def test_a_tokenizer_that_ends_texts_is_refused(tmp_path: Path) -> None:
    source = save_decoder(tmp_path / "model", True, ends_with="</s>")
    refused(source, tmp_path, "end with the special token '</s>'")


def test_a_classifier_has_no_use_for_a_verbaliser(exported: Exported, tmp_path: Path) -> None:
    load_base(exported.source, list(WORDS), "model").save_pretrained(tmp_path / "model")
    for file in Path(exported.source).glob("tokenizer*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    refused(str(tmp_path / "model"), tmp_path, "is a classifier already; leave out the verbaliser")


def test_a_decoder_without_a_language_models_head_is_refused(tmp_path: Path) -> None:
    source = save_decoder(tmp_path / "model", False)
    AutoModelForCausalLM.from_pretrained(source).model.save_pretrained(source)
    refused(source, tmp_path, "holds no language model's head")


def test_a_checkpoint_whose_tokenizer_knows_no_words(tmp_path: Path) -> None:
    refused(save_model("llama", tmp_path / "model"), tmp_path, "begin with the same token, '\\[UNK\\]'")
