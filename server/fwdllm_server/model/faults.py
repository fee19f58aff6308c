"""What is said of a model that cannot be prepared: it will not be any better the next time."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from fwdllm_common.errors import BadInputError, FwdllmError
from fwdllm_common.files import storage_error

SUPPORTED = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "mobilebert",
    "modernbert",
    "mpnet",
    "roberta",
    "gpt2",
    "llama",
    "phi3",
    "qwen2",
    "smollm3",
)
"""Architectures, by transformers' ``model_type``, that are known to work; others of their kind mostly do."""
_MOST_SHOWN = 200
_NO_MEMORY = "allocate memory"

_Spec = TypeVar("_Spec")
_Others = ParamSpec("_Others")
_Prepare = Callable[Concatenate[_Spec, str, _Others], None]


def faults_named(prepare: _Prepare[_Spec, _Others]) -> _Prepare[_Spec, _Others]:
    """Have ``prepare(spec, source, …)`` say what the model at ``source`` is where it fails for an unforeseen reason.

    Exporters and models raise whatever they like, and what they say is not for the owner of a job. Memory that is short
    may be there the next time; anything else is in the model.
    """

    @wraps(prepare)
    def named(spec: _Spec, source: str, /, *others: _Others.args, **options: _Others.kwargs) -> None:
        try:
            prepare(spec, source, *others, **options)
        except FwdllmError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise storage_error(Path(error.filename or "the job's folder"), error) from error
            if isinstance(error, MemoryError) or _NO_MEMORY in str(error):
                raise FwdllmError(f"not enough memory to prepare {source!r}; free some and resume the job") from error
            raise BadInputError(
                f"{source!r} is {_kind(source)}, which cannot be prepared ({_reason(error)}); choose one of the "
                f"architectures that can: {', '.join(SUPPORTED)}"
            ) from error

    return named


def _kind(source: str) -> str:
    from fwdllm_server.model.load import model_type

    return f"a model of the architecture {model_type(source)!r}"


def _reason(error: BaseException) -> str:
    """The first line of the error that the others follow from."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}"[:_MOST_SHOWN]
