"""Write the model of a simulation as people use it."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import Connection

from fwdllm_common.files import storage_error
from fwdllm_common.layout import Layout
from fwdllm_common.replay import ModelState
from fwdllm_server.model.adapter import ExportFormat, name_base, write_adapter
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.views.model_card import model_card


def export_model_of(
    connection: Connection,
    record: JobRecord,
    model: JobFolder,
    layout: Layout,
    state: ModelState,
    out: Path,
    command: str,
    kind: ExportFormat = "peft",
) -> None:
    """Write ``state`` with tokenizer and card to the folder ``out``, which is replaced; ``command`` is for the card.

    :raises BadInputError: the model cannot be exported as ``kind``.
    :raises StorageError: the folder cannot be written.
    """
    card = model_card(connection, record, model.adapter, 0.0, command, simulated=True, state=state, kind=kind)
    partial, adapter = out.with_name(f".{out.name}.tmp"), out.with_name(f".{out.name}.adapter.tmp")
    try:
        for left in (partial, adapter):
            shutil.rmtree(left, ignore_errors=True)
        if kind == "peft":
            write_adapter(model.adapter, layout, state.theta, partial, card)
            name_base(partial, out)
        else:
            write_adapter(model.adapter, layout, state.theta, adapter, card)
            from fwdllm_server.model.standalone import convert  # torch and PEFT take seconds

            partial.mkdir(parents=True)
            convert(adapter, kind, partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        shutil.rmtree(adapter, ignore_errors=True)
