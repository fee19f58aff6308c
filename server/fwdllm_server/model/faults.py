"""The messages about a model that cannot be prepared, where trying again does not help."""

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
"""The architectures, by transformers' ``model_type``, that are known to work; similar ones mostly do."""
_MOST_SHOWN = 200
_NO_MEMORY = "allocate memory"

_Spec = TypeVar("_Spec")
_Others = ParamSpec("_Others")
_Prepare = Callable[Concatenate[_Spec, str, _Others], None]


def faults_named(prepare: _Prepare[_Spec, _Others]) -> _Prepare[_Spec, _Others]:
    """Wrap ``prepare(spec, source, …)`` so that an unforeseen error names the model at ``source``.

    Exporters and models raise arbitrary errors, whose messages do not help the owner of a job. A lack of memory may be
    temporary; any other error is the model's.
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
    """Return the first line of the error that caused the others."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}"[:_MOST_SHOWN]
