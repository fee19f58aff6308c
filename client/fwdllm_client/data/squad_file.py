"""Records of a file in SQuAD's own format: articles of paragraphs of questions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fwdllm_client.data.readers import Record, missing_column, open_data
from fwdllm_common.errors import BadInputError


def read_squad(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """The questions, numbered from 1; columns are ``question``, ``context``, ``answer_start``, ``answer``, ``title``
    and ``id``, of which the answers' are lists. The whole file is in memory meanwhile.

    :raises BadInputError: the file is not in this format, or there is no such column.
    """
    for number, (article, paragraph, question) in enumerate(_questions(path), start=1):
        try:
            values = {
                "question": question["question"],
                "context": paragraph["context"],
                "answer_start": [answer["answer_start"] for answer in question["answers"]],
                "answer": [answer["text"] for answer in question["answers"]],
                "title": article.get("title"),
                "id": question.get("id"),
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise _not_squad(path, f"question {number}: {error!r}") from error
        for column in columns:
            if column not in values:
                raise missing_column(str(path), column, list(values))
        yield number, tuple(values[column] for column in columns)


def _questions(path: Path) -> Iterator[tuple[Any, Any, Any]]:
    try:
        with open_data(path) as file:
            articles = json.load(file)["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield article, paragraph, question
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_squad(path, repr(error)) from error


def _not_squad(path: Path, what: str) -> BadInputError:
    return BadInputError(
        f"{path}: not a file in SQuAD's format ({what}): data, paragraphs with a context, qas with a question and "
        "answers, each a text and an answer_start; or write rows as JSON Lines (.jsonl)"
    )
