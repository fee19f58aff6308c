"""The check that a job file's model exists, before minutes of preparation."""

from __future__ import annotations

from pathlib import Path

from fwdllm_common.errors import BadInputError

_ASK_S = 10.0
_KEPT = "config.json"
"""The file that shows that a model was downloaded before."""


def check_source(source: str) -> None:
    """Check that the model is a folder or a file, or else on the hub, which is asked once.

    :raises BadInputError: there is no model, or the hub does not answer and the model was not downloaded before.
    """
    if Path(source).exists():
        return
    # These take as long to load as the rest of the coordinator, and most sources are folders.
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(source, _KEPT), str):
            return
        HfApi().model_info(source, timeout=_ASK_S)
    except HFValidationError as error:
        raise BadInputError(
            f"[model] source: there is no {source}, and it is no id of a model on the hub; "
            "a path starts from the job file's folder"
        ) from error
    except RepositoryNotFoundError as error:
        raise BadInputError(
            f"[model] source: there is no folder {source}, and no such model on the hub; check the spelling, "
            "and for a private model 'hf auth login'"
        ) from error
    except Exception as error:  # of whatever HTTP library this version of the client has
        raise BadInputError(
            f"[model] source: there is no folder {source}, it was not downloaded before, and the hub does not answer "
            f"({' '.join(str(error).split())[:200]}); name a folder, or try again when the hub is reached"
        ) from error
