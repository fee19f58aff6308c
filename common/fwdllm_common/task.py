"""The tasks a model can be trained for. The task defines labels, logits and a row of data."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal["classification", "question-answering"]

CLASSIFICATION: Task = "classification"
"""A row is a text and a label; the model returns a logit for each class."""
QUESTION_ANSWERING: Task = "question-answering"
"""A row is a question, a context and the answer's span in it; the model scores each token as its start and end."""
TASKS: tuple[Task, ...] = get_args(Task)
