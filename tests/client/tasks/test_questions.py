"""Questions from their files, and as the model reads them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from common.bundles import MANIFEST
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from fwdllm_client.data import Contents, Dataset
from fwdllm_client.tasks.classification import DataSource
from fwdllm_client.tasks.question_answering import QuestionSource
from fwdllm_client.tasks.question_answering.rows import Question
from fwdllm_client.tasks.question_answering.spans import answer, best_span
from fwdllm_client.tasks.question_answering.squad_score import exact_match, f1
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest

ASKING = dataclasses.replace(MANIFEST, labels=(), task="question-answering", max_tokens=16, pad_token_id=0)
CONTEXT = "Ada wrote the first program in 1843."
ROW = {"question": "Who?", "context": CONTEXT, "answer_start": 0, "answer": "Ada"}
CSV = f'question,context,answer_start,answer,who\nWho?,"{CONTEXT}",0,Ada,x\nWhen?,"{CONTEXT}",31,1843,y\n'
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Ada",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {"id": "1", "question": "Who?", "answers": [{"answer_start": 0, "text": "Ada"}]},
                        {
                            "id": "2",
                            "question": "When?",
                            "answers": [
                                {"answer_start": 31, "text": "1843"},
                                {"answer_start": 28, "text": "in 1843"},
                            ],
                        },
                    ],
                }
            ],
        }
    ],
}


def written(folder: Path, name: str, data: object) -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_a_table_and_a_user_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", CSV)
    assert list(QuestionSource(path).rows()) == [
        Question(2, "Who?", CONTEXT, [0], ["Ada"]),
        Question(3, "When?", CONTEXT, [31], ["1843"]),
    ]
    assert [row.question for row in QuestionSource(path, "who", "y").rows()] == ["When?"]
    assert QuestionSource(path).values("who") == ["x", "y"]
    assert QuestionSource(path).contents() == Contents("question-answering", 2)


def test_squads_own_format_and_several_answers(tmp_path: Path) -> None:
    source = QuestionSource(written(tmp_path, "a.json", SQUAD))
    assert [(row.line, row.starts, row.answers) for row in source.rows()] == [
        (1, [0], ["Ada"]),
        (2, [31, 28], ["1843", "in 1843"]),
    ]
    assert source.values("title") == ["Ada", "Ada"]
    listed = {**ROW, "answer_start": [31, 28], "answer": ["1843", "in 1843"]}
    (row,) = QuestionSource(written(tmp_path, "a.jsonl", listed)).rows()
    assert (row.starts, row.answers) == ([31, 28], ["1843", "in 1843"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_start": 1}, "line 1: the context has 'da ' at character 1, not the answer 'Ada'; correct"),
        ({"answer_start": 1000}, "the context has '' at character 1000"),
        ({"answer_start": -1}, "'answer_start' is -1; it must be the character"),
        ({"answer_start": True}, "'answer_start' is True; it must be"),
        ({"answer_start": "first"}, "'answer_start' is 'first'; it must be"),
        ({"answer_start": [], "answer": []}, "none of its questions has an answer"),
        ({"answer_start": []}, "1 answers and 0 starts; every answer needs its start"),
        ({"answer_start": 1, "id": "5733be28"}, "line 1 (id '5733be28'): the context has 'da '"),
        ({"answers": {"text": ["Ada"]}}, "'answers' is {'text': ['Ada']}; it must be a struct"),
        ({"answers": 3}, "'answers' is 3; it must be a struct"),
        ({"answer_start": [0]}, None),
        ({"answer_start": [0, 0]}, "1 answers and 2 starts"),
        ({"answer": ""}, "'answer' is empty"),
        ({"question": None}, "'question' is not a text"),
        ({"context": 5}, "'context' is not a text"),
    ],
)
def test_what_is_wrong_with_a_row(change: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    source = QuestionSource(written(tmp_path, "a.jsonl", ROW | change))
    if message is None:
        assert len(list(source.rows())) == 1
        return
    with pytest.raises(BadInputError) as error:
        list(source.rows())
    assert message in str(error.value)


@pytest.mark.parametrize("data", ["", "[]", "{", '{"data": [{}]}', '{"data": 3}', "[" * 100_000])
def test_a_json_file_that_is_not_squads(data: str, tmp_path: Path) -> None:
    with pytest.raises(
        BadInputError, match=r"the file is empty|not a file in SQuAD's format|no rows|not a whole JSON object"
    ):
        list(QuestionSource(written(tmp_path, "a.json", data)).rows())


HF_ROWS = [
    {"id": "a", "question": "Who?", "context": CONTEXT, "answers": {"text": ["Ada"], "answer_start": [0]}},
    {
        "id": "b",
        "question": "When?",
        "context": CONTEXT,
        "answers": {"text": ["1843", "in 1843"], "answer_start": [31, 28]},
    },
    {"id": "c", "question": "Where?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json"])
def test_the_layout_of_datasets(name: str, tmp_path: Path) -> None:
    """And what it has no answer to is left out and counted, unless it is wanted."""
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(HF_ROWS), path)
    else:
        lines = map(json.dumps, HF_ROWS)
        path.write_text("\n".join(lines) if name == "a.jsonl" else f"[{','.join(lines)}]")
    source = QuestionSource(path)
    answered = [
        Question(1, "Who?", CONTEXT, [0], ["Ada"]),
        Question(2, "When?", CONTEXT, [31, 28], ["1843", "in 1843"]),
    ]
    assert list(source.rows()) == answered
    every = dataclasses.replace(source, no_answer=True)
    assert list(every.rows()) == [*answered, Question(3, "Where?", CONTEXT, [], [])]
    assert source.values("id") == ["a", "b"]
    assert every.values("id") == ["a", "b", "c"]
    with capture_logs() as logs:
        assert source.contents() == Contents("question-answering", 2, left_out=1)
        assert every.contents() == Contents("question-answering", 3)
    assert [(line["event"], line["rows"]) for line in logs] == [("questions without an answer are left out", 1)]


@pytest.mark.parametrize("missing", [{"answer_start": None, "answer": None}, {"answers": None}, {"answers": []}])
def test_nulls_are_questions_without_an_answer(missing: dict[str, Any], tmp_path: Path) -> None:
    plain = {"question": "Who?", "context": CONTEXT}
    source = QuestionSource(written(tmp_path, "a.jsonl", f"{json.dumps(ROW)}\n{json.dumps(plain | missing)}"))
    assert [row.line for row in source.rows()] == [1]
    assert [row.answers for row in dataclasses.replace(source, no_answer=True).rows()] == [["Ada"], []]


def test_a_question_is_named_by_its_id(tmp_path: Path) -> None:
    wrong = json.loads(json.dumps(SQUAD))
    wrong["data"][0]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] = 30
    with pytest.raises(BadInputError, match=r"a\.json, row 2 \(id '2'\): the context has ' 184' at character 30"):
        list(QuestionSource(written(tmp_path, "a.json", wrong)).rows())


def test_columns_without_answers_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no columns 'answer_start' and 'answer', nor 'answers'"):
        list(QuestionSource(written(tmp_path, "a.csv", "question,context\na,b\n")).rows())


def test_a_model_may_learn_that_there_is_no_answer(tmp_path: Path) -> None:
    """The first token is the answer then, and what is said where its score is the highest is nothing."""
    unknown = {**ROW, "question": "Where?", "answer_start": None, "answer": None}
    path = written(tmp_path, "a.jsonl", f"{json.dumps(ROW)}\n{json.dumps(unknown)}")
    tokenizer = words_tokenizer(tmp_path)
    assert len(Dataset.load(QuestionSource(path), tokenizer, ASKING)) == 1
    dataset = Dataset.load(QuestionSource(path), tokenizer, dataclasses.replace(ASKING, no_answer=True))
    assert dataset.labels.tolist() == [[4, 4], [0, 0]]
    assert dataset.learnable(np.arange(2)).all()
    assert [said(dataset, row) for row in (0, 1)] == ["Ada", ""]
    assert dataset.passages is not None
    assert f1("", dataset.passages.answers[1]) == exact_match("", dataset.passages.answers[1]) == 1


def test_the_manifest_says_whether_there_may_be_no_answer() -> None:
    asking = dataclasses.replace(ASKING, no_answer=True)
    assert Manifest.from_bytes(asking.to_bytes()) == asking
    assert b"no_answer" not in ASKING.to_bytes(), "older devices read what they always did"


def test_a_json_question_without_its_parts(tmp_path: Path) -> None:
    broken = {"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}
    with pytest.raises(BadInputError, match=r"question 1: KeyError\('answers'\)"):
        list(QuestionSource(written(tmp_path, "a.json", broken)).rows())


def words_tokenizer(folder: Path) -> Path:
    """Words and punctuation in lower case, pairs as BERT has them; published settings that are not the bundle's."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "ada": 4, "1843": 5}, "[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def bytes_tokenizer(folder: Path) -> Path:
    """Single bytes without anything between the texts, as decoders have them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({each: index for index, each in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def load(folder: Path, rows: Sequence[dict[str, Any]], max_tokens: int, tokenizer: Path | None = None) -> Dataset:
    path = written(folder, "a.jsonl", "\n".join(map(json.dumps, rows)))
    manifest: Manifest = dataclasses.replace(ASKING, max_tokens=max_tokens)
    return Dataset.load(QuestionSource(path), tokenizer or words_tokenizer(folder), manifest)


def said(dataset: Dataset, row: int) -> str:
    """What scores say that are highest at the span that is learnt."""
    scores = np.zeros((int(dataset.lengths[row]), 2), dtype=np.float32)
    first, last = dataset.labels[row]
    scores[first, 0] = scores[last, 1] = 1
    assert dataset.passages is not None
    return answer(dataset.passages, row, int(dataset.offsets[row]), scores)


def test_the_end_of_the_context_is_cut(tmp_path: Path) -> None:
    late = {**ROW, "question": "When?", "answer_start": 31, "answer": "1843"}
    dataset = load(tmp_path, [ROW, late], 8)
    assert dataset.token_ids[:8].tolist() == [2, 1, 1, 3, 4, 1, 1, 3]
    assert dataset.lengths.tolist() == [8, 8]
    assert dataset.labels.tolist() == [[4, 4], [-1, -1]]
    assert dataset.learnable(np.arange(2)).tolist() == [True, False]
    assert dataset.targets(np.arange(2)).tolist() == [[4, 4], [0, 0]]
    assert dataset.passages is not None
    assert dataset.passages.tokens.tolist() == [[4, 7], [4, 7]]
    whole = load(tmp_path, [ROW, late], 16)
    assert whole.labels.tolist() == [[4, 4], [10, 10]]
    assert [said(whole, row) for row in (0, 1)] == ["Ada", "1843"]
    assert whole.fingerprint != dataset.fingerprint


def test_a_question_that_leaves_no_room_is_never_answered(tmp_path: Path) -> None:
    dataset = load(tmp_path, [ROW, {**ROW, "question": "Who " * 20}], 8)
    assert dataset.lengths.tolist() == [8, 8]
    assert dataset.labels[1].tolist() == [-1, -1]
    assert dataset.passages is not None
    assert answer(dataset.passages, 1, int(dataset.offsets[1]), np.zeros((8, 2), dtype=np.float32)) == ""


def test_an_answer_within_a_token_is_that_token(tmp_path: Path) -> None:
    """And the spaces around it are none of it."""
    dataset = load(tmp_path, [{**ROW, "answer_start": 32, "answer": "84"}, {**ROW, "answer": "Ada wrote "}], 16)
    assert [said(dataset, row) for row in (0, 1)] == ["1843", "Ada wrote"]


def test_if_all_answers_are_cut_off_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no answer lies within the first 4 tokens .* raise \[model\] max_tokens"):
        load(tmp_path, [ROW], 4)


def test_rows_of_the_other_task_are_refused(tmp_path: Path) -> None:
    tokenizer = words_tokenizer(tmp_path)
    questions = QuestionSource(written(tmp_path, "a.csv", CSV))
    with pytest.raises(BadInputError, match="the model's task is classification, these rows are for another"):
        Dataset.load(questions, tokenizer, MANIFEST)
    with pytest.raises(BadInputError, match="the model's task is question-answering"):
        Dataset.load(DataSource(tmp_path / "a.csv"), tokenizer, ASKING)


@given(
    before=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
    wanted=st.text(st.characters(codec="utf-8", categories=["L", "N", "So"]), min_size=1, max_size=4),
    after=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
)
def test_any_characters_come_back(
    before: str, wanted: str, after: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Characters of several bytes are several tokens; the answer is found by characters all the same."""
    folder = tmp_path_factory.mktemp("bytes")
    row = {"question": "?", "context": before + wanted + after, "answer_start": len(before), "answer": wanted}
    assert said(load(folder, [row], 128, bytes_tokenizer(folder)), 0) == wanted


@given(st.lists(st.tuples(*[st.floats(-4, 4, width=32)] * 2), min_size=1, max_size=40))
def test_the_best_span_is_the_best_of_all(pairs: list[tuple[float, float]]) -> None:
    scores = np.array(pairs, dtype=np.float32)
    first, last = best_span(scores)
    assert 0 <= first <= last < min(len(scores), first + 30)
    sums = [scores[a, 0] + scores[b, 1] for a in range(len(scores)) for b in range(a, min(len(scores), a + 30))]
    assert scores[first, 0] + scores[last, 1] == max(sums)
