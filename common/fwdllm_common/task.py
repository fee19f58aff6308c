"""What a model is trained for: it says what labels, logits and a row of data are."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal["classification", "question-answering"]

CLASSIFICATION: Task = "classification"
"""A row is a text with a label; the model gives a logit for each class."""
QUESTION_ANSWERING: Task = "question-answering"
"""A row is a question, a context and the span in it that answers; the model scores each token as its start and end."""
TASKS: tuple[Task, ...] = get_args(Task)
