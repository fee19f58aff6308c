"""Completions from their files, and as the model reads them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common.bundles import MANIFEST
from structlog.testing import capture_logs
from tokenizers import Tokenizer, models, pre_tokenizers

from fwdllm_client.data import Contents, Dataset
from fwdllm_client.data.dataset import IGNORED
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_client.tasks.causal_lm import TASK, CompletionSource
from fwdllm_common.chat import MOST_TEMPLATE, Chat
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest

WORDS = ["<pad>", "<unk>", "</s>", *(f"w{index}" for index in range(40)), "user:", "assistant:"]
CHAT = Chat(
    "{% for m in messages %}{{ m.role + ': ' + m.content + ' </s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    {"eos_token": " </s>"},
)
WRITING = dataclasses.replace(MANIFEST, labels=(), task="causal-lm", max_tokens=8, pad_token_id=0, chat=CHAT)
ROW = {"prompt": "w1 w2 w3", "completion": " w4 w5"}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def written(folder: Path, *rows: object) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def load(tokenizer: Path, *rows: object, manifest: Manifest = WRITING) -> Dataset:
    return Dataset.load(CompletionSource(written(tokenizer.parent, *rows)), tokenizer, manifest)


def words(dataset: Dataset, row: int) -> str:
    """The row's words, those that are learnt in brackets."""
    start, end = dataset.offsets[row : row + 2]
    pairs = zip(dataset.token_ids[start:end].tolist(), dataset.labels[start:end].tolist(), strict=True)
    assert all(label in (IGNORED, token) for token, label in pairs)
    pairs = zip(dataset.token_ids[start:end].tolist(), dataset.labels[start:end].tolist(), strict=True)
    return " ".join(f"[{WORDS[token]}]" if label != IGNORED else WORDS[token] for token, label in pairs)


def test_a_completion_and_its_end_are_learnt(tokenizer: Path) -> None:
    dataset = load(tokenizer, ROW, {"prompt": "w9", "completion": " w7 </s>"})
    assert [words(dataset, row) for row in range(2)] == ["w1 w2 w3 [w4] [w5] [</s>]", "w9 [w7] [</s>]"]
    assert dataset.weights(np.arange(2)).tolist() == [3, 2]
    targets = dataset.targets(np.arange(2))
    assert targets.tolist() == [
        [[2, WORDS.index("w4")], [3, WORDS.index("w5")], [4, WORDS.index("</s>")]],
        [[0, WORDS.index("w7")], [1, WORDS.index("</s>")], [0, IGNORED]],
    ]
    again = TASK.dataset(dataset.token_ids, dataset.offsets, targets)
    np.testing.assert_array_equal(again.labels, dataset.labels)


def test_all_turns_of_the_assistant_are_learnt(tokenizer: Path) -> None:
    turns = [("user", "w1"), ("assistant", "w2"), ("user", "w3"), ("assistant", "w4"), ("user", "w5")]
    messages = [{"role": role, "content": content} for role, content in turns]
    expected = "user: w1 </s> assistant: [w2] [</s>] user: w3 </s> assistant: [w4] [</s>]"
    manifest = dataclasses.replace(WRITING, max_tokens=16)
    assert words(load(tokenizer, {"messages": messages}, manifest=manifest), 0) == expected
    parted = {"prompt": messages[:3], "completion": messages[3:4]}
    assert words(load(tokenizer, parted, manifest=manifest), 0) == (
        "user: w1 </s> assistant: w2 </s> user: w3 </s> assistant: [w4] [</s>]"
    )


def test_a_template_may_mark_what_is_generated_and_needs_no_turn_of_a_user(tokenizer: Path) -> None:
    template = (
        "{% for m in messages %}{% if loop.first %}{{ bos }}{% endif %}{{ m.role }}: "
        "{% generation %}{{ m.content }}{% endgeneration %} </s>\n{% endfor %}"
    )
    manifest = dataclasses.replace(WRITING, chat=Chat(template))
    dataset = load(tokenizer, {"messages": [{"role": "assistant", "content": "w1 w2"}]}, manifest=manifest)
    assert words(dataset, 0) == "assistant: [w1] [w2] [</s>]"


def test_a_model_without_a_template_has_the_default(tokenizer: Path) -> None:
    manifest = dataclasses.replace(WRITING, chat=Chat(special_tokens={"eos_token": " </s>"}))
    messages = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    assert words(load(tokenizer, {"messages": messages}, manifest=manifest), 0) == "user: w1 assistant: [w2] [</s>]"


def test_a_text_is_cut_into_blocks_that_know_their_row(tokenizer: Path) -> None:
    long, short = " ".join(f"w{index}" for index in range(1, 16)), "w20 w21"
    dataset = load(tokenizer, {"text": long}, {"text": short})
    assert [words(dataset, row) for row in range(3)] == [
        "w1 [w2] [w3] [w4] [w5] [w6] [w7] [w8]",
        "w9 [w10] [w11] [w12] [w13] [w14] [w15] [</s>]",
        "w20 [w21] [</s>]",
    ]
    assert dataset.records.tolist() == [0, 0, 1]


def test_the_window_keeps_the_completion_and_says_who_lost_what(tokenizer: Path) -> None:
    long = {"prompt": " ".join(f"w{index}" for index in range(1, 10)), "completion": " w20 w21"}
    with capture_logs() as logs:
        dataset = load(tokenizer, long, ROW)
    assert words(dataset, 0) == "w5 w6 w7 w8 w9 [w20] [w21] [</s>]"
    (log,) = logs
    assert (log["rows"], log["of"], log["max_tokens"]) == (1, 2, 8)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "w1", "completion": ""}, "line 2: it has an empty completion"),
        ({"text": "  "}, "line 2: it has an empty completion"),
        ({"messages": [{"role": "user", "content": "w1"}]}, "line 2: it has no turn of the 'assistant'"),
        ({"messages": []}, "line 2: it has no turn of the 'assistant'"),
        ({"messages": [{"role": "user"}]}, "line 2: 'messages' must be a list of messages"),
        ({"messages": "w1"}, "line 2: 'messages' must be a list of messages"),
        ({"prompt": "w1"}, "line 2: no columns 'prompt' and 'completion', no 'messages' and no 'text'"),
        ({"prompt": 3, "completion": "w1"}, "line 2: 'prompt' is not a text"),
        ({"prompt": "w1", "completion": " w2" * 9}, "line 2: the completion has 10 tokens, and the model reads 8"),
        ({"prompt": "w1", "completion": " w2" * 7}, "line 2: the completion has 8 tokens, and the model reads 8"),
    ],
)
def test_a_wrong_row_is_named(tokenizer: Path, row: object, why: str) -> None:
    with pytest.raises(BadInputError) as caught:
        load(tokenizer, ROW, row)
    assert why in str(caught.value)


def test_incomplete_rows_are_left_out_on_request(tmp_path: Path) -> None:
    file = written(tmp_path, ROW, {"prompt": "w1", "completion": ""}, {"prompt": "w1", "completion": None})
    source = task_named("causal-lm").source(file, RowOptions(skip_incomplete=True))
    with capture_logs() as logs:
        assert source.contents() == Contents("causal-lm", 1, left_out=2)
    assert logs[0]["rows"] == 2
    assert source.texts() == ["w1 w2 w3 w4 w5"]
    with pytest.raises(BadInputError, match="nothing to learn"):
        task_named("causal-lm").source(written(tmp_path, {"text": None}), RowOptions(skip_incomplete=True)).contents()


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            "{{ raise_exception('only two turns') }}",
            "line 1: the model's chat template does not take it (only two turns",
        ),
        ("{{ messages[0].content.foo.bar }}", "line 1: the model's chat template does not take it"),
        ("{{ 1 / 0 }}", "line 1: the model's chat template does not take it (division by zero)"),
        ("{{ messages.append(1) }}", "line 1: the model's chat template does not take it"),
        ("{% for %}", "line 1: the model's chat template is wrong"),
        ("{{ messages|length }}", "line 1: the model's chat template writes turn 1 differently"),
    ],
)
def test_a_template_that_fails_is_said_with_its_row(tokenizer: Path, template: str, why: str) -> None:
    messages = [{"role": "assistant", "content": "w1"}, {"role": "user", "content": "w2"}]
    with pytest.raises(BadInputError) as caught:
        load(tokenizer, {"messages": messages}, manifest=dataclasses.replace(WRITING, chat=Chat(template)))
    assert why in str(caught.value)


def test_a_chat_goes_through_the_manifest_and_has_a_bound() -> None:
    assert Manifest.from_bytes(WRITING.to_bytes()) == WRITING
    with pytest.raises(BadInputError, match="chat template has"):
        Chat("x" * (MOST_TEMPLATE + 1))
    broken: dict[str, Any] = {**json.loads(WRITING.to_bytes()), "chat": {"template": "x"}}
    with pytest.raises(BadInputError, match="not a model bundle"):
        Manifest.from_bytes(json.dumps(broken).encode())


def test_exact_matches_are_rows_whose_every_token_is_the_best(tokenizer: Path) -> None:
    dataset = load(tokenizer, ROW, {"prompt": "w9", "completion": " w7"})
    rows = np.arange(2)
    logits = np.zeros((2, 3, len(WORDS)), dtype=np.float32)
    for row, targets in enumerate(dataset.targets(rows)[:, :, 1]):
        logits[row, np.arange(3), np.maximum(targets, 0)] = 1
    assert TASK.counts(dataset, rows, logits) == (2, 2, 2.0)
    logits[0, 1] = 0
    assert TASK.counts(dataset, rows, logits) == (1, 2, pytest.approx(1 + 2 / 3))


def test_nobody_is_asked_for_a_completion_row_by_row(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="export it and generate"):
        TASK.to_predict(tmp_path, RowOptions(), tmp_path, WRITING)
