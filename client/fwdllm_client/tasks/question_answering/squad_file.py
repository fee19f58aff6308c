"""Reader of SQuAD's own format: articles of paragraphs of questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fwdllm_client.data.readers import ABSENT, Column, Record, json_rows, missing_column, whole_json
from fwdllm_common.errors import BadInputError


def read_questions(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """Read the records of a JSON file: rows as for :func:`read_json`, or SQuAD's questions, numbered from 1.

    A question has the columns ``question``, ``context``, ``answers``, ``title`` and ``id``. The whole file is held in
    memory.

    :raises BadInputError: the file is in neither format, or a column is missing.
    """
    value = whole_json(path)
    if isinstance(value, dict) and "data" in value:
        yield from _questions(path, value["data"], columns)
    else:
        yield from json_rows(path, value, columns)


def _questions(path: Path, articles: Any, columns: Sequence[Column]) -> Iterator[Record]:
    number = 0
    try:
        for number, (article, paragraph, question) in enumerate(_parts(articles), start=1):
            values = {
                "question": question["question"],
                "context": paragraph["context"],
                "answers": question["answers"],
                "title": article.get("title"),
                "id": question.get("id"),
            }
            for column in columns:
                if column.required and column.name not in values:
                    raise missing_column(str(path), column, list(values))
            yield number, tuple(values.get(column.name, ABSENT) for column in columns)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{path}: not a file in SQuAD's format (question {number}: {error!r}): data, paragraphs with a context, "
            "qas with a question and answers, each a text and an answer_start; or write rows as JSON Lines (.jsonl)"
        ) from error


def _parts(articles: Any) -> Iterator[tuple[Any, Any, Any]]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield article, paragraph, question
